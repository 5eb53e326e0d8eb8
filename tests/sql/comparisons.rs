//! The last comparison of each partition.

use seckill::domain::Partition;
use seckill::postgres::comparisons::{self, LastComparison};

use crate::harness::Database;

const TWO: Partition = Partition::new(2);

fn kinds(differences: &[(&str, i64)]) -> Vec<(String, i64)> {
    differences.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

#[tokio::test]
async fn a_comparison_replaces_the_earlier_one_of_its_partition_only() {
    let database = Database::new("comparisons").await;
    let pool = &database.postgres.pool;
    assert_eq!(comparisons::read(pool).await.unwrap(), []);
    comparisons::record(pool, Partition::DEFAULT, &[("lost_event", 3), ("waitlist", 0)]).await.unwrap();
    comparisons::record(pool, TWO, &[("lost_event", 1)]).await.unwrap();
    let of = async |partition| -> LastComparison {
        let read = comparisons::read(pool).await.unwrap();
        assert_eq!(read.len(), 2);
        read.into_iter().find(|last| last.partition == partition).unwrap()
    };
    let first = of(Partition::DEFAULT).await;
    assert_eq!(first.differences, kinds(&[("lost_event", 3), ("waitlist", 0)]));
    comparisons::record(pool, Partition::DEFAULT, &[("lost_event", 0)]).await.unwrap();
    let second = of(Partition::DEFAULT).await;
    assert_eq!(second.differences, kinds(&[("lost_event", 0)]));
    assert!(second.compared_at > first.compared_at);
    assert_eq!(of(TWO).await.differences, kinds(&[("lost_event", 1)]));
}
