//! A proxy before Redis or Postgres that a test can tell to hold a request back, to cut a connection at it,
//! to be slow or to refuse: what a bad network does, but at a known moment. It reads requests and replies
//! whole and passes them on as they are; what they look like on each store's wire is in the files below.

mod meter;
mod postgres;
mod resp;
mod trap;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

pub use meter::{Meter, Strike};
pub use trap::{Act, Trap};

/// An acknowledgement of a worker's: the only script that is given these keys and names.
pub const ACKNOWLEDGEMENT: [&str; 3] = ["EVALSHA", "postgres_lsn", "order-writers"];

/// Listens on loopback for as long as the test runs.
pub struct Proxy {
    pub url: String,
    /// The setting that takes the address.
    pub setting: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    store: Store,
    meter: Meter,
    traps: Mutex<Vec<Arc<trap::Shared>>>,
    links: Mutex<Vec<Weak<Link>>>,
    /// How long each request is on its way, ms.
    delay_ms: AtomicU64,
    is_refusing: AtomicBool,
}

#[derive(Clone, Copy)]
enum Store {
    Redis,
    Postgres,
}

/// A command of Redis, or a run of Postgres's messages up to the point where the client waits.
struct Request {
    bytes: Vec<u8>,
    /// Its text where the bytes only name it: that of prepared statements.
    sql: String,
    /// What its transaction has executed before it.
    before: Vec<u8>,
    /// False for what only prepares: no trap takes it.
    executes: bool,
    is_answered: bool,
}

impl Request {
    /// Whether it contains the first needle, and each of the others or its transaction has before.
    fn is_meant_by(&self, needles: &[String]) -> bool {
        let has = |needle: &str| contains(&self.bytes, needle) || self.sql.contains(needle);
        self.executes
            && needles.first().is_none_or(|needle| has(needle))
            && needles.iter().skip(1).all(|needle| has(needle) || contains(&self.before, needle))
    }
}

impl Proxy {
    /// Leads to the store at this socket, which is Postgres's if it is named as Postgres names its own.
    pub fn before(socket: &Path) -> Self {
        Self::metered(socket, &Meter::default())
    }

    /// The same, where all that passes is numbered.
    pub fn metered(socket: &Path, meter: &Meter) -> Self {
        let is_postgres = socket.file_name().is_some_and(|name| name == ".s.PGSQL.5432");
        let store = if is_postgres { Store::Postgres } else { Store::Redis };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (setting, url) = match store {
            Store::Redis => ("REDIS_URL", format!("redis://{address}")),
            Store::Postgres => ("DATABASE_URL", format!("postgres://seckill@{address}/seckill")),
        };
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            store,
            meter: meter.clone(),
            traps: Mutex::default(),
            links: Mutex::default(),
            delay_ms: AtomicU64::new(0),
            is_refusing: AtomicBool::new(false),
        });
        listen(listener, &shared);
        Self { url, setting, address, shared }
    }

    /// Of Postgres, prepared statements are known by their text and parameters by their bytes, as texts;
    /// BEGIN, COMMIT and ROLLBACK are requests too. The first needle must be in the request itself, the
    /// others may be in what its transaction has executed before.
    pub fn hold(&self, needles: &[&str]) -> Trap {
        self.set(Act::Hold, needles)
    }

    pub fn cut(&self, needles: &[&str]) -> Trap {
        self.set(Act::Cut, needles)
    }

    pub fn cut_reply(&self, needles: &[&str]) -> Trap {
        self.set(Act::CutReply, needles)
    }

    pub fn set(&self, act: Act, needles: &[&str]) -> Trap {
        let trap = Trap::new(needles, act);
        self.shared.traps.lock().unwrap().push(Arc::clone(&trap.shared));
        trap
    }

    /// Each request is on its way for this long, from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Cuts all connections and refuses new ones, as a port does on which nobody listens.
    pub fn refuse(&self) {
        self.shared.is_refusing.store(true, Ordering::SeqCst);
        // Wakes the listener, which closes the port.
        while TcpStream::connect(self.address).is_ok() {}
        for link in self.shared.links.lock().unwrap().drain(..).filter_map(|link| link.upgrade()) {
            link.cut();
        }
    }

    pub fn refuse_no_more(&self) {
        self.shared.is_refusing.store(false, Ordering::SeqCst);
        listen(TcpListener::bind(self.address).unwrap(), &self.shared);
    }
}

fn listen(listener: TcpListener, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            if shared.is_refusing.load(Ordering::SeqCst) {
                return;
            }
            // Without a store there the client sees a connection that breaks at once.
            if let Ok(server) = UnixStream::connect(&shared.socket) {
                connect(client, server, &shared);
            }
        }
    });
}

/// Both ends of one connection.
struct Link {
    client: TcpStream,
    server: UnixStream,
    /// Number of the reply, from 1, instead of which the connection breaks.
    last_reply: AtomicU64,
}

impl Link {
    fn cut(&self) {
        // Either end may be closed already.
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }
}

fn connect(client: TcpStream, server: UnixStream, shared: &Arc<Shared>) {
    client.set_nodelay(true).unwrap();
    let link = Arc::new(Link { client, server, last_reply: AtomicU64::new(u64::MAX) });
    shared.links.lock().unwrap().push(Arc::downgrade(&link));
    let replies = {
        let (link, shared) = (Arc::clone(&link), Arc::clone(shared));
        thread::spawn(move || {
            pass_replies(&link, &shared);
            link.cut();
        })
    };
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let cut = pass_requests(&link, &shared);
        if cut.as_ref().is_some_and(|cut| cut.act == Act::CutReply) {
            // The reply tells that the request was executed.
            replies.join().unwrap();
        }
        link.cut();
        if let Some(cut) = cut {
            cut.done();
        }
    });
}

/// Until one side ends, or a reply comes that is not to be passed on.
fn pass_replies(link: &Link, shared: &Shared) {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut scan = postgres::ReplyScan::default();
    let mut number = 0;
    while let Ok(length @ 1..) = (&link.server).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(end) = match shared.store {
            Store::Redis => resp::reply_end(&waiting),
            Store::Postgres => scan.reply_end(&waiting),
        } {
            number += 1;
            let reply: Vec<u8> = waiting.drain(..end).collect();
            let is_last = number == link.last_reply.load(Ordering::SeqCst);
            if is_last || !shared.meter.lets_pass("reply", &reply) {
                return;
            }
            if (&link.client).write_all(&reply).is_err() {
                return;
            }
        }
    }
    // A last word, such as Postgres's reason for refusing a connection.
    drop((&link.client).write_all(&waiting));
}

/// Passes requests on, one by one, until one side ends or a trap cuts the connection.
fn pass_requests(link: &Link, shared: &Shared) -> Option<Arc<trap::Shared>> {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut session = postgres::Session::default();
    let mut answered = 0;
    while let Ok(length @ 1..) = (&link.client).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(request) = match shared.store {
            Store::Redis => resp::next_command(&mut waiting),
            Store::Postgres => session.next_request(&mut waiting, &link.client),
        } {
            answered += u64::from(request.is_answered);
            thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst)));
            let trap = shared.traps.lock().unwrap().iter().find(|trap| trap.takes(&request)).cloned();
            if let Some(trap) = trap {
                let is_sent = match trap.act {
                    Act::Hold => trap.wait_for_release(),
                    Act::Cut => return Some(trap),
                    Act::CutReply => {
                        link.last_reply.store(answered, Ordering::SeqCst);
                        drop((&link.server).write_all(&request.bytes));
                        return Some(trap);
                    }
                };
                if !is_sent {
                    return None;
                }
            }
            let passes = shared.meter.lets_pass("request", &request.bytes);
            if !passes || (&link.server).write_all(&request.bytes).is_err() {
                return None;
            }
        }
    }
    None
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}
