//! The table of the card's states, row by row: the state, the button and the words for each thing that can be known.

use serde_json::{Value, json};
use support::Sale;

use crate::browser::with_browser;

/// Evaluates `present` of `view.js`, which is a pure function, for one coupon and one user.
const PRESENT: &str = "(coupon, me) => import('/assets/view.js').then(({ present }) => {
    const at = Date.parse('2026-11-24T13:59:18Z');
    const order = (status, more) => ({ order: 'id', status, claimed_at: at - 30_000, recorded_at: at - 29_987,
      reserved_until: at + 872_000, ...more });
    const base = { id: 'x', title: 'Coffee', total: 100, stock: 37, state: 'open', starts_at: null, ends_at: null,
      per_user_limit: 1, reserve_seconds: null };
    const user = { user: 'alice', phase: '', tries: 2, of: 6, retryAt: at + 1800, held: 0 };
    if (me.order) Object.assign(me, { order: order(...me.order) });
    if (coupon.starts_in) coupon.starts_at = at + coupon.starts_in;
    const card = present({ ...base, ...coupon }, { ...user, ...me }, at);
    return [card.state, card.button.label, card.button.can, card.note];
  })";

/// Coupon, what the user does with it, then: state, button, whether it can be pressed, and the words below it.
#[rustfmt::skip]
fn table() -> Vec<(Value, Value, [&'static str; 3], bool)> {
    let sold_out = json!({"stock": 0, "state": "sold_out"});
    let line = json!({"stock": 0, "state": "sold_out", "waitlist": true, "waiting": 4});
    let open = json!({});
    let order = |status: &str| json!({"order": [status, {}], "held": 1});
    let ended = |status: &str| json!({"order": [status, {}]});
    let phase = |phase: &str| json!({"phase": phase});
    let refusal = |code: &str| json!({"refusal": code});
    vec![
        (open.clone(), json!({"user": null}), ["Open", "Sign in to grab", "Looking needs no sign-in, grabbing does."], true),
        (open.clone(), json!({"user": null, "isExpired": true}), ["Open", "Sign in to grab", "Your sign-in has run out. Sign in again; your orders are kept."], true),
        (json!({"state": "scheduled", "starts_in": 42_000}), json!({}), ["Not open yet", "Opens at 14:00:00", "It opens here by itself, by the server's clock."], false),
        (json!({"state": "scheduled", "starts_in": 1000}), refusal("not-started"), ["Not open yet", "Opens at 13:59:19", "Not open yet by the server's clock. The countdown has been corrected."], false),
        (open.clone(), json!({}), ["Open", "Grab", "You see your order number at once."], true),
        (open.clone(), phase("sending"), ["Open", "Sending…", "Once is enough. Pressing again changes nothing."], false),
        (open.clone(), phase("slow"), ["Open", "Sending…", "No answer yet. Keep this page open; you cannot end up with two."], false),
        (open.clone(), order("accepted"), ["Open", "Yours", "A unit is yours; being recorded."], false),
        (open.clone(), json!({"order": ["accepted", {"isSlow": true}], "held": 1}), ["Open", "Yours", "A unit is yours; recording is slow."], false),
        (json!({"reserve_seconds": 900}), order("reserved"), ["Open", "Yours", "Reserved until 14:13:50. Pay in the shop; this page follows."], false),
        (json!({"reserve_seconds": 900}), json!({"order": ["reserved", {}], "held": 1, "canPay": true}), ["Open", "Yours", "Reserved until 14:13:50."], false),
        // A time on another day has its day.
        (json!({"reserve_seconds": 900_000}), json!({"order": ["reserved", {"reserved_until": 1_796_392_758_000_i64}], "held": 1, "canPay": true}), ["Open", "Yours", "Reserved until 4 Dec, 13:59."], false),
        (json!({"state": "ended", "ends_at": 1_794_923_958_000_i64}), json!({}), ["Ended", "Ended", "The sale ended at 17 Nov, 13:59."], false),
        (open.clone(), order("confirmed"), ["Open", "Yours", "Confirmed. It is yours."], false),
        (json!({"per_user_limit": 2}), order("confirmed"), ["Open", "Grab another", "Confirmed. It is yours."], true),
        (open.clone(), phase("busy"), ["Open", "Trying again…", "The sale is busy. Trying again in 2 s (try 2 of 6). You cannot end up with two."], false),
        (open.clone(), phase("gave-up"), ["Open", "Try again", "Still busy after 6 tries. If one got through, it will show here."], true),
        (open.clone(), phase("rate"), ["Open", "Wait 2 s", "Too many tries from you at once."], false),
        (sold_out.clone(), json!({}), ["Sold out", "Sold out", "All 100 are taken. If one comes back, the button opens by itself."], false),
        (sold_out, refusal("sold-out"), ["Sold out", "Sold out", "Sold out a moment before your claim arrived. Nothing was taken from you."], false),
        (json!({"state": "paused"}), json!({}), ["Paused", "Paused", "The seller has paused the sale. Orders already made stand."], false),
        (json!({"per_user_limit": 2}), refusal("limit-reached"), ["Open", "Limit reached", "You hold 2 of 2 per person."], false),
        (open.clone(), ended("rejected"), ["Open", "Grab", "Your order could not be recorded, so your unit went back to stock. You may grab again."], true),
        (open.clone(), ended("lost"), ["Open", "Grab", "Your order was lost with a server before it was recorded. Please grab again."], true),
        (open.clone(), ended("expired"), ["Open", "Grab", "The time to pay ran out, so your unit went back to stock."], true),
        (json!({"reserve_seconds": 900}), json!({"order": ["reserved", {"reserved_until": 1}]}), ["Open", "Grab", "The time to pay ran out, so your unit went back to stock."], true),
        (open.clone(), ended("cancelled"), ["Open", "Grab", "You gave it back. The unit is in stock again."], true),
        (open.clone(), json!({"order": ["cancelled", {"reason": "chargeback"}]}), ["Open", "Grab", "The shop cancelled this order: chargeback"], true),
        (open.clone(), refusal("unknown-coupon"), ["Not on sale", "Not on sale", "This coupon is no longer on sale here."], false),
        (open, json!({"refusal": "internal", "detail": "it has been logged", "requestId": "7"}), ["Open", "Grab", "The server refused: it has been logged (request 7)."], true),
        (line.clone(), json!({"user": null}), ["Sold out", "Sign in to wait", "Sold out, 4 in line. Units that come back go to the line, in order."], true),
        (line.clone(), json!({}), ["Sold out", "Join the waiting list", "Sold out, 4 in line. Units that come back go to the line, in order."], true),
        (line.clone(), phase("joining"), ["Sold out", "Joining…", "Taking your place in line. You get one place, however often you press."], false),
        (line.clone(), json!({"place": {"place": 3, "waiting": 4}}), ["Sold out", "In line", "Yours by itself when your turn comes."], false),
        // A unit that must be paid for comes before one that may come.
        (json!({"stock": 0, "state": "sold_out", "waitlist": true, "waiting": 4, "per_user_limit": 2, "reserve_seconds": 900}), json!({"order": ["reserved", {}], "held": 1, "canPay": true, "place": {"place": 3, "waiting": 4}}), ["Sold out", "In line", "Reserved until 14:13:50."], false),
        (line.clone(), refusal("waitlist-full"), ["Sold out", "Waiting list full", "No more users can wait for this coupon now."], false),
        (line, ended("expired"), ["Sold out", "Join the waiting list", "The time to pay ran out, so your unit went to the next in line."], true),
    ]
}

#[tokio::test]
async fn the_card_has_the_words_of_the_table_for_every_state() {
    let sale = Sale::start().await;
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        page.set_time_zone("UTC").await;
        for (coupon, me, [state, label, words], can) in table() {
            let shown = page.value(&format!("({PRESENT})({coupon}, {me})")).await;
            assert_eq!(shown, json!([state, label, can, words]), "{coupon} {me}");
        }
    })
    .await;
}
