//! Redis's append-only file: every command that wrote; the commands of one script are between `MULTI` and `EXEC`.

use std::fs;
use std::path::Path;
use std::str::from_utf8;

use model::trace::{Effect, EntryId, Event, Key, Line};
use seckill::redis::claims_hash::encode_field;
use uuid::Uuid;

const PREFIX: &str = "seckill:{0}:";
const GROUP: &str = "order-writers";
/// An RDB file smaller than this has no data.
const EMPTY_BASE_BYTES: u64 = 200;

type Command = Vec<Vec<u8>>;

/// All lines; a line that is one of `test_writes` is marked as a write of the test.
pub fn read(folder: &Path, test_writes: &[Vec<String>]) -> Result<Vec<Line>, String> {
    let folder = folder.join("appendonlydir");
    let bytes = |name: &str| fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let manifest = bytes("appendonly.aof.manifest")?;
    let mut log = Vec::new();
    for line in String::from_utf8_lossy(&manifest).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["file", name, "seq", number, "type", kind] = words[..] else {
            return Err(format!("the manifest of the append-only file says {line:?}"));
        };
        match kind {
            "b" if number == "1" && is_empty(&folder.join(name)) => {}
            "i" => log.extend(bytes(name)?),
            _ => return Err("the append-only file was rewritten: its beginning is gone".into()),
        }
    }
    let mut test_writes: Vec<Option<&Vec<String>>> = test_writes.iter().map(Some).collect();
    groups(&log).iter().filter_map(|group| line(group, &mut test_writes).transpose()).collect()
}

fn is_empty(base: &Path) -> bool {
    fs::metadata(base).is_ok_and(|file| file.len() < EMPTY_BASE_BYTES)
}

fn groups(mut log: &[u8]) -> Vec<Vec<Command>> {
    let mut groups = Vec::new();
    let mut open: Option<Vec<Command>> = None;
    while let Some(command) = next_command(&mut log) {
        match (word(&command, 0).as_str(), &mut open) {
            ("SELECT", _) => {}
            ("MULTI", _) => open = Some(Vec::new()),
            ("EXEC", _) => groups.extend(open.take()),
            (_, Some(group)) => group.push(command),
            (_, None) => groups.push(vec![command]),
        }
    }
    // Redis ignores a command that was half written when it died.
    groups
}

/// Removes the first array of strings from the front; `None` if it is not complete.
fn next_command(log: &mut &[u8]) -> Option<Command> {
    let mut rest = *log;
    let count = next_number(&mut rest)?;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let length = next_number(&mut rest)?;
        parts.push(rest.get(..length)?.to_vec());
        rest = rest.get(length + 2..)?;
    }
    *log = rest;
    Some(parts)
}

/// The number of a line such as `*3` or `$11`.
fn next_number(rest: &mut &[u8]) -> Option<usize> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let number = from_utf8(&rest[1..end]).ok()?.parse().ok();
    *rest = &rest[end + 2..];
    number
}

fn text(command: &Command, place: usize) -> String {
    command.get(place).map(|part| String::from_utf8_lossy(part).into_owned()).unwrap_or_default()
}

fn word(command: &Command, place: usize) -> String {
    text(command, place).to_ascii_uppercase()
}

fn line(group: &[Command], test_writes: &mut [Option<&Vec<String>>]) -> Result<Option<Line>, String> {
    let mut effects = Vec::new();
    for command in group {
        effects.extend(effects_of(command)?);
    }
    if effects.is_empty() {
        return Ok(None);
    }
    let [command] = group else { return Ok(Some(Line::Redis(effects))) };
    let written = test_writes.iter_mut().find(|write| write.is_some_and(|write| is_same(write, command)));
    Ok(Some(match written {
        Some(write) => {
            *write = None;
            Line::Hand { effects, changes: Vec::new() }
        }
        None => Line::Redis(effects),
    }))
}

/// Redis writes the id that it chose for `*`, and `=` before a limit.
fn is_same(write: &[String], command: &Command) -> bool {
    let sent: Vec<&[u8]> = write.iter().map(String::as_bytes).collect();
    let logged: Vec<&[u8]> = command.iter().map(Vec::as_slice).filter(|part| *part != b"=").collect();
    let same = |(sent, logged): (&&[u8], &&[u8])| sent.eq_ignore_ascii_case(logged) || **sent == *b"*";
    sent.len() == logged.len() && sent.iter().zip(&logged).all(same)
}

fn effects_of(command: &Command) -> Result<Vec<Effect>, String> {
    let name = word(command, 0);
    let unknown = || format!("the trace does not know {name} {}", text(command, 1));
    let is_group = |place: usize| text(command, place) == GROUP;
    if name == "FLUSHALL" {
        return Ok(vec![Effect::Flushed]);
    }
    if name == "DEL" {
        let keys = command[1..].iter().map(|key| key_of(&String::from_utf8_lossy(key)));
        return Ok(keys.flatten().map(|key| Effect::Gone { key }).collect());
    }
    // The key of XGROUP follows its subcommand. Keys that are not the program's are ignored.
    let Some(key) = key_of(&text(command, if name == "XGROUP" { 2 } else { 1 })) else {
        return Ok(Vec::new());
    };
    let users = || command[2..].iter().map(|user| lossy(user));
    let pairs = || command[2..].chunks_exact(2).map(|pair| (lossy(&pair[0]), lossy(&pair[1])));
    Ok(match (name.as_str(), key) {
        ("SET", Key::Marker) => {
            let value = text(command, 2);
            let (state, epoch) = value.split_once(':').ok_or_else(unknown)?;
            vec![Effect::Marked { is_ready: state == "ready", epoch: epoch.to_owned() }]
        }
        ("SET", Key::Position) => vec![Effect::Noted { lsn: lsn(&text(command, 2)).ok_or_else(unknown)? }],
        ("HSET", Key::Claims(coupon)) => pairs().map(|(user, value)| held(&coupon, user, &value)).collect(),
        ("HDEL", Key::Claims(coupon)) => {
            users().map(|user| Effect::Freed { coupon: coupon.clone(), user }).collect()
        }
        ("ZADD", Key::Places(coupon)) => {
            let placed = |(score, user): (String, String)| {
                let place = score.parse().map_err(|_| unknown())?;
                Ok(Effect::Placed { coupon: coupon.clone(), user, place })
            };
            pairs().map(placed).collect::<Result<_, String>>()?
        }
        ("HSET", Key::Promises(coupon)) => {
            let promised = |(user, value): (String, String)| {
                let (order, key) = order_and_key(&value);
                Effect::Promised { coupon: coupon.clone(), user, order, key }
            };
            pairs().map(promised).collect()
        }
        ("ZREM", Key::Places(coupon)) => {
            users().map(|user| Effect::Unplaced { coupon: coupon.clone(), user }).collect()
        }
        ("HDEL", Key::Promises(coupon)) => {
            users().map(|user| Effect::Unpromised { coupon: coupon.clone(), user }).collect()
        }
        ("HINCRBY", Key::Coupon(coupon)) if text(command, 2) == "stock" => {
            vec![Effect::StockMoved { coupon, by: text(command, 3).parse().map_err(|_| unknown())? }]
        }
        ("HSET", Key::Coupon(coupon)) => {
            let fields: Vec<(String, String)> = pairs().collect();
            let number = |name: &str| fields.iter().find(|(field, _)| field == name)?.1.parse::<i64>().ok();
            let (total, stock) = (number("total"), number("stock"));
            let version = number("version").and_then(|version| u64::try_from(version).ok());
            if (total, stock, version) == (None, None, None) {
                return Ok(Vec::new());
            }
            vec![Effect::Defined { coupon, total, stock, version }]
        }
        ("XADD", Key::Stream) => {
            let place = if word(command, 2) == "NOMKSTREAM" { 3 } else { 2 };
            let entry = id(&text(command, place)).ok_or_else(unknown)?;
            let fields = &command[place + 1..];
            if fields.first().is_some_and(|field| field == b"hoarded") {
                return Ok(Vec::new());
            }
            vec![Effect::Sent { entry, event: event(fields) }]
        }
        ("XCLAIM", Key::Stream) if is_group(2) => {
            let consumer = text(command, 3);
            let ids = command[5..].iter().map_while(|part| id(&lossy(part)));
            ids.map(|entry| Effect::Delivered { entry, consumer: consumer.clone() }).collect()
        }
        ("XACK", Key::Stream) if is_group(2) => {
            let ids = command[3..].iter().filter_map(|part| id(&lossy(part)));
            ids.map(|entry| Effect::Acknowledged { entry }).collect()
        }
        ("XTRIM", Key::Stream) if word(command, 2) == "MINID" => {
            let threshold = command.last().and_then(|part| id(&lossy(part)));
            vec![Effect::Trimmed { below: threshold.ok_or_else(unknown)? }]
        }
        // MAXLEN 0: no run uses another length.
        ("XTRIM", Key::Stream) if command.last().is_some_and(|part| part == b"0") => {
            vec![Effect::Trimmed { below: (u64::MAX, u64::MAX) }]
        }
        ("XGROUP", Key::Stream) if text(command, 3) == GROUP => match word(command, 1).as_str() {
            "CREATE" => vec![Effect::GroupMade { at_start: text(command, 4) == "0" }],
            "DESTROY" => vec![Effect::GroupGone],
            "DELCONSUMER" => vec![Effect::ConsumerGone { consumer: text(command, 4) }],
            "CREATECONSUMER" | "SETID" => Vec::new(),
            _ => return Err(unknown()),
        },
        _ => return Err(unknown()),
    })
}

/// The value is `<order>` or `<order> <key>`. The field stands for its user: the rules hold for each unit that a user may
/// hold.
fn held(coupon: &str, user: String, value: &str) -> Effect {
    let (order, key) = order_and_key(value);
    Effect::Held { coupon: coupon.to_owned(), user, order, key }
}

fn order_and_key(value: &str) -> (String, Option<String>) {
    let (order, key) =
        value.split_once(' ').map_or((value, None), |(order, key)| (order, Some(key.to_owned())));
    (order.to_owned(), key)
}

fn key_of(key: &str) -> Option<Key> {
    match key.strip_prefix(PREFIX)?.split_once(':') {
        Some(("coupon", coupon)) => Some(Key::Coupon(coupon.to_owned())),
        Some(("claims", coupon)) => Some(Key::Claims(coupon.to_owned())),
        Some(("waitlist", coupon)) => Some(Key::Places(coupon.to_owned())),
        Some(("waitlist-orders", coupon)) => Some(Key::Promises(coupon.to_owned())),
        Some(_) => None,
        None => match &key[PREFIX.len()..] {
            "epoch" => Some(Key::Marker),
            "orders" => Some(Key::Stream),
            "postgres_lsn" => Some(Key::Position),
            _ => None,
        },
    }
}

fn lossy(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}

pub fn id(text: &str) -> Option<EntryId> {
    let (ms, number) = text.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// `00000000/01A2B3C8` as one number.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// The event of an entry, if a worker can read it.
fn event(fields: &[Vec<u8>]) -> Option<Event> {
    let get = |name: &str| {
        let pair = fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes())?;
        from_utf8(&pair[1]).ok().map(str::to_owned)
    };
    let order = get("order").filter(|order| order.parse::<Uuid>().is_ok())?;
    let user = get("user").filter(|user| (1..=128).contains(&user.len()))?;
    let slot = get("slot").map_or(Some(1), |slot| slot.parse().ok())?;
    Some(Event { order, coupon: get("coupon")?, user: encode_field(&user, slot), key: get("key") })
}
