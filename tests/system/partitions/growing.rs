//! Partitions are added while the program runs.

use super::{assert_orders_in_their_partitions, assert_whole, buy, until_up};
use support::Sale;

#[tokio::test]
async fn a_partition_that_another_process_adds_sells_new_coupons_and_old_ones_stay() {
    let mut sale = Sale::start().await;
    for coupon in ["old-1", "old-2"] {
        sale.create(coupon, 10).await;
    }
    buy(&sale, "old-1", "alice").await;
    let epoch = sale.epoch();
    let worker = sale.spawn("worker", &[("SECKILL_PARTITIONS", "2"), ("SECKILL_WORKERS", "1")]);
    until_up(&sale, &[0, 2]).await;
    assert_eq!(sale.partitions(), [0, 2]);
    sale.create("new", 10).await;
    assert_eq!(sale.psql("select id, partition from coupons order by id"), "new|2\nold-1|0\nold-2|0");
    let coupons = ["old-1", "old-2", "new"].map(str::to_owned);
    for coupon in &coupons {
        buy(&sale, coupon, "bob").await;
    }
    assert_eq!(
        sale.psql("select epoch from fence where partition = 0"),
        epoch,
        "partition 0 is not disturbed"
    );
    assert_whole(&sale, &coupons, 4).await;
    // The serving process records the orders of the new partition too.
    assert!(worker.stop().success());
    for coupon in &coupons {
        buy(&sale, coupon, "carol").await;
    }
    // The setting adds partitions and never removes one.
    assert!(sale.stop().success());
    sale.start_server().await;
    until_up(&sale, &[0, 2]).await;
    for coupon in &coupons {
        buy(&sale, coupon, "dave").await;
    }
    assert_whole(&sale, &coupons, 10).await;
    assert_orders_in_their_partitions(&sale);
}
