//! Reads one of the stores again and again during a run.

use std::time::Duration;

use crate::history::{Line, Sample};
use crate::stores::Stores;
use crate::workload::Workload;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
pub enum Store {
    Redis,
    Postgres,
}

/// Samples one store until the workload ends. Each store has its own sampler, so that neither waits for the other.
pub async fn sample(workload: &Workload, stores: &Stores, store: Store) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !workload.is_over() {
        ticks.tick().await;
        let mut sample = Sample::default();
        let began_us = workload.recorder.now_us();
        match store {
            Store::Redis => sample.redis = stores.redis_state().await.ok(),
            Store::Postgres => sample.postgres = stores.postgres_coupons().await.ok(),
        }
        sample.span = workload.recorder.since(began_us);
        workload.recorder.add(Line::Sample(sample));
    }
}
