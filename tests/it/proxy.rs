//! A proxy before Redis that a test can tell to hold a command back, or to cut a connection at it: what a
//! bad network does, but at a known moment. It reads commands and passes on bytes; it changes none.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::harness::until;

/// Listens on loopback for as long as the test runs.
pub struct Proxy {
    pub url: String,
    traps: Arc<Mutex<Vec<Arc<Shared>>>>,
}

/// What happens to the first command that contains a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Its connection waits, the command unsent, until the trap is released.
    Hold,
    /// Its connection breaks, the command unsent.
    Cut,
    /// Redis executes it; its connection breaks instead of carrying the reply.
    CutReply,
}

/// One command's fate. Dropped, it lets the command go.
pub struct Trap {
    shared: Arc<Shared>,
}

struct Shared {
    /// Each must occur in one of the command's arguments.
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

impl Proxy {
    /// Leads to the Redis at this socket.
    pub fn before(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let traps: Arc<Mutex<Vec<Arc<Shared>>>> = Arc::default();
        let (socket, seen) = (socket.to_owned(), Arc::clone(&traps));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                connect(client, &socket, &seen);
            }
        });
        Self { url, traps }
    }

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
    /// Waits until a command is held here.
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

    /// Takes the command if the trap is still set and the command is the one.
    fn takes(&self, command: &[u8]) -> bool {
        let mut state = self.state.lock().unwrap();
        let takes = *state == State::Set && self.needles.iter().all(|needle| contains(command, needle));
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

fn connect(client: TcpStream, socket: &Path, traps: &Arc<Mutex<Vec<Arc<Shared>>>>) {
    // Without a Redis there the client sees a connection that breaks at once.
    let Ok(redis) = UnixStream::connect(socket) else { return };
    client.set_nodelay(true).unwrap();
    let muted = Arc::new(AtomicBool::new(false));
    let replies = {
        let (muted, redis) = (Arc::clone(&muted), redis.try_clone().unwrap());
        let client = client.try_clone().unwrap();
        thread::spawn(move || pass_replies(&redis, &client, &muted))
    };
    let traps = Arc::clone(traps);
    thread::spawn(move || {
        let cut = pass_commands(&client, &redis, &traps, &muted);
        if cut.as_ref().is_some_and(|cut| cut.act == Act::CutReply) {
            // The reply tells that the command was executed.
            replies.join().unwrap();
        }
        drop(client.shutdown(Shutdown::Both));
        drop(redis.shutdown(Shutdown::Both));
        if let Some(cut) = cut {
            cut.end();
        }
    });
}

/// Until one side ends, or a reply comes that is not to be passed on.
fn pass_replies(mut redis: &UnixStream, mut client: &TcpStream, muted: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = redis.read(&mut buffer) {
        if muted.load(Ordering::SeqCst) || client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(client.shutdown(Shutdown::Both));
    drop(redis.shutdown(Shutdown::Both));
}

/// Passes commands on, one by one, until one side ends or a trap cuts the connection.
fn pass_commands(
    mut client: &TcpStream,
    mut redis: &UnixStream,
    traps: &Mutex<Vec<Arc<Shared>>>,
    muted: &AtomicBool,
) -> Option<Arc<Shared>> {
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        waiting.extend_from_slice(&buffer[..length]);
        while let Some(end) = command_end(&waiting) {
            let command: Vec<u8> = waiting.drain(..end).collect();
            let taken = traps.lock().unwrap().iter().find(|trap| trap.takes(&command)).cloned();
            match taken {
                Some(trap) if trap.act == Act::Hold => trap.wait_for_release(),
                Some(trap) if trap.act == Act::Cut => return Some(trap),
                Some(trap) => {
                    muted.store(true, Ordering::SeqCst);
                    drop(redis.write_all(&command));
                    return Some(trap);
                }
                None => {}
            }
            if redis.write_all(&command).is_err() {
                return None;
            }
        }
    }
    None
}

/// Where the first command ends (an array of bulk strings, as clients send them); `None` if it is not whole.
fn command_end(bytes: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let length = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at + 1..at + length]).unwrap();
        Some((text.parse::<usize>().unwrap(), at + length + 2))
    };
    let (arguments, mut at) = number(0)?;
    for _ in 0..arguments {
        let (length, start) = number(at)?;
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some(at)
}

fn contains(command: &[u8], needle: &str) -> bool {
    command.windows(needle.len()).any(|window| window == needle.as_bytes())
}
