//! What more partitions cost on one machine: the rate of recorded orders, and Redis's CPU time a claim, with 1, 4 and 16
//! partitions in one Redis. Also the sum of the measured parts: which part is the wall when each partition has a Redis core of
//! its own.

use std::sync::Arc;
use std::time::Instant;

use super::fixture::wait_until;
use super::load;
use super::measurements::Measurements;
use super::rate::{Rate, to_f64};
use super::redis_cpu::redis_cpu;
use super::scenarios::{Bench, MANY_UNITS, RATE, REDIS_CPU};

const PARTITIONS: [usize; 3] = [1, 4, 16];

impl Bench<'_> {
    pub async fn partitions(&self, results: &mut Measurements) -> anyhow::Result<()> {
        for partitions in PARTITIONS {
            let server = self.fixture.start_partitions(partitions).await?;
            let ids: Vec<String> = (0..partitions).map(|number| format!("coupon-{number}")).collect();
            for id in &ids {
                server.create(id, MANY_UNITS).await?;
            }
            let cpu = redis_cpu(&self.fixture.redis).await?;
            let claims = self.users.claims(0..self.users.count(), |user| &ids[user % ids.len()]);
            let started = Instant::now();
            let answers = load::run(self.load(&server, None), Arc::new(claims)).await?.only(&[202])?;
            let accepted = answers.count(202);
            wait_until("all orders are recorded", async || {
                let rows = self.fixture.query_count("select count(*) from orders").await?;
                Ok((u64::try_from(rows)? >= accepted).then_some(()))
            })
            .await?;
            let recorded = Rate { operations: accepted, elapsed: started.elapsed() };
            let cpu = redis_cpu(&self.fixture.redis).await?.saturating_sub(cpu);
            server.stop().await?;
            let plural = if partitions == 1 { "" } else { "s" };
            let name = |what: &str| format!("{what}, {partitions} partition{plural}");
            results.add_rate("partitions", name(RATE), recorded);
            results.add("partitions", name(REDIS_CPU), cpu.as_secs_f64() * 1e6 / to_f64(accepted), "µs");
            if partitions > 1 {
                let one = format!("{RATE}, 1 partition");
                results.add_ratio("partitions", &name(RATE), ("partitions", &one));
            }
        }
        Ok(())
    }
}
