//! Postgres's wire protocol 3.0: finds the ends of requests and replies, and the statements that the requests execute.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;

use super::Request;

const VERSION_3: u32 = 0x0003_0000;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// What the client of one connection has sent so far.
#[derive(Default)]
pub struct Session {
    is_started: bool,
    /// Text of each prepared statement.
    statements: HashMap<Vec<u8>, String>,
    /// What the open transaction has executed; `None` outside a transaction.
    transaction: Option<Vec<u8>>,
}

impl Session {
    /// The first messages up to the point at which the client waits for an answer; `None` if they are not complete.
    pub fn next_request(&mut self, waiting: &mut Vec<u8>, client: &TcpStream) -> Option<Request> {
        if !self.is_started {
            return self.next_greeting(waiting, client);
        }
        let mut end = 0;
        loop {
            let kind = *waiting.get(end)?;
            end += 1 + usize::try_from(number(waiting, end + 1)?).unwrap();
            // After Parse, Bind, Describe, Execute and Close the client waits for no answer before a Sync.
            if !b"PBDEC".contains(&kind) {
                break;
            }
        }
        (end <= waiting.len()).then(|| self.read_run(waiting.drain(..end).collect()))
    }

    /// The first messages, which have no type, up to the message with user and database.
    fn next_greeting(&mut self, waiting: &mut Vec<u8>, mut client: &TcpStream) -> Option<Request> {
        loop {
            let length = usize::try_from(number(waiting, 0)?).unwrap();
            let code = number(waiting, 4)?;
            if waiting.len() < length {
                return None;
            }
            let bytes: Vec<u8> = waiting.drain(..length).collect();
            if [SSL_REQUEST, GSSENC_REQUEST].contains(&code) {
                // Refuses encryption: the proxy could not read encrypted messages.
                client.write_all(b"N").ok()?;
                continue;
            }
            self.is_started = code == VERSION_3;
            let is_answered = self.is_started;
            return Some(Request {
                bytes,
                sql: String::new(),
                before: Vec::new(),
                executes: false,
                is_answered,
            });
        }
    }

    fn read_run(&mut self, bytes: Vec<u8>) -> Request {
        let (mut sql, mut executes, mut is_answered) = (String::new(), false, false);
        let mut rest = bytes.as_slice();
        while let Some(&kind) = rest.first() {
            let (message, after) = rest.split_at(1 + usize::try_from(number(rest, 1).unwrap()).unwrap());
            let body = &message[5..];
            match kind {
                b'P' => {
                    let (name, text) = split_text(body);
                    self.statements.insert(name.to_owned(), as_text(split_text(text).0));
                }
                b'B' => {
                    let (statement, _) = split_text(split_text(body).1);
                    sql += self.statements.get(statement).map_or("", String::as_str);
                }
                b'C' if body[0] == b'S' => drop(self.statements.remove(split_text(&body[1..]).0)),
                b'Q' => sql += &as_text(split_text(body).0),
                _ => {}
            }
            executes |= b"EQ".contains(&kind);
            is_answered |= b"SQ".contains(&kind);
            rest = after;
        }
        let before = self.track_transaction(&sql, &bytes);
        Request { bytes, sql, before, executes, is_answered }
    }

    /// Adds a request to its transaction; returns what the transaction executed before it.
    fn track_transaction(&mut self, sql: &str, bytes: &[u8]) -> Vec<u8> {
        let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let before = match first.as_str() {
            "BEGIN" => self.transaction.replace(Vec::new()),
            "COMMIT" | "ROLLBACK" => self.transaction.take(),
            _ => self.transaction.clone(),
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.extend(sql.bytes().chain(bytes.iter().copied()));
        }
        before.unwrap_or_default()
    }
}

/// How far the first reply has been read.
#[derive(Default)]
pub struct ReplyScan {
    at: usize,
}

impl ReplyScan {
    /// The end of the first reply, a `ReadyForQuery` message; `None` if it is not complete.
    pub fn reply_end(&mut self, bytes: &[u8]) -> Option<usize> {
        loop {
            let kind = *bytes.get(self.at)?;
            let end = self.at + 1 + usize::try_from(number(bytes, self.at + 1)?).unwrap();
            if end > bytes.len() {
                return None;
            }
            self.at = end;
            if kind == b'Z' {
                self.at = 0;
                return Some(end);
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().unwrap()))
}

/// Splits at the NUL: the text before it, and the bytes after it.
fn split_text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    (&bytes[..end], &bytes[end + 1..])
}

fn as_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
