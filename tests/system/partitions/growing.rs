//! Partitions are added while the program runs.

use super::{
    ask, assert_orders_in_their_partitions, assert_whole, buy, order_of, orders_key, until_stock, until_up,
};
use seckill::domain::OrderId;
use support::{Sale, until};

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

#[tokio::test]
async fn a_coupon_of_a_partition_that_has_not_started_is_refused_and_taken_for_no_loss() {
    let sale = Sale::start().await;
    sale.create("tea", 10).await;
    let epoch = sale.epoch();
    // Another process has made a partition and a coupon in it; this one has not seen the row of the fence.
    sale.psql(
        "insert into coupons (id, title, total, stock, partition, version, published_version)
         values ('far', 'far', 5, 4, 48, 1, 1)",
    );
    let reserved = OrderId::mint().to_string();
    sale.psql(&format!(
        "insert into orders (id, partition, coupon_id, user_id, status, claimed_at, reserved_until)
         values ('{reserved}', 48, 'far', 'zoe', 'reserved', now(), now() + interval '1 hour')"
    ));
    let too_early = ask(&sale, "zoe", &reserved, "confirm").await;
    too_early.assert_problem(503, "unavailable");
    assert!(too_early.text.contains("partition 48"), "{}", too_early.text);
    until("the process knows the coupon", async || {
        (sale.claim("far", "alice").await.status == 503).then_some(())
    })
    .await;
    for _ in 0..3 {
        let refused = sale.claim("far", "alice").await;
        refused.assert_problem(503, "unavailable");
        assert!(refused.text.contains("partition 48"), "{}", refused.text);
        buy(&sale, "tea", &format!("user-{}", sale.psql_number("select count(*) from orders"))).await;
    }
    assert_eq!(sale.epoch(), epoch, "partition 0 has lost nothing");
    assert_eq!(sale.redis_cli(&["EXISTS", &orders_key(48)]), "0");

    sale.psql("insert into fence (partition, epoch) values (48, '0-0')");
    let order = until("the partition sells", async || {
        let answer = sale.claim("far", "alice").await;
        (answer.status == 202).then(|| order_of(&answer))
    })
    .await;
    sale.until_quiet().await;
    assert_eq!(sale.psql(&format!("select partition from orders where id = '{order}'")), "48");
    assert_eq!(ask(&sale, "zoe", &reserved, "confirm").await.body["status"], "confirmed");
    until_stock(&sale, "far", 3).await;
    assert_whole(&sale, &["far", "tea"].map(str::to_owned), 5).await;
}
