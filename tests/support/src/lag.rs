//! A network between a Redis master and its replica that delays what the master sends, or holds it. What is still on the
//! way when the master dies never arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How often bytes that wait are looked at.
const STEP: Duration = Duration::from_millis(1);

/// Listens on loopback until the test process ends.
pub struct Lag {
    pub port: u16,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    delay_ms: AtomicU64,
    is_held: AtomicBool,
}

impl Lag {
    /// A way to the master on this port, at first without a delay.
    pub fn before(master: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let way: Arc<Way> = Arc::default();
        let shared = way.clone();
        thread::spawn(move || {
            for replica in listener.incoming().map_while(Result::ok) {
                // Without a master the replica gets a connection that closes at once.
                if let Ok(master) = TcpStream::connect(("127.0.0.1", master)) {
                    connect(&master, &replica, &shared);
                }
            }
        });
        Self { port, way }
    }

    /// Delays what the master sends from now on.
    pub fn delay(&self, delay: Duration) {
        self.way.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Holds everything that has not arrived.
    pub fn hold(&self) {
        self.way.is_held.store(true, Ordering::SeqCst);
    }

    pub fn release(&self) {
        self.way.is_held.store(false, Ordering::SeqCst);
    }
}

fn connect(master: &TcpStream, replica: &TcpStream, way: &Arc<Way>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let [from_replica, to_replica] = [(); 2].map(|()| replica.try_clone().unwrap());
    let [from_master, to_master] = [(); 2].map(|()| master.try_clone().unwrap());
    to_replica.set_nodelay(true).unwrap();
    to_master.set_nodelay(true).unwrap();
    thread::spawn(move || {
        // An error means that one side is gone.
        drop(std::io::copy(&mut &from_replica, &mut &to_master));
        drop(to_master.shutdown(Shutdown::Both));
    });
    let (sent, arriving) = mpsc::channel();
    let master_is_gone = is_over.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = (&from_master).read(&mut buffer) {
            if sent.send((Instant::now(), buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        master_is_gone.store(true, Ordering::SeqCst);
    });
    let way = way.clone();
    thread::spawn(move || {
        for (at, bytes) in arriving {
            if !way.lets_pass(at, &is_over) || (&to_replica).write_all(&bytes).is_err() {
                break;
            }
        }
        drop(to_replica.shutdown(Shutdown::Both));
    });
}

impl Way {
    /// Waits until bytes that were sent at this time arrive; `false` if the master is gone before.
    fn lets_pass(&self, sent_at: Instant, is_over: &AtomicBool) -> bool {
        loop {
            if is_over.load(Ordering::SeqCst) {
                return false;
            }
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::SeqCst));
            if !self.is_held.load(Ordering::SeqCst) && sent_at.elapsed() >= delay {
                return true;
            }
            thread::sleep(STEP);
        }
    }
}
