//! A proxy before Redis or Postgres that a test controls. The proxy can hold a request, cut a connection at a request
//! or at its reply, delay requests, or refuse connections. It passes whole requests and replies on unchanged. `resp`
//! and `postgres` know the wire protocols, `trap` finds the request that a test waits for, `meter` counts requests and
//! replies.

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

pub use meter::{Meter, MeterFault};
pub use trap::{Trap, TrapAction};

/// The command that runs a stored script. The probe is sent with EVAL and has the word EVALSHA in its source.
pub const EVALSHA: &str = "\r\nEVALSHA\r\n";
/// Texts in a worker's acknowledgement: no other stored script gets all of these keys and names.
pub const ACKNOWLEDGEMENT: [&str; 3] = [EVALSHA, "postgres_lsn", "order-writers"];

/// Listens on loopback until the test process ends.
pub struct Proxy {
    pub url: String,
    /// The setting of the program that gets the proxy's URL.
    pub setting: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    store: Store,
    meter: Meter,
    traps: Mutex<Vec<Arc<trap::Shared>>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Delay of each request, ms.
    delay_ms: AtomicU64,
    is_refusing: AtomicBool,
}

#[derive(Clone, Copy)]
enum Store {
    Redis,
    Postgres,
}

/// A command of Redis, or the messages that a client of Postgres sends before it waits for an answer.
struct Request {
    bytes: Vec<u8>,
    /// The text of the prepared statements that the request names.
    sql: String,
    /// What its transaction has executed before this request.
    before: Vec<u8>,
    /// False if the request only prepares a statement: traps ignore such a request.
    executes: bool,
    is_answered: bool,
}

impl Request {
    /// Whether the request contains the first needle, and the request or its transaction so far contains each other
    /// needle.
    fn matches(&self, needles: &[String]) -> bool {
        let has = |needle: &str| contains(&self.bytes, needle) || self.sql.contains(needle);
        self.executes
            && needles.first().is_none_or(|needle| has(needle))
            && needles.iter().skip(1).all(|needle| has(needle) || contains(&self.before, needle))
    }
}

impl Proxy {
    /// A proxy before the store at this socket: Postgres if the file has the name of a Postgres socket, else Redis.
    pub fn before(socket: &Path) -> Self {
        Self::metered(socket, &Meter::default())
    }

    /// As `before`, with a meter that counts all requests and replies.
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
            connections: Mutex::default(),
            delay_ms: AtomicU64::new(0),
            is_refusing: AtomicBool::new(false),
        });
        listen(listener, &shared);
        Self { url, setting, address, shared }
    }

    /// Sets a trap that holds the first request that contains the needles. With Postgres, a needle can be a part of a
    /// prepared statement's text or of a parameter; BEGIN, COMMIT and ROLLBACK are requests too. The first needle must
    /// be in the request itself; the others may be in earlier requests of its transaction.
    pub fn hold(&self, needles: &[&str]) -> Trap {
        self.set_trap(TrapAction::Hold, needles)
    }

    /// Sets a trap that cuts the connection before it sends the request.
    pub fn cut(&self, needles: &[&str]) -> Trap {
        self.set_trap(TrapAction::Cut, needles)
    }

    /// Sets a trap that sends the request and cuts the connection before its reply.
    pub fn cut_reply(&self, needles: &[&str]) -> Trap {
        self.set_trap(TrapAction::CutReply, needles)
    }

    /// Sets a trap that sends the request and holds its reply.
    pub fn hold_reply(&self, needles: &[&str]) -> Trap {
        self.set_trap(TrapAction::HoldReply, needles)
    }

    pub fn set_trap(&self, action: TrapAction, needles: &[&str]) -> Trap {
        let trap = Trap::new(needles, action);
        self.shared.traps.lock().unwrap().push(Arc::clone(&trap.shared));
        trap
    }

    /// Delays each request by this time from now on.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Cuts all connections and refuses new ones, as a port without a listener does.
    pub fn refuse(&self) {
        self.shared.is_refusing.store(true, Ordering::SeqCst);
        // Wakes the listener, which closes the port.
        while TcpStream::connect(self.address).is_ok() {}
        for connection in
            self.shared.connections.lock().unwrap().drain(..).filter_map(|connection| connection.upgrade())
        {
            connection.cut();
        }
    }

    pub fn accept_again(&self) {
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
            // Without a store the client gets a connection that closes at once.
            if let Ok(server) = UnixStream::connect(&shared.socket) {
                connect(client, server, &shared);
            }
        }
    });
}

/// Both sides of one connection.
struct Connection {
    client: TcpStream,
    server: UnixStream,
    /// The number, from 1, of the reply at which the connection is cut instead.
    cut_at_reply: AtomicU64,
    /// The number of the reply that waits for its trap.
    held_reply: Mutex<Option<(u64, Arc<trap::Shared>)>>,
}

impl Connection {
    fn cut(&self) {
        // Either side may be closed already.
        drop(self.client.shutdown(Shutdown::Both));
        drop(self.server.shutdown(Shutdown::Both));
    }
}

fn connect(client: TcpStream, server: UnixStream, shared: &Arc<Shared>) {
    client.set_nodelay(true).unwrap();
    let connection = Arc::new(Connection {
        client,
        server,
        cut_at_reply: AtomicU64::new(u64::MAX),
        held_reply: Mutex::default(),
    });
    shared.connections.lock().unwrap().push(Arc::downgrade(&connection));
    let replies = {
        let (connection, shared) = (Arc::clone(&connection), Arc::clone(shared));
        thread::spawn(move || {
            pass_replies(&connection, &shared);
            connection.cut();
        })
    };
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let cut = pass_requests(&connection, &shared);
        if cut.as_ref().is_some_and(|cut| cut.action == TrapAction::CutReply) {
            // Waits for the reply: then the store has executed the request.
            replies.join().unwrap();
        }
        connection.cut();
        if let Some(cut) = cut {
            cut.done();
        }
    });
}

/// Passes replies on until one side closes, or until the reply at which the connection is cut.
fn pass_replies(connection: &Connection, shared: &Shared) {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut scan = postgres::ReplyScan::default();
    let mut number = 0;
    while let Ok(length @ 1..) = (&connection.server).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(end) = match shared.store {
            Store::Redis => resp::reply_end(&waiting),
            Store::Postgres => scan.reply_end(&waiting),
        } {
            number += 1;
            let reply: Vec<u8> = waiting.drain(..end).collect();
            let held = connection.held_reply.lock().unwrap().take_if(|(at, _)| *at == number);
            if let Some((_, trap)) = held {
                trap.wait_for_release();
            }
            let is_cut = number == connection.cut_at_reply.load(Ordering::SeqCst);
            if is_cut || !shared.meter.lets_pass("reply", &reply) {
                return;
            }
            if (&connection.client).write_all(&reply).is_err() {
                return;
            }
        }
    }
    // Passes on an incomplete reply, such as Postgres's reason for refusing a connection.
    drop((&connection.client).write_all(&waiting));
}

/// Passes requests on, one by one, until one side closes or a trap cuts the connection.
fn pass_requests(connection: &Connection, shared: &Shared) -> Option<Arc<trap::Shared>> {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut session = postgres::Session::default();
    let mut answered = 0;
    while let Ok(length @ 1..) = (&connection.client).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(request) = match shared.store {
            Store::Redis => resp::next_command(&mut waiting),
            Store::Postgres => session.next_request(&mut waiting, &connection.client),
        } {
            answered += u64::from(request.is_answered);
            thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst)));
            let trap = shared.traps.lock().unwrap().iter().find(|trap| trap.takes(&request)).cloned();
            if let Some(trap) = trap {
                let is_sent = match trap.action {
                    TrapAction::Hold => trap.wait_for_release(),
                    TrapAction::HoldReply => {
                        *connection.held_reply.lock().unwrap() = Some((answered, trap));
                        true
                    }
                    TrapAction::Cut => return Some(trap),
                    TrapAction::CutReply => {
                        connection.cut_at_reply.store(answered, Ordering::SeqCst);
                        drop((&connection.server).write_all(&request.bytes));
                        return Some(trap);
                    }
                };
                if !is_sent {
                    return None;
                }
            }
            let passes = shared.meter.lets_pass("request", &request.bytes);
            if !passes || (&connection.server).write_all(&request.bytes).is_err() {
                return None;
            }
        }
    }
    None
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}
