//! A sale whose stores the test can stop, copy and replace.

use reqwest::Method;
use serde_json::{Value, json};

use crate::counterexamples::{DURABLE, on_own_stores};
use support::external_store::{ExternalStore, folder};
use support::{Sale, until};

pub const ORDERED: &str = "reconcile --rebuild";

/// A sale on stores that the test can stop and replace.
pub struct Scene {
    // Dropped before its stores.
    pub sale: Sale,
    redis: Option<ExternalStore>,
    postgres: Option<ExternalStore>,
}

/// What happens to Redis after the older copy is in place and before a process has probed it.
#[derive(Clone, Copy, Debug)]
pub enum RedisFault {
    None,
    Restart,
    Kill,
}

impl Scene {
    pub async fn start() -> Self {
        let postgres = ExternalStore::postgres(&[]).await;
        let redis = ExternalStore::redis(&DURABLE, folder());
        let sale = on_own_stores(&redis.url("redis"), &postgres).await;
        Self { sale, redis: Some(redis), postgres: Some(postgres) }
    }

    pub fn redis(&self, args: &[&str]) -> String {
        self.redis.as_ref().unwrap().redis_cli(args).unwrap()
    }

    pub fn psql(&self, sql: &str) -> String {
        self.postgres.as_ref().unwrap().psql(sql).unwrap()
    }

    /// Copies Postgres's files as they are now.
    pub async fn copy(&mut self) {
        self.sale.until_quiet().await;
        let dir = self.postgres.take().unwrap().stop();
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("-a").arg(dir.path().join("cluster")).arg(dir.path().join("copy")).status();
        assert!(copied.unwrap().success());
        self.postgres = Some(ExternalStore::postgres_at(dir, &[]).await);
    }

    /// Puts the copy in place while the program is stopped.
    pub async fn lose(&mut self) {
        self.sale.until_quiet().await;
        self.sale.kill_9();
        let dir = self.postgres.take().unwrap().stop();
        std::fs::rename(dir.path().join("cluster"), dir.path().join("lost")).unwrap();
        std::fs::rename(dir.path().join("copy"), dir.path().join("cluster")).unwrap();
        self.postgres = Some(ExternalStore::postgres_at(dir, &[]).await);
    }

    pub async fn inject(&mut self, fault: RedisFault) {
        let redis = self.redis.take().unwrap();
        self.redis = Some(match fault {
            RedisFault::None => redis,
            RedisFault::Restart => ExternalStore::redis(&DURABLE, redis.stop()),
            RedisFault::Kill => ExternalStore::redis(&DURABLE, redis.kill_9()),
        });
        until("Redis answers", async || self.redis.as_ref().unwrap().redis_cli(&["PING"]).ok()).await;
    }

    /// Starts the program again, and waits until claims wait for the operator; returns the reason.
    pub async fn until_it_waits(&mut self) -> String {
        self.sale.start_server_unready().await;
        until("claims wait for the operator", async || {
            let ready = self.sale.get("/readyz").await;
            let detail = ready.body["detail"].as_str().unwrap_or_default().to_owned();
            (ready.status == 503 && detail.contains(ORDERED)).then_some(detail)
        })
        .await
    }

    pub async fn rebuild(&self) -> Value {
        let order = Some(json!({"rebuild": true}));
        let rebuilt = self.sale.admin(Method::POST, "/v1/admin/reconcile", order).await;
        assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
        self.sale.until_ready().await;
        rebuilt.body
    }

    pub async fn edit(&self, coupon: &str, change: Value) {
        until("the coupon is edited", async || {
            let path = format!("/v1/admin/coupons/{coupon}");
            let edited = self.sale.admin(Method::PATCH, &path, Some(change.clone())).await;
            assert!([200, 503].contains(&edited.status), "{}", edited.text);
            (edited.status == 200).then_some(())
        })
        .await;
    }

    pub async fn sell(&self, coupon: &str, users: std::ops::Range<usize>) -> Vec<String> {
        let mut orders = Vec::new();
        for user in users {
            let claim = self.sale.claim(coupon, &format!("user-{user}")).await;
            assert_eq!(claim.status, 202, "{}", claim.text);
            orders.push(claim.body["order"].as_str().unwrap().to_owned());
        }
        orders
    }

    /// Actor, action, coupon and new total of each row since the last ordered rebuild; the oldest row first.
    pub fn audit_log(&self) -> String {
        self.psql(
            "select string_agg(concat_ws(' ', actor, action, coalesce(coupon_id, '-'), coalesce(new ->> 'total', '-')),
                ', ' order by id)
             from seckill.audit_log where id >= (select max(id) from seckill.audit_log where action = 'rebuild')",
        )
    }

    pub fn definition(&self, coupon: &str) -> String {
        self.psql(&format!("select total, paused, title from seckill.coupons where id = '{coupon}'"))
    }
}

pub fn edit_of<'r>(report: &'r Value, coupon: &str) -> &'r Value {
    let edits = report["edits"].as_array().unwrap();
    edits.iter().find(|edit| edit["coupon"] == coupon).unwrap_or_else(|| panic!("{coupon}: {report:#}"))
}
