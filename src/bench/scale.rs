//! Whether claims are slower with many coupons, or with many claims of one coupon.

use super::Rate;
use super::fixture::{SCHEMA, connect};
use super::measurements::Measurements;
use super::preload::preload_claims;
use super::report::format_count;
use super::scenarios::{Bench, COUPON, MANY_UNITS, RATE};
use crate::postgres::Postgres;

/// More claims than any scenario here makes. The limit must not matter, since no worker drains the backlog.
const NO_BACKLOG_LIMIT: [(&str, &str); 1] = [("SECKILL_MAX_BACKLOG", "1000000000")];
const ONE_COUPON: &str = "a second, one coupon";
const NO_CLAIMS: &str = "a second, without claims";

impl Bench<'_> {
    /// Claims of one coupon, then claims of many coupons in turn.
    pub async fn coupons(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(0).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let one = self.drive(&server, self.claims_of_all_users()).await?.only(&[202])?.rate(202);
        server.stop().await?;
        results.add_rate("coupons", ONE_COUPON, one);

        let ids: Vec<String> =
            (0..self.parameters.coupons).map(|number| format!("coupon-{number}")).collect();
        self.fixture.empty_stores().await?;
        self.insert(&ids).await?;
        // The server publishes the coupons of Postgres when it starts.
        let server = self.fixture.start_server(0, &NO_BACKLOG_LIMIT).await?;
        let claims = self.users.claims(0..self.users.count(), |user| &ids[user % ids.len()]);
        let many = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        server.stop().await?;
        add_rate_and_ratio(
            results,
            "coupons",
            &format!("{} coupons", format_count(ids.len())),
            many,
            ONE_COUPON,
        );
        Ok(())
    }

    /// Inserts coupons into Postgres only.
    async fn insert(&self, ids: &[String]) -> anyhow::Result<()> {
        Postgres::new(&self.fixture.addresses.database_url, SCHEMA)?.prepare().await?;
        let mut postgres = connect(&self.fixture.addresses).await?;
        sqlx::query(
            "insert into coupons (id, title, total, stock) select id, '', $2, $2 from unnest($1::text[]) id",
        )
        .bind(ids)
        .bind(i64::try_from(MANY_UNITS)?)
        .execute(&mut postgres)
        .await?;
        Ok(())
    }

    /// Claims of one coupon, first without earlier claims and then with millions. Redis rewrites its log while the millions
    /// are loaded, so the second measurement waits until no rewrite runs.
    pub async fn loaded(&self, results: &mut Measurements) -> anyhow::Result<()> {
        self.fixture.empty_stores().await?;
        let server = self.fixture.start_server(0, &NO_BACKLOG_LIMIT).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let (all, half) = (self.users.count(), self.users.count() / 2);
        let claims = self.users.claims(0..half, |_| COUPON);
        let without = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        results.add_rate("loaded", NO_CLAIMS, without);

        let loaded = self.parameters.loaded_claims;
        preload_claims(self.fixture, COUPON, all..all + loaded).await?;
        self.fixture.wait_until_log_rewritten().await?;
        let claims = self.users.claims(half..all, |_| COUPON);
        let with = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        server.stop().await?;
        add_rate_and_ratio(
            results,
            "loaded",
            &format!("{} claims before", format_count(loaded)),
            with,
            NO_CLAIMS,
        );
        Ok(())
    }
}

fn add_rate_and_ratio(results: &mut Measurements, scenario: &'static str, name: &str, rate: Rate, to: &str) {
    let what = format!("{RATE}, {name}");
    results.add_rate(scenario, &what, rate);
    results.add_ratio(scenario, &what, (scenario, to));
}
