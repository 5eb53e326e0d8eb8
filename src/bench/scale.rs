//! Whether claims slow down where there is much of something: many coupons, many claims of one.

use super::Rate;
use super::fill::fill;
use super::report::whole;
use super::round::Round;
use super::scenarios::{Bench, COUPON, PLENTY, RATE};
use super::stage::{SCHEMA, connect};
use crate::postgres::Postgres;

/// Beyond what is loaded: no scenario here has a worker.
const NO_LIMIT: [(&str, &str); 1] = [("SECKILL_MAX_BACKLOG", "1000000000")];
const ONE_COUPON: &str = "a second, one coupon";
const NO_CLAIMS: &str = "a second, without claims";

impl Bench<'_> {
    /// Claims of every coupon in turn, and right before of one.
    pub async fn coupons(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        let one = self.drive(&server, self.everybody()).await?.only(&[202])?.rate(202);
        server.stop().await?;
        round.rate("coupons", ONE_COUPON, one);

        let ids: Vec<String> = (0..self.plan.coupons).map(|number| format!("coupon-{number}")).collect();
        self.stage.empty().await?;
        self.insert(&ids).await?;
        // Its first agreement of the stores publishes what Postgres has.
        let server = self.stage.open(0, &NO_LIMIT).await?;
        let claims = self.users.claims(0..self.users.count(), |user| &ids[user % ids.len()]);
        let many = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        server.stop().await?;
        note(round, "coupons", &format!("{} coupons", whole(ids.len())), many, ONE_COUPON);
        Ok(())
    }

    /// Coupons in Postgres alone.
    async fn insert(&self, ids: &[String]) -> anyhow::Result<()> {
        Postgres::new(&self.stage.addresses.database_url, SCHEMA)?.prepare().await?;
        let mut postgres = connect(&self.stage.addresses).await?;
        sqlx::query(
            "insert into coupons (id, title, total, stock) select id, '', $2, $2 from unnest($1::text[]) id",
        )
        .bind(ids)
        .bind(i64::try_from(PLENTY)?)
        .execute(&mut postgres)
        .await?;
        Ok(())
    }

    /// Claims of a coupon that has millions, and before of the same without them. Redis rewrites its log of itself
    /// while they are loaded, several times, and may be at it when they are all there: that is waited for.
    pub async fn loaded(&self, round: &mut Round) -> anyhow::Result<()> {
        self.stage.empty().await?;
        let server = self.stage.open(0, &NO_LIMIT).await?;
        server.create(COUPON, PLENTY).await?;
        let (all, half) = (self.users.count(), self.users.count() / 2);
        let claims = self.users.claims(0..half, |_| COUPON);
        let without = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        round.rate("loaded", NO_CLAIMS, without);

        let loaded = self.plan.loaded_claims;
        fill(self.stage, COUPON, all..all + loaded).await?;
        self.stage.until_log_rewritten().await?;
        let claims = self.users.claims(half..all, |_| COUPON);
        let with = self.drive(&server, claims).await?.only(&[202])?.rate(202);
        server.stop().await?;
        note(round, "loaded", &format!("{} claims before", whole(loaded)), with, NO_CLAIMS);
        Ok(())
    }
}

fn note(round: &mut Round, scenario: &'static str, name: &str, rate: Rate, to: &str) {
    let what = format!("{RATE}, {name}");
    round.rate(scenario, &what, rate);
    round.ratio(scenario, &what, (scenario, to));
}
