//! A proxy before Redis or Postgres that a test can tell to hold a request back, or to cut a connection at
//! it: what a bad network does, but at a known moment. It reads requests and replies whole and passes them
//! on as they are; what they look like on each store's wire is in the files below.

mod postgres;
mod resp;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::harness::until;

/// Listens on loopback for as long as the test runs.
pub struct Proxy {
    pub url: String,
    /// The setting that takes the address.
    pub setting: &'static str,
    traps: Traps,
}

type Traps = Arc<Mutex<Vec<Arc<Shared>>>>;

/// What happens to the first request that contains a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Its connection waits, the request unsent, until the trap is released.
    Hold,
    /// Its connection breaks, the request unsent.
    Cut,
    /// The store executes it; its connection breaks instead of carrying the reply.
    CutReply,
}

/// One request's fate. Dropped, it lets the request go.
pub struct Trap {
    shared: Arc<Shared>,
}

struct Shared {
    needles: Vec<String>,
    act: Act,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Set,
    Taken,
    /// The act is over: released, cut, or executed and cut.
    Done,
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

#[derive(Clone, Copy)]
enum Store {
    Redis,
    Postgres,
}

impl Proxy {
    /// Leads to the store at this socket, which is Postgres's if it is named as Postgres names its own.
    pub fn before(socket: &Path) -> Self {
        let is_postgres = socket.file_name().is_some_and(|name| name == ".s.PGSQL.5432");
        let store = if is_postgres { Store::Postgres } else { Store::Redis };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (setting, url) = match store {
            Store::Redis => ("REDIS_URL", format!("redis://{address}")),
            Store::Postgres => ("DATABASE_URL", format!("postgres://seckill@{address}/seckill")),
        };
        let traps = Traps::default();
        let (socket, seen) = (socket.to_owned(), Arc::clone(&traps));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Without a store there the client sees a connection that breaks at once.
                if let Ok(server) = UnixStream::connect(&socket) {
                    connect(client, server, store, &seen);
                }
            }
        });
        Self { url, setting, traps }
    }

    /// Of Postgres, prepared statements are known by their text and parameters by their bytes, as texts;
    /// BEGIN, COMMIT and ROLLBACK are requests too. The first needle must be in the request itself, the
    /// others may be in what its transaction has executed before.
    pub fn hold(&self, needles: &[&str]) -> Trap {
        self.set(needles, Act::Hold)
    }

    pub fn cut(&self, needles: &[&str]) -> Trap {
        self.set(needles, Act::Cut)
    }

    pub fn cut_reply(&self, needles: &[&str]) -> Trap {
        self.set(needles, Act::CutReply)
    }

    fn set(&self, needles: &[&str], act: Act) -> Trap {
        let needles = needles.iter().map(|needle| (*needle).to_owned()).collect();
        let shared =
            Arc::new(Shared { needles, act, state: Mutex::new(State::Set), changed: Condvar::new() });
        self.traps.lock().unwrap().push(Arc::clone(&shared));
        Trap { shared }
    }
}

impl Trap {
    /// Waits until a request is held here.
    pub async fn until_taken(&self) {
        self.until(State::Taken).await;
    }

    /// Waits until the connection is cut.
    pub async fn until_done(&self) {
        self.until(State::Done).await;
    }

    async fn until(&self, state: State) {
        let what = format!("the proxy sees {:?}", self.shared.needles);
        until(&what, async || (*self.shared.state.lock().unwrap() == state).then_some(())).await;
    }

    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        *self.state.lock().unwrap() = State::Done;
        self.changed.notify_all();
    }

    /// Takes the request if the trap is still set and the request is the one.
    fn takes(&self, request: &Request) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = *state == State::Set && request.is_meant_by(&self.needles);
        if takes {
            *state = State::Taken;
        }
        takes
    }

    fn wait_for_release(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| *state != State::Done).unwrap());
    }
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

fn connect(client: TcpStream, server: UnixStream, store: Store, traps: &Traps) {
    client.set_nodelay(true).unwrap();
    let link = Arc::new(Link { client, server, last_reply: AtomicU64::new(u64::MAX) });
    let replies = {
        let link = Arc::clone(&link);
        thread::spawn(move || {
            pass_replies(&link, store);
            link.cut();
        })
    };
    let traps = Arc::clone(traps);
    thread::spawn(move || {
        let cut = pass_requests(&link, store, &traps);
        if cut.as_ref().is_some_and(|cut| cut.act == Act::CutReply) {
            // The reply tells that the request was executed.
            replies.join().unwrap();
        }
        link.cut();
        if let Some(cut) = cut {
            cut.end();
        }
    });
}

/// Until one side ends, or a reply comes that is not to be passed on.
fn pass_replies(link: &Link, store: Store) {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut scan = postgres::ReplyScan::default();
    let mut number = 0;
    while let Ok(length @ 1..) = (&link.server).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(end) = match store {
            Store::Redis => resp::reply_end(&waiting),
            Store::Postgres => scan.reply_end(&waiting),
        } {
            number += 1;
            let reply: Vec<u8> = waiting.drain(..end).collect();
            if number == link.last_reply.load(Ordering::SeqCst) || (&link.client).write_all(&reply).is_err() {
                return;
            }
        }
    }
    // A last word, such as Postgres's reason for refusing a connection.
    drop((&link.client).write_all(&waiting));
}

/// Passes requests on, one by one, until one side ends or a trap cuts the connection.
fn pass_requests(link: &Link, store: Store, traps: &Mutex<Vec<Arc<Shared>>>) -> Option<Arc<Shared>> {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    let mut session = postgres::Session::default();
    let mut answered = 0;
    while let Ok(length @ 1..) = (&link.client).read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(request) = match store {
            Store::Redis => resp::next_command(&mut waiting),
            Store::Postgres => session.next_request(&mut waiting, &link.client),
        } {
            answered += u64::from(request.is_answered);
            let taken = traps.lock().unwrap().iter().find(|trap| trap.takes(&request)).cloned();
            match taken {
                Some(trap) if trap.act == Act::Hold => trap.wait_for_release(),
                Some(trap) if trap.act == Act::Cut => return Some(trap),
                Some(trap) => {
                    link.last_reply.store(answered, Ordering::SeqCst);
                    drop((&link.server).write_all(&request.bytes));
                    return Some(trap);
                }
                None => {}
            }
            if (&link.server).write_all(&request.bytes).is_err() {
                return None;
            }
        }
    }
    None
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}
