//! Splits the bytes of an append-only file into transactions: one command, or the commands between MULTI and EXEC. A
//! library reads RESP; each command must be in the one form that Redis writes.

use bytes::Bytes;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::{Place, Violation};

/// The words of one command.
pub type Command = Vec<Bytes>;

/// Commands that Redis ran in one step.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub place: Place,
    pub commands: Vec<Command>,
}

/// An incomplete transaction at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub place: Place,
    pub bytes: usize,
}

/// Reads one file.
pub struct Reader {
    file: usize,
    bytes: Bytes,
    at: usize,
    /// Whether a crash may have cut the end of this file.
    is_last: bool,
    tail: Option<Tail>,
    /// The whole commands of the incomplete transaction.
    pub in_tail: Vec<Command>,
}

impl Reader {
    pub fn new(file: usize, bytes: Bytes, is_last: bool) -> Self {
        Self { file, bytes, at: 0, is_last, tail: None, in_tail: Vec::new() }
    }

    /// The incomplete transaction at the end, after the last one was read.
    pub const fn tail(&self) -> Option<Tail> {
        self.tail
    }

    /// The next transaction; `None` at the end.
    ///
    /// # Errors
    /// If the bytes are not commands as Redis writes them.
    pub fn next_transaction(&mut self) -> Result<Option<Transaction>, Violation> {
        self.skip_annotations();
        let place = Place { file: self.file, offset: self.at };
        let Some(first) = self.next_command(place)? else { return Ok(None) };
        if first[..] != [&b"MULTI"[..]] {
            return Ok(Some(Transaction { place, commands: vec![first] }));
        }
        let mut commands = Vec::new();
        loop {
            self.skip_annotations();
            let Some(command) = self.next_command(place)? else {
                self.in_tail = commands;
                return Ok(None);
            };
            if command[..] == [&b"EXEC"[..]] {
                return Ok(Some(Transaction { place, commands }));
            }
            if command[..] == [&b"MULTI"[..]] {
                return Err(Violation::new(place, "MULTI inside a transaction"));
            }
            commands.push(command);
        }
    }

    /// The next command of the transaction at `place`. At an incomplete end, sets `tail` and returns `None`.
    fn next_command(&mut self, place: Place) -> Result<Option<Command>, Violation> {
        let rest = self.bytes.slice(self.at..);
        if rest.is_empty() && place.offset == self.at {
            return Ok(None);
        }
        let broken = |why: String| Violation::new(place, why);
        let (frame, length) = match decode_bytes(&rest) {
            Ok(Some(decoded)) => decoded,
            Ok(None) if self.is_last && is_cut(&rest) => {
                self.tail = Some(Tail { place, bytes: self.bytes.len() - place.offset });
                self.at = self.bytes.len();
                return Ok(None);
            }
            Ok(None) => return Err(broken("the end of the file is missing".into())),
            Err(error) => return Err(broken(format!("not a command: {error}"))),
        };
        let BytesFrame::Array(words) = frame else { return Err(broken("not a command".into())) };
        let word = |word| match word {
            BytesFrame::BulkString(bytes) => Some(bytes),
            _ => None,
        };
        let command: Option<Command> = words.into_iter().map(word).collect();
        let command = command.filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| broken("not a command".into()))?;
        if encoded(&command) != rest[..length] {
            return Err(broken("a command in a form that Redis does not write".into()));
        }
        self.at += length;
        Ok(Some(command))
    }

    /// Redis writes `#TS:<seconds>` lines if `aof-timestamp-enabled` is set.
    fn skip_annotations(&mut self) {
        while self.bytes[self.at..].starts_with(b"#TS:") {
            let Some(end) = self.bytes[self.at..].windows(2).position(|pair| pair == b"\r\n") else { return };
            if !self.bytes[self.at + 4..self.at + end].iter().all(u8::is_ascii_digit) {
                return;
            }
            self.at += end + 2;
        }
    }
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut text = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        text.extend(format!("${}\r\n", word.len()).bytes());
        text.extend_from_slice(word);
        text.extend(b"\r\n");
    }
    text
}

/// Whether the bytes are the beginning of a command, as a crash leaves it. A wrong length also makes a command too long
/// for the file: then a word would contain a line end, or the number of words would not fit the command.
fn is_cut(rest: &[u8]) -> bool {
    let Some((words, mut rest)) = number_line(rest, b'*') else {
        return !rest.windows(2).any(|w| w == b"\r\n");
    };
    let mut name: Option<&[u8]> = None;
    loop {
        let Some((length, after)) = number_line(rest, b'$') else {
            let is_cut_line = !rest.windows(2).any(|w| w == b"\r\n");
            return is_cut_line && name.is_none_or(|name| fits(name, words));
        };
        let Some(word) = after.get(..length) else {
            return !after.windows(2).any(|w| w == b"\r\n") && name.is_none_or(|name| fits(name, words));
        };
        if word.windows(2).any(|w| w == b"\r\n") {
            return false;
        }
        if !b"\r\n".starts_with(&after[length..after.len().min(length + 2)]) {
            return false;
        }
        name = name.or(Some(word));
        if after.len() < length + 2 {
            return name.is_none_or(|name| fits(name, words));
        }
        rest = &after[length + 2..];
    }
}

fn number_line(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let digits = bytes[..end].strip_prefix(&[kind])?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, &bytes[end + 2..]))
}

/// Whether a command of this name may have this many words.
fn fits(name: &[u8], words: usize) -> bool {
    match name {
        b"MULTI" | b"EXEC" => words == 1,
        b"SELECT" => words == 2,
        b"SET" => words == 3,
        b"HINCRBY" => words == 4,
        b"XTRIM" => words == 5,
        b"XCLAIM" => words == 14,
        b"HSET" | b"ZADD" => words >= 4 && words.is_multiple_of(2),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvw\r\n*1\r\n$4\r\nEXEC\r\n";

    fn read(bytes: &[u8]) -> Result<(usize, Option<Tail>), Violation> {
        let mut reader = Reader::new(0, Bytes::copy_from_slice(bytes), true);
        let mut read = 0;
        while reader.next_transaction()?.is_some() {
            read += 1;
        }
        Ok((read, reader.tail()))
    }

    #[test]
    fn a_log_that_is_cut_anywhere_has_an_incomplete_tail_and_no_error() {
        assert_eq!(read(LOG), Ok((2, None)));
        for end in 1..LOG.len() {
            let (read, tail) = read(&LOG[..end]).unwrap_or_else(|why| panic!("cut at {end}: {why:?}"));
            let start = if end < 23 { 0 } else { 23 };
            let expected =
                (end != 23).then_some(Tail { place: Place { file: 0, offset: start }, bytes: end - start });
            assert_eq!((read, tail), (usize::from(end >= 23), expected), "cut at {end}");
        }
    }

    #[test]
    fn a_changed_length_is_an_error_and_no_incomplete_tail() {
        for (at, byte) in LOG.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
            let is_value = at == 20;
            for other in (b'0'..=b'9').filter(|other| other != byte && !is_value) {
                let mut log = LOG.to_vec();
                log[at] = other;
                let broken = read(&log).expect_err(&String::from_utf8_lossy(&log));
                assert!(broken.place.offset <= at + 16, "{at}: {broken:?}");
            }
        }
    }

    #[test]
    fn annotations_of_times_are_skipped() {
        let log = [b"#TS:1700000000\r\n", LOG].concat();
        assert_eq!(read(&log), Ok((2, None)));
        assert!(read(&[b"#TX:1700000000\r\n", LOG].concat()).is_err());
    }
}
