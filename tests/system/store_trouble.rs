//! Stores that are slow, paused, unreachable, read-only or full: claims are still answered, and the program recovers
//! without a restart when the trouble ends. Claims need Redis, but not Postgres.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use support::proxy::Proxy;
use support::{Answer, Process, Sale, signal, signal_all, until};

/// Longest wait for an answer: the program's own deadlines, and some time more for a busy machine.
const BOUND: Duration = Duration::from_secs(10);

/// A problem of one store.
struct Trouble {
    name: &'static str,
    /// A part of the program's report about it: in `/readyz` for Redis, in `/readyz?verbose` or the log for Postgres.
    report: &'static str,
    begin: fn(&mut Scene),
    end: fn(&mut Scene),
}

/// A sale whose clients use a program that reaches both stores through proxies.
struct Scene {
    sale: Sale,
    redis: Proxy,
    postgres: Proxy,
    program: Process,
    redis_pid: i32,
    /// The stopped processes of Postgres.
    postgres_pids: Vec<i32>,
    /// A connection to Redis that is opened before any trouble.
    redis_connection: UnixStream,
    /// Idle connections that use up Postgres's limit.
    crowd: Vec<UnixStream>,
    users: usize,
    orders: Vec<String>,
}

impl Scene {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create("coffee", 100_000).await;
        let redis = Proxy::before(&sale.redis_socket());
        let postgres = Proxy::before(&sale.postgres_socket());
        let mut all = vec![("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "200ms")];
        all.extend(environment);
        let program = sale.spawn_by_address("serve", &[&redis, &postgres], &all);
        sale.url = program.url_when_up().await;
        let redis_pid = sale.redis_pid();
        let redis_connection = UnixStream::connect(sale.redis_socket()).unwrap();
        let (crowd, orders) = (Vec::new(), Vec::new());
        let (postgres_pids, users) = (Vec::new(), 0);
        Self {
            sale,
            redis,
            postgres,
            program,
            redis_pid,
            postgres_pids,
            redis_connection,
            crowd,
            users,
            orders,
        }
    }

    /// A claim of a new user, answered within the bound.
    async fn claim(&mut self, trouble: &str) -> Answer {
        self.users += 1;
        self.claim_again(self.users, trouble).await
    }

    async fn claim_again(&self, user: usize, trouble: &str) -> Answer {
        let user = format!("user-{user}");
        let claim = self.sale.claim("coffee", &user);
        let Ok(answer) = tokio::time::timeout(BOUND, claim).await else {
            panic!("{trouble}: a claim gets no answer")
        };
        assert!([200, 202, 503].contains(&answer.status), "{trouble}: {answer:?}");
        if answer.status == 503 {
            answer.assert_problem(503, "unavailable");
        }
        answer
    }

    async fn claim_accepted(&mut self, trouble: &str) {
        let answer = self.claim(trouble).await;
        assert_eq!(answer.status, 202, "{trouble}: {answer:?}");
        self.orders.push(answer.body["order"].as_str().unwrap().to_owned());
    }

    async fn is_live(&self) {
        let answer = tokio::time::timeout(BOUND, self.sale.get("/livez")).await;
        assert_eq!(answer.expect("an answer in time").status, 200);
    }

    /// Checks that claims are refused, and that the program says that it is not ready, until the trouble ends.
    async fn survive_without_redis(&mut self, trouble: &Trouble) {
        let name = trouble.name;
        self.claim_accepted(name).await;
        let first = self.users + 1;
        (trouble.begin)(self);
        while self.claim(name).await.status != 503 {}
        for _ in 0..3 {
            assert_eq!(self.claim(name).await.status, 503, "{name}");
        }
        self.is_live().await;
        let not_ready = format!("{name}: the program says that it is not ready, and why");
        until(&not_ready, async || {
            let answer = self.sale.get("/readyz").await;
            (answer.status == 503 && answer.text.contains(trouble.report)).then_some(())
        })
        .await;
        (trouble.end)(self);
        // A client with a 503 may not know whether its claim was made, and repeats it.
        for user in first..=self.users {
            let order = until("the claim is accepted", async || {
                let answer = self.claim_again(user, name).await;
                (answer.status != 503).then(|| answer.body["order"].as_str().unwrap().to_owned())
            })
            .await;
            self.orders.push(order);
        }
        self.assert_recovered().await;
    }

    /// Checks that claims are accepted, and that the program says that it is ready, all the time.
    async fn survive_without_postgres(&mut self, trouble: &Trouble) {
        let name = trouble.name;
        self.claim_accepted(name).await;
        self.sale.until_quiet().await;
        (trouble.begin)(self);
        for _ in 0..5 {
            self.claim_accepted(name).await;
        }
        let reported = format!("{name}: the program reports the trouble");
        until(&reported, async || {
            let ready = self.sale.get("/readyz?verbose").await;
            assert_eq!(ready.status, 200, "{name}: {ready:?}");
            let is_reported = ready.body["stores"]["postgres"].as_str().unwrap().contains(trouble.report);
            (is_reported || self.program.log().contains(trouble.report)).then_some(())
        })
        .await;
        self.is_live().await;
        self.claim_accepted(name).await;
        (trouble.end)(self);
        self.assert_recovered().await;
    }

    /// Checks that exactly the accepted orders are recorded.
    async fn assert_recovered(&self) {
        self.sale.assert_in_agreement("coffee").await;
        self.sale.assert_recorded(&self.orders);
        assert_eq!(self.sale.psql_number("select count(*) from dead_letters"), 0);
    }

    /// Sends a command over the connection that was opened before the trouble.
    fn tell_redis(&mut self, command: &str) {
        self.redis_connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut reply = [0; 1_024];
        let length = self.redis_connection.read(&mut reply).unwrap();
        assert_ne!(reply[0], b'-', "{command}: {}", String::from_utf8_lossy(&reply[..length]));
    }

    fn pause_postgres(&mut self) {
        self.postgres_pids = self.sale.postgres_pids();
        signal_all(&self.postgres_pids, Signal::SIGSTOP);
    }

    /// Uses every free connection of Postgres.
    fn crowd_postgres(&mut self) {
        let mut refused = 0;
        while refused < 10 {
            match connect_to_postgres(&self.sale) {
                Some(connection) => self.crowd.push(connection),
                None => refused += 1,
            }
        }
    }
}

/// An idle session with Postgres; `None` if Postgres has no connection left.
fn connect_to_postgres(sale: &Sale) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(sale.postgres_socket()).unwrap();
    let parameters = b"user\0seckill\0database\0seckill\0application_name\0crowd\0\0";
    let length = u32::try_from(parameters.len() + 8).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(&0x0003_0000_u32.to_be_bytes()).unwrap();
    stream.write_all(parameters).unwrap();
    let mut kind = [0];
    stream.read_exact(&mut kind).unwrap();
    (kind[0] != b'E').then_some(stream)
}

#[tokio::test]
async fn claims_are_refused_in_time_while_redis_is_unreachable_and_go_on_afterwards() {
    let mut scene = Scene::start(&[]).await;
    let troubles = [
        Trouble {
            name: "slow",
            report: "no answer",
            begin: |scene| scene.redis.delay(Duration::from_secs(3)),
            end: |scene| scene.redis.delay(Duration::ZERO),
        },
        Trouble {
            name: "paused",
            report: "no answer",
            begin: |scene| signal(scene.redis_pid, Signal::SIGSTOP),
            end: |scene| signal(scene.redis_pid, Signal::SIGCONT),
        },
        Trouble {
            name: "refusing connections",
            report: "refused",
            begin: |scene| scene.redis.refuse(),
            end: |scene| scene.redis.accept_again(),
        },
        Trouble {
            name: "out of connections",
            report: "max number of clients",
            begin: |scene| {
                scene.tell_redis("CONFIG SET maxclients 1");
                scene.tell_redis("CLIENT KILL TYPE normal SKIPME yes");
            },
            end: |scene| scene.tell_redis("CONFIG SET maxclients 10000"),
        },
    ];
    for trouble in &troubles {
        scene.survive_without_redis(trouble).await;
    }
}

#[tokio::test]
async fn claims_are_refused_in_time_while_redis_accepts_no_writes_and_go_on_afterwards() {
    let mut scene = Scene::start(&[]).await;
    let troubles = [
        Trouble {
            name: "full",
            report: "OOM",
            begin: |scene| scene.tell_redis("CONFIG SET maxmemory 1"),
            end: |scene| scene.tell_redis("CONFIG SET maxmemory 0"),
        },
        Trouble {
            name: "short of replicas",
            report: "NOREPLICAS",
            begin: |scene| scene.tell_redis("CONFIG SET min-replicas-to-write 1"),
            end: |scene| scene.tell_redis("CONFIG SET min-replicas-to-write 0"),
        },
        Trouble {
            name: "a replica",
            report: "replica",
            begin: |scene| scene.tell_redis("REPLICAOF 127.0.0.1 1"),
            end: |scene| scene.tell_redis("REPLICAOF NO ONE"),
        },
    ];
    for trouble in &troubles {
        scene.survive_without_redis(trouble).await;
    }
}

#[tokio::test]
async fn claims_are_refused_in_time_while_redis_loads_and_go_on_afterwards() {
    let mut scene = Scene::start(&[]).await;
    // Adds keys that the program does not use, so that Redis loads for a long time.
    for part in 0..100 {
        let fill = "for i = 1, 10000 do redis.call('SET', ARGV[1] .. i, i) end";
        scene.tell_redis(&format!("EVAL \"{fill}\" 0 {part}-"));
    }
    scene.sale.until_quiet().await;
    let trouble = Trouble {
        name: "loading",
        report: "LOADING",
        begin: |scene| signal(scene.redis_pid, Signal::SIGKILL),
        end: |_| {},
    };
    scene.survive_without_redis(&trouble).await;
}

#[tokio::test]
async fn claims_go_on_while_postgres_is_unreachable_and_are_recorded_afterwards() {
    let mut scene = Scene::start(&[]).await;
    let troubles = [
        Trouble {
            name: "slow",
            report: "no answer",
            begin: |scene| scene.postgres.delay(Duration::from_millis(1_500)),
            end: |scene| scene.postgres.delay(Duration::ZERO),
        },
        Trouble {
            name: "paused",
            report: "no answer",
            begin: |scene| scene.pause_postgres(),
            end: |scene| signal_all(&scene.postgres_pids, Signal::SIGCONT),
        },
        Trouble {
            name: "refusing connections",
            report: "refused",
            begin: |scene| scene.postgres.refuse(),
            end: |scene| scene.postgres.accept_again(),
        },
        Trouble {
            name: "out of connections",
            report: "53300",
            begin: |scene| {
                scene.postgres.refuse();
                scene.crowd_postgres();
                scene.postgres.accept_again();
            },
            end: |scene| scene.crowd.clear(),
        },
    ];
    for trouble in &troubles {
        scene.survive_without_postgres(trouble).await;
    }
}

#[tokio::test]
async fn claims_go_on_while_postgres_accepts_no_writes_and_are_recorded_afterwards() {
    let mut scene = Scene::start(&[]).await;
    let troubles = [
        Trouble {
            name: "read-only",
            report: "25006",
            begin: |scene| {
                scene.sale.psql("alter system set default_transaction_read_only = on");
                scene.sale.psql("select pg_reload_conf()");
            },
            end: |scene| {
                scene.sale.psql("alter system reset default_transaction_read_only");
                scene.sale.psql("select pg_reload_conf()");
            },
        },
        Trouble {
            name: "full",
            report: "53100",
            begin: |scene| {
                scene.sale.psql(
                    "create function disk_full() returns trigger language plpgsql as
                        $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$;
                     create trigger disk_full before insert on orders execute function disk_full()",
                );
            },
            end: |scene| drop(scene.sale.psql("drop trigger disk_full on orders")),
        },
    ];
    for trouble in &troubles {
        scene.survive_without_postgres(trouble).await;
    }
}

#[tokio::test]
async fn claims_stop_at_the_largest_backlog_and_go_on_below_it() {
    let mut scene = Scene::start(&[("SECKILL_MAX_BACKLOG", "20")]).await;
    let length = [&b"XLEN"[..], b"seckill:{0}:orders"];
    scene.pause_postgres();
    loop {
        let answer = scene.claim("backlog").await;
        if answer.status == 503 {
            assert!(answer.body["detail"].as_str().unwrap().contains("wait to be recorded"), "{answer:?}");
            break;
        }
        scene.orders.push(answer.body["order"].as_str().unwrap().to_owned());
        assert!(scene.orders.len() < 20_000, "the claims do not stop");
    }
    // The program probes the backlog once a second: the claims of this second may exceed the limit.
    assert!(scene.orders.len() > 20, "{} claims", scene.orders.len());
    let full = scene.sale.redis_raw(&length);
    for _ in 0..50 {
        assert_eq!(scene.claim("backlog").await.status, 503);
    }
    assert_eq!(scene.sale.redis_raw(&length), full, "events in the stream");
    let ready = scene.sale.get("/readyz?verbose").await;
    ready.assert_problem(503, "unavailable");
    assert!(ready.body["detail"].as_str().unwrap().contains("wait to be recorded"), "{ready:?}");
    assert_eq!(ready.body["stores"]["redis"], "ok", "{ready:?}");
    assert_ne!(ready.body["stores"]["postgres"], "ok", "{ready:?}");
    signal_all(&scene.postgres_pids, Signal::SIGCONT);
    let user = scene.users;
    let order = until("claims go on", async || {
        let answer = scene.claim_again(user, "backlog").await;
        (answer.status == 202).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await;
    scene.orders.push(order);
    scene.assert_recovered().await;
}
