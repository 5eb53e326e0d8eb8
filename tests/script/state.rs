//! Reads the real Redis as an oracle, and writes the oracle's content to the real Redis.

use seckill::redis::Redis;
use seckill::redis::keys::GROUP;

use crate::harness::{Raw, Reply};
use crate::history::COUPONS;
use crate::oracle::{Coupon, Fields, Key, Oracle, count, coupon_id};

impl Oracle {
    /// Writes to Redis the keys in which the oracle differs from `before`.
    pub fn write(&self, before: &Self, redis: &Redis, raw: &mut Raw) {
        if self.marker != before.marker {
            let key = &*redis.keys.epoch;
            raw.call(&["DEL", key]);
            match &self.marker {
                Key::Absent => {}
                Key::WrongType => drop(raw.call(&["LPUSH", key, "x"])),
                Key::Is(text) => drop(raw.call(&["SET", key, text])),
            }
        }
        if self.position != before.position {
            let key = &*redis.keys.postgres_lsn;
            raw.call(&["DEL", key]);
            match &self.position {
                Key::Absent => {}
                Key::WrongType => drop(raw.call(&["LPUSH", key, "x"])),
                Key::Is(text) => drop(raw.call(&["SET", key, text])),
            }
        }
        if self.forbidden != before.forbidden {
            for (sign, command) in [("+", before.forbidden), ("-", self.forbidden)] {
                if let Some(command) = command {
                    raw.call(&["ACL", "SETUSER", "default", &format!("{sign}{command}")]);
                }
            }
        }
        if let (Some(room), None) = (self.room, before.room) {
            let last = format!("18446744073709551615-{}", u64::MAX - u64::try_from(room).unwrap());
            raw.call(&["XSETID", &redis.keys.orders, &last]);
        }
        // After a full stream the stream is a new one, even if both are empty.
        if self.stream != before.stream || (self.room, before.room.is_some()) == (None, true) {
            let key = &*redis.keys.orders;
            raw.call(&["DEL", key]);
            match &self.stream {
                Key::Absent => {}
                Key::WrongType => drop(raw.call(&["SET", key, "x"])),
                Key::Is(entries) => {
                    assert!(entries.is_empty());
                    raw.call(&["XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM"]);
                }
            }
        }
        for (number, (coupon, before)) in self.coupons.iter().zip(&before.coupons).enumerate() {
            let id = coupon_id(number);
            if coupon.hash != before.hash {
                write_hash(raw, &redis.keys.coupon(&id), &coupon.hash);
            }
            if coupon.claims != before.claims {
                write_hash(raw, &redis.keys.claims(&id), &coupon.claims);
            }
            if coupon.line != before.line {
                write_line(raw, &redis.keys.waitlist(&id), &coupon.line);
            }
            if coupon.line_orders != before.line_orders {
                write_hash(raw, &redis.keys.waitlist_orders(&id), &coupon.line_orders);
            }
        }
    }

    /// The actual content of Redis.
    pub fn read(redis: &Redis, raw: &mut Raw) -> Self {
        let hashes: Vec<String> = (0..COUPONS)
            .map(coupon_id)
            .flat_map(|id| [redis.keys.coupon(&id), redis.keys.claims(&id), redis.keys.waitlist_orders(&id)])
            .collect();
        let lines: Vec<String> = (0..COUPONS).map(|number| redis.keys.waitlist(&coupon_id(number))).collect();
        let commands: Vec<[&str; 2]> = hashes.iter().map(|key| ["HGETALL", key.as_str()]).collect();
        let ranges: Vec<[&str; 4]> = lines.iter().map(|key| ["ZRANGE", key.as_str(), "0", "-1"]).collect();
        let mut pipeline: Vec<&[&str]> = commands.iter().map(<[&str; 2]>::as_slice).collect();
        pipeline.extend(ranges.iter().map(<[&str; 4]>::as_slice));
        let stream = ["XRANGE", &redis.keys.orders, "-", "+"];
        let stream_exists = ["EXISTS", &redis.keys.orders];
        let marker = ["GET", &redis.keys.epoch];
        let position = ["GET", &redis.keys.postgres_lsn];
        pipeline.extend([&stream[..], &stream_exists, &marker, &position, &["DBSIZE"]]);
        let mut replies = raw.pipeline(&pipeline).into_iter();
        let mut next = || replies.next().unwrap();

        let hash = |reply: Reply| -> Key<Fields> {
            if is_wrong_type(&reply) {
                return Key::WrongType;
            }
            let mut key = Key::Is(reply.pairs().into_iter().collect());
            key.settle();
            key
        };
        let mut coupons: [Coupon; COUPONS] = std::array::from_fn(|_| Coupon {
            hash: hash(next()),
            claims: hash(next()),
            line_orders: hash(next()),
            line: Key::Absent,
        });
        for coupon in &mut coupons {
            coupon.line = match next() {
                reply if is_wrong_type(&reply) => Key::WrongType,
                reply => match reply.array() {
                    users if users.is_empty() => Key::Absent,
                    users => Key::Is(users.into_iter().map(Reply::text).collect()),
                },
            };
        }
        let entries = next();
        let exists = next().integer() == 1;
        let stream = if is_wrong_type(&entries) {
            Key::WrongType
        } else if exists {
            Key::Is(entries.array().into_iter().map(event_fields).collect())
        } else {
            Key::Absent
        };
        let string = |reply: Reply| match reply {
            Reply::Bulk(None) => Key::Absent,
            reply if is_wrong_type(&reply) => Key::WrongType,
            reply => Key::Is(reply.text()),
        };
        let (marker, position) = (string(next()), string(next()));
        let mut oracle = Self { marker, position, stream, coupons, ..Self::new() };
        oracle.strays = next().integer() - oracle.keys();
        oracle
    }

    fn keys(&self) -> i64 {
        let hashes =
            self.coupons.iter().flat_map(|coupon| [&coupon.hash, &coupon.claims, &coupon.line_orders]);
        count(hashes.filter(|key| **key != Key::Absent))
            + count(self.coupons.iter().filter(|coupon| coupon.line != Key::Absent))
            + i64::from(self.position != Key::Absent)
            + i64::from(self.stream != Key::Absent)
            + i64::from(self.marker != Key::Absent)
    }
}

fn is_wrong_type(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with("WRONGTYPE"))
}

fn event_fields(entry: Reply) -> Vec<String> {
    entry.array().swap_remove(1).array().into_iter().map(Reply::text).collect()
}

fn write_line(raw: &mut Raw, key: &str, line: &Key<Vec<String>>) {
    raw.call(&["DEL", key]);
    match line {
        Key::Absent => {}
        Key::WrongType => drop(raw.call(&["SET", key, "x"])),
        Key::Is(users) => {
            for (place, user) in users.iter().enumerate() {
                raw.call(&["ZADD", key, &place.to_string(), user]);
            }
        }
    }
}

fn write_hash(raw: &mut Raw, key: &str, hash: &Key<Fields>) {
    raw.call(&["DEL", key]);
    match hash {
        Key::Absent => {}
        Key::WrongType => drop(raw.call(&["SET", key, "x"])),
        Key::Is(fields) => {
            let mut command = vec!["HSET", key];
            command.extend(fields.iter().flat_map(|(field, value)| [field.as_str(), value]));
            raw.call(&command);
        }
    }
}
