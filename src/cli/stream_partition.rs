//! The option of `seckill stream` that says which partition's stream is read.

use clap::Args;

use crate::config;

/// Which stream: each partition has one.
#[derive(Args)]
pub struct PartitionArg {
    /// Of which partition [default: 0]; `seckill coupon show` has the partition of a coupon
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| config::parse_whole(text, 0..=i16::MAX))]
    partition: Option<i16>,
}

impl PartitionArg {
    /// The value of the query's `partition`; `None` for the default.
    pub fn number(&self) -> Option<String> {
        self.partition.map(|number| number.to_string())
    }
}
