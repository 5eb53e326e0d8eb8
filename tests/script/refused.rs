//! Missing rights: if Redis's user may not run a command or use a key, a script writes everything or nothing.

use std::collections::BTreeSet;

use seckill::redis::keys::GROUP;
use seckill::redis::lua;

use crate::harness::{READY, Raw, Reply, TestRedis, reset};

const BUILDING: &str = "building:7-c0ffee";
const ALICE: &str = "01a20dfc-6229-756f-bc31-2593204e6701";
const BOB: &str = "01a20dfc-6229-756f-bc31-2593204e6702";
const CAROL: &str = "01a20dfc-6229-756f-bc31-2593204e6703";
const WRITES: [&str; 12] =
    ["DEL", "HDEL", "HINCRBY", "HSET", "SET", "XACK", "XADD", "XCLAIM", "XGROUP", "XTRIM", "ZADD", "ZREM"];

/// Our keys by their names in the scripts' headers.
const KEYS: [(&str, &str); 10] = [
    ("marker", "test:{0}:epoch"),
    ("stream", "test:{0}:orders"),
    ("position", "test:{0}:postgres_lsn"),
    ("tally", "test:{0}:tally"),
    ("coupon", "test:{0}:coupon:coffee"),
    ("claims", "test:{0}:claims:coffee"),
    ("line", "test:{0}:waitlist:coffee"),
    ("line-orders", "test:{0}:waitlist-orders:coffee"),
    ("new-coupon", "test:{0}:coupon:tea"),
    ("new-claims", "test:{0}:claims:tea"),
];

fn key(word: &str) -> &'static str {
    KEYS.iter().find(|(name, _)| *name == word).expect("a key of ours").1
}

/// A run of a script in which the script does all of its writes.
struct Scene {
    script: &'static str,
    /// Commands that change the common state before the run.
    before: &'static [&'static [&'static str]],
    keys: &'static [&'static str],
    args: &'static [&'static str],
}

const BUILDS: &[&str] = &["SET", "test:{0}:epoch", BUILDING];
const COUPON_KEYS: &[&str] = &["marker", "stream", "coupon", "claims"];
const CLAIM_KEYS: &[&str] = &["marker", "stream", "coupon", "claims", "line"];
const LINE_KEYS: &[&str] = &["marker", "stream", "coupon", "claims", "line", "line-orders"];
const HAS_LINE: &[&str] = &["HSET", "test:{0}:coupon:coffee", "waitlist", "1"];
const WAITING: &[&str] = &["ZADD", "test:{0}:waitlist:coffee", "1", "carol", "2", "dave"];
const WAITING_ORDERS: &[&str] = &["HSET", "test:{0}:waitlist-orders:coffee", "carol", CAROL, "dave", "any"];

const SCENES: &[Scene] = &[
    Scene {
        script: "claim",
        before: &[HAS_LINE],
        keys: CLAIM_KEYS,
        args: &[READY, "32503680000000", "coffee", "1", "2", "carol", "dave", CAROL, "any"],
    },
    Scene {
        script: "claim",
        before: &[&["HSET", "test:{0}:coupon:coffee", "per_user_limit", "2"]],
        keys: CLAIM_KEYS,
        args: &[
            READY,
            "32503680000000",
            "coffee",
            "3",
            "2",
            "carol",
            "carol",
            CAROL,
            "any",
            "key-1",
            "key-2",
        ],
    },
    Scene {
        script: "publish",
        before: &[],
        keys: COUPON_KEYS,
        args: &[READY, "0", "2", "9", "title", "Coffee", "paused", "1"],
    },
    Scene {
        script: "publish",
        before: &[],
        keys: &["marker", "stream", "new-coupon", "new-claims"],
        args: &[READY, "1", "1", "9", "title", "Tea", "paused", "0"],
    },
    Scene { script: "take", before: &[], keys: COUPON_KEYS, args: &[READY, "1", "1"] },
    Scene {
        script: "release",
        before: &[],
        keys: LINE_KEYS,
        args: &[READY, "coffee", "alice", ALICE, "0", "bob", BOB, "1"],
    },
    Scene {
        script: "release",
        before: &[HAS_LINE, WAITING, WAITING_ORDERS],
        keys: LINE_KEYS,
        args: &[READY, "coffee", "alice", ALICE, "0", "bob", BOB, "1"],
    },
    Scene {
        script: "waitlist_join",
        before: &[HAS_LINE, &["HSET", "test:{0}:coupon:coffee", "stock", "0", "total", "2"]],
        keys: &["marker", "stream", "coupon", "claims", "line", "line-orders", "position"],
        args: &[READY, "00000000/00000002", "100", "carol", CAROL, "", "dave", "any", ""],
    },
    Scene {
        script: "waitlist_leave",
        before: &[WAITING, WAITING_ORDERS],
        keys: &["marker", "line", "line-orders"],
        args: &[READY, "carol"],
    },
    Scene {
        script: "waitlist_serve",
        before: &[HAS_LINE, WAITING, WAITING_ORDERS],
        keys: LINE_KEYS,
        args: &[READY, "coffee", "500"],
    },
    Scene {
        script: "requeue",
        before: &[],
        keys: &["marker", "stream", "claims"],
        args: &[READY, "coffee", "alice", ALICE, "bob", BOB],
    },
    Scene {
        script: "acknowledge",
        before: &[],
        keys: &["marker", "stream", "position", "tally"],
        args: &[READY, "00000000/00000002", GROUP, "1-0", "2-0"],
    },
    Scene {
        script: "acknowledge_deleted",
        before: &[],
        keys: &["stream", "tally"],
        args: &[GROUP, "1-0", "2-0"],
    },
    Scene {
        script: "record_wal_position",
        before: &[],
        keys: &["marker", "position"],
        args: &[READY, "00000000/00000002"],
    },
    Scene {
        script: "trim",
        before: &[&["XACK", "test:{0}:orders", GROUP, "1-0", "2-0"]],
        keys: &["marker", "stream", "tally"],
        args: &[READY, "1", GROUP, "0-0"],
    },
    Scene {
        script: "reclaim",
        before: &[],
        keys: &["stream"],
        args: &[GROUP, "heir", "1-0", "gone", "1", "2-0", "gone", "1"],
    },
    Scene {
        script: "remove_consumer",
        before: &[&["XGROUP", "CREATECONSUMER", "test:{0}:orders", GROUP, "idle"]],
        keys: &["marker", "stream"],
        args: &[READY, GROUP, "idle", "0"],
    },
    Scene {
        script: "recount_tally",
        before: &[&["XGROUP", "SETID", "test:{0}:orders", GROUP, "2-0"]],
        keys: &["marker", "stream", "tally"],
        args: &[READY, GROUP],
    },
    Scene { script: "settle_tally", before: &[], keys: &["marker", "tally"], args: &[READY, "1 1"] },
    // Breaks all that this script can repair.
    Scene {
        script: "rebuild_begin",
        before: &[
            &["DEL", "test:{0}:epoch", "test:{0}:postgres_lsn"],
            &["HSET", "test:{0}:epoch", "x", "x"],
            &["HSET", "test:{0}:postgres_lsn", "x", "x"],
            &["SET", "test:{0}:tally", "x"],
            &["XGROUP", "CREATE", "test:{0}:orders", "analytics", "0"],
            &["XSETID", "test:{0}:orders", "18446744073709551615-18446744073709551615"],
        ],
        keys: &["marker", "stream", "position", "tally"],
        args: &["7-c0ffee", GROUP],
    },
    Scene {
        script: "rebuild_types",
        before: &[BUILDS, &["SET", "test:{0}:coupon:tea", "x"], &["SET", "test:{0}:claims:tea", "x"]],
        keys: &["marker", "new-coupon", "new-claims"],
        args: &[BUILDING],
    },
    Scene {
        script: "rebuild_chunk",
        before: &[BUILDS],
        keys: COUPON_KEYS,
        args: &[BUILDING, "1", "alice", "carol", CAROL, "dave", "any"],
    },
    Scene {
        script: "rebuild_coupon",
        before: &[BUILDS],
        keys: COUPON_KEYS,
        args: &[BUILDING, "2", "9", "version", "2", "title", "Coffee"],
    },
    Scene {
        script: "rebuild_line",
        before: &[BUILDS, WAITING, WAITING_ORDERS],
        keys: LINE_KEYS,
        args: &[BUILDING, "0", "dave", "any", "erin", CAROL],
    },
    Scene {
        script: "rebuild_events",
        before: &[BUILDS],
        keys: &["marker", "stream"],
        args: &[BUILDING, "coffee", "alice", ALICE],
    },
    Scene {
        script: "rebuild_ready",
        before: &[BUILDS],
        keys: &["marker", "stream", "position"],
        args: &["7-c0ffee", "00000000/00000002"],
    },
];

fn source(name: &str) -> &'static str {
    let script = lua::ALL.iter().find(|script| script.name == name);
    script.unwrap_or_else(|| panic!("no script is called {name}")).source()
}

/// The commands that a script sends.
fn commands(source: &str) -> BTreeSet<String> {
    let after = source.match_indices("call('").map(|(at, word)| &source[at + word.len()..]);
    after.map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
}

impl Scene {
    /// Alice and bob each hold a coffee; their events are pending with a consumer that is gone.
    fn set_up(&self, redis: &mut TestRedis) {
        reset(&mut redis.raw, &redis.redis);
        let orders = key("stream");
        let event = |id, user, order| ["XADD", orders, id, "order", order, "coupon", "coffee", "user", user];
        let replies = redis.raw.pipeline(&[
            &["HSET", key("coupon"), "stock", "3", "total", "5", "version", "1"],
            &["HSET", key("claims"), "alice", ALICE, "bob", BOB],
            &event("1-0", "alice", ALICE),
            &event("2-0", "bob", BOB),
            &["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", orders, ">"],
            &["SET", key("position"), "00000000/00000001"],
        ]);
        let more = redis.raw.pipeline(self.before);
        let all: Vec<Reply> = replies.into_iter().chain(more).collect();
        assert!(!all.iter().any(|reply| matches!(reply, Reply::Error(_))), "{}: {all:?}", self.script);
    }

    fn run(&self, raw: &mut Raw) -> Reply {
        let source = source(self.script);
        let count = self.keys.len().to_string();
        let mut command = vec!["EVAL", source, &count];
        command.extend(self.keys.iter().map(|word| key(word)));
        command.extend(self.args);
        raw.call(&command)
    }

    /// Runs the script as a user with these rights; returns whether it was refused. Checks that a refused script has
    /// changed nothing.
    fn is_refused(&self, redis: &mut TestRedis, limited: &mut Raw, rights: &[&str]) -> bool {
        self.set_up(redis);
        let before = state(redis);
        let user = [&["ACL", "SETUSER", "limited", "reset", "on", "nopass"], rights].concat();
        assert_eq!(redis.raw.call(&user), Reply::Simple("OK".into()), "{rights:?}");
        assert_eq!(limited.call(&["AUTH", "limited", "any"]), Reply::Simple("OK".into()));
        let reply = self.run(limited);
        let is_refused = matches!(reply, Reply::Error(_));
        let changed = state(redis) != before;
        assert_ne!(is_refused, changed, "{} with {rights:?}: {reply:?}", self.script);
        is_refused
    }
}

/// The whole content of the server, with the positions and pending entries of its groups.
fn state(redis: &mut TestRedis) -> Vec<(String, Reply)> {
    let mut state = redis.dump();
    let orders = key("stream");
    for command in [&["XINFO", "GROUPS", orders][..], &["XPENDING", orders, GROUP]] {
        state.push((command[0].to_owned(), redis.raw.call(command)));
    }
    state
}

#[test]
fn a_script_that_may_not_run_one_of_its_commands_writes_nothing() {
    let mut redis = TestRedis::start();
    redis.raw.call(&["CONFIG", "SET", "stream-node-max-entries", "1"]);
    let mut limited = redis.another_client();
    let mut refused = BTreeSet::new();
    for scene in SCENES {
        assert!(!scene.is_refused(&mut redis, &mut limited, &["+@all", "~*"]), "{}", scene.script);
        for command in commands(source(scene.script)) {
            let rule = format!("-{}", command.to_lowercase());
            if scene.is_refused(&mut redis, &mut limited, &["+@all", "~*", &rule]) {
                refused.insert((scene.script, command));
            }
        }
    }
    for scene in SCENES {
        for command in commands(source(scene.script)).into_iter().filter(|c| WRITES.contains(&c.as_str())) {
            let run = (scene.script, command);
            assert!(refused.contains(&run), "no run sends {run:?}");
        }
    }
}

#[test]
fn a_script_that_may_only_read_one_of_its_keys_writes_nothing() {
    let mut redis = TestRedis::start();
    redis.raw.call(&["CONFIG", "SET", "stream-node-max-entries", "1"]);
    let mut limited = redis.another_client();
    let mut refused = 0;
    for scene in SCENES {
        for word in scene.keys {
            let others =
                scene.keys.iter().filter(|other| *other != word).map(|other| format!("~{}", key(other)));
            let others: Vec<String> = others.collect();
            let mut rights = vec!["+@all", "%R~*"];
            rights.extend(others.iter().map(String::as_str));
            refused += i32::from(scene.is_refused(&mut redis, &mut limited, &rights));
        }
    }
    assert!(refused >= 35, "{refused} runs had to write to the key that they may only read");
}

#[test]
fn every_script_that_writes_has_a_scene() {
    let writing: BTreeSet<&str> = lua::ALL
        .iter()
        .filter(|script| commands(source(script.name)).iter().any(|c| WRITES.contains(&c.as_str())))
        .map(|script| script.name)
        .collect();
    let scenes: BTreeSet<&str> = SCENES.iter().map(|scene| scene.script).collect();
    assert_eq!(writing, scenes);
}
