//! Redis's wire protocol (RESP): finds the ends of commands and replies.

use super::Request;

/// The first command, an array of bulk strings as clients send them; `None` if it is not complete.
pub fn next_command(waiting: &mut Vec<u8>) -> Option<Request> {
    let end = reply_end(waiting)?;
    let bytes = waiting.drain(..end).collect();
    Some(Request { bytes, sql: String::new(), before: Vec::new(), executes: true, is_answered: true })
}

/// The end of the first reply; `None` if it is not complete.
pub fn reply_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Number of values that are still to read.
    let mut open = 1_u64;
    while open > 0 {
        let rest = bytes.get(at..)?;
        let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
        // The length is negative for a null value.
        let length = std::str::from_utf8(&rest[1..line]).ok().and_then(|text| text.parse::<i64>().ok());
        let elements = length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
        at += line + 2;
        open -= 1;
        match rest[0] {
            b'$' | b'!' | b'=' if length.is_some_and(|length| length >= 0) => {
                at += usize::try_from(elements).unwrap() + 2;
            }
            b'*' | b'~' | b'>' => open += elements,
            b'%' => open += 2 * elements,
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}
