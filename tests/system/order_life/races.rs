//! Confirms and cancels of one order at the same time: exactly one of them wins.

use futures_util::future::join_all;

use support::{Sale, until};

use super::{ask, ask_as_admin, assert_order, create_reserving, order_of};

#[tokio::test]
async fn fifty_confirms_and_cancels_of_one_order_have_one_winner() {
    const ROUNDS: usize = 5;
    let sale = Sale::start().await;
    create_reserving(&sale, 10).await;
    for round in 0..ROUNDS {
        let user = format!("user-{round}");
        let order = order_of(&sale, &user).await;
        let one = async |number: usize| {
            let transition = if number.is_multiple_of(2) { "confirm" } else { "cancel" };
            let answer = if number.is_multiple_of(3) {
                ask_as_admin(&sale, &order, transition).await
            } else {
                ask(&sale, &user, &order, transition).await
            };
            (transition, answer)
        };
        let answers = join_all((0..50).map(one)).await;
        let status = sale.psql(&format!("select status from orders where id = '{order}'"));
        let (winner, refusal) = if status == "confirmed" {
            ("confirm", "order-confirmed")
        } else {
            ("cancel", "order-cancelled")
        };
        for (transition, answer) in answers {
            if transition == winner {
                assert_order(&answer, &order, &status);
            } else {
                answer.assert_problem(409, refusal);
            }
        }
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn many_orders_confirmed_and_cancelled_at_once_leave_the_right_stock() {
    let sale = Sale::start().await;
    create_reserving(&sale, 60).await;
    let orders = join_all((0..60).map(async |number: usize| {
        let user = format!("user-{number}");
        let order = order_of(&sale, &user).await;
        (user, order)
    }))
    .await;
    join_all(orders.iter().map(async |(user, order)| {
        let (confirmed, cancelled) =
            tokio::join!(ask(&sale, user, order, "confirm"), ask(&sale, user, order, "cancel"));
        let winners = [&confirmed, &cancelled].iter().filter(|answer| answer.status == 200).count();
        assert_eq!(winners, 1, "{} {}", confirmed.text, cancelled.text);
    }))
    .await;
    sale.assert_in_agreement("coffee").await;
}

/// The deadlines pass while the requests run, and two processes sweep.
#[tokio::test]
async fn a_confirm_two_cancels_and_the_sweeper_race_for_each_of_500_orders_and_one_wins() {
    const ORDERS: usize = 500;
    let sale = Sale::start().await;
    let _second = sale.spawn("worker", &[]);
    create_reserving(&sale, 500).await;
    let orders = join_all((0..ORDERS).map(async |number: usize| {
        let user = format!("user-{number}");
        let order = order_of(&sale, &user).await;
        (user, order)
    }))
    .await;
    sale.psql("update orders set reserved_until = clock_timestamp() + random() * interval '2 seconds'");
    let ends = join_all(orders.iter().map(async |(user, order)| {
        let (confirmed, by_owner, by_admin) = tokio::join!(
            ask(&sale, user, order, "confirm"),
            ask(&sale, user, order, "cancel"),
            ask_as_admin(&sale, order, "cancel"),
        );
        let cancels = [by_owner, by_admin];
        let has_code =
            |code: &str| cancels.iter().all(|cancel| cancel.status == 409 && cancel.code() == code);
        if confirmed.status == 200 {
            assert!(has_code("order-confirmed"), "{}", cancels[0].text);
            return "confirmed";
        }
        if confirmed.code() == "order-cancelled" {
            // The other cancel is a repeat and gets the same order, even after the deadline.
            for cancel in &cancels {
                assert_order(cancel, order, "cancelled");
            }
            return "cancelled";
        }
        assert_eq!((confirmed.code(), &confirmed.body["refund_due"]), ("order-expired", &true.into()));
        assert!(has_code("order-expired"), "{}", cancels[0].text);
        "expired"
    }))
    .await;
    // An order that is answered as expired is `reserved` until a sweeper comes.
    until("the sweepers have expired the overdue orders", async || {
        (sale.psql_number("select count(*) from orders where status = 'reserved'") == 0).then_some(())
    })
    .await;
    sale.until_quiet().await;
    let mut expected: Vec<String> =
        orders.iter().zip(&ends).map(|((_, order), end)| format!("{order}|{end}")).collect();
    expected.sort();
    assert_eq!(sale.psql("select id, status from orders order by id"), expected.join("\n"));
    let confirmed = ends.iter().filter(|end| **end == "confirmed").count();
    println!("{confirmed} confirmed, {} expired", ends.iter().filter(|end| **end == "expired").count());
    assert_eq!(sale.psql_number("select stock from coupons"), i64::try_from(ORDERS - confirmed).unwrap());
    sale.assert_in_agreement("coffee").await;
}
