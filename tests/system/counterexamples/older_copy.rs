//! A sale whose Postgres is replaced by an older copy.

use super::{DURABLE, ExternalStore, Sale, folder, on_own_stores, order_of, until};

/// A sale whose Postgres is replaced by an older copy while its Redis continues.
pub struct OlderCopy {
    // Dropped before its stores.
    pub sale: Sale,
    _stores: [ExternalStore; 2],
    /// Alice's order, recorded before the copy was made.
    pub first: String,
}

impl OlderCopy {
    /// Makes a copy, runs `then`, and replaces Postgres by the copy: the effect of `then` on Postgres is lost.
    pub async fn after(then: impl AsyncFnOnce(&Sale, &str)) -> Self {
        let postgres = ExternalStore::postgres(&[]).await;
        let redis = ExternalStore::redis(&DURABLE, folder());
        let sale = on_own_stores(&redis.url("redis"), &postgres).await;
        sale.create("coffee", 1).await;
        let first = order_of(&sale, "alice").await;
        sale.until_quiet().await;
        let dir = postgres.stop();
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("-a").arg(dir.path().join("cluster")).arg(dir.path().join("copy")).status();
        assert!(copied.unwrap().success());
        let postgres = ExternalStore::postgres_at(dir, &[]).await;
        let epoch = sale.epoch();
        then(&sale, &first).await;
        assert_eq!(sale.epoch(), epoch, "no rebuild has recorded a position");
        let dir = postgres.stop();
        std::fs::rename(dir.path().join("cluster"), dir.path().join("lost")).unwrap();
        std::fs::rename(dir.path().join("copy"), dir.path().join("cluster")).unwrap();
        let postgres = ExternalStore::postgres_at(dir, &[]).await;
        Self { sale, _stores: [redis, postgres], first }
    }

    pub async fn until_noticed(&self) {
        until("the loss is noticed", async || {
            self.sale.get("/readyz").await.text.contains("reconcile --rebuild").then_some(())
        })
        .await;
        self.sale.claim("coffee", "late").await.assert_problem(503, "unavailable");
    }
}
