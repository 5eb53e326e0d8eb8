//! Tests of the trace: that of a small real run is allowed, and the same with one line edited by hand, dropped,
//! doubled or moved is refused at that line, or where it is first missed.

use std::time::Duration;

use model::trace::{Change, Effect, Line};
use reqwest::Method;
use serde_json::json;

use crate::history::{Claim, Class, History, Span, Status};
use crate::stage::Stage;
use crate::trace::{follow, read};
use support::until;

const COUPON: &str = "coffee";

/// Three units for alice, bob and carol; dave comes too late. Alice's order is ended by hand, dave gets its unit,
/// the total is raised, an entry is made by hand that nobody can read, and Redis is flushed.
async fn small_run() -> Vec<Line> {
    let stage = Stage::set(vec![COUPON.to_owned()], Duration::from_secs(1)).await;
    let sale = &stage.program;
    sale.create(COUPON, 3).await;
    for (user, status) in [("alice", 202), ("bob", 202), ("carol", 202), ("dave", 409)] {
        assert_eq!(sale.claim(COUPON, user).await.status, status, "{user}");
    }
    sale.until_quiet().await;
    sale.end_order(&sale.psql("select id from orders where user_id = 'alice'"));
    until("dave has alice's unit", async || (sale.claim(COUPON, "dave").await.status == 202).then_some(()))
        .await;
    let path = format!("/v1/admin/coupons/{COUPON}");
    assert_eq!(sale.admin(Method::PATCH, &path, Some(json!({"total": 5}))).await.status, 200);
    let strange = ["XADD", "seckill:{0}:orders", "NOMKSTREAM", "*", "hello", "world"];
    stage.stores.redis_cli(&strange).await.unwrap();
    until("it is a dead letter", async || {
        (sale.psql_number("select count(*) from dead_letters") == 1).then_some(())
    })
    .await;
    sale.until_quiet().await;
    stage.stores.redis_cli(&["FLUSHALL"]).await.unwrap();
    until("the run is at rest", async || {
        let lines = read(&stage).await.ok()?;
        follow(&lines).ok().map(|_| lines)
    })
    .await
}

/// One edit of a trace; `None` where there is nothing to edit.
type Edit = fn(&mut Vec<Line>) -> Option<()>;

/// Each with a part of the sentence that refuses it.
const EDITS: [(Edit, &str); 20] = [
    (|lines| drop_line(lines, is_recording), "no commit that was noted has ended its order"),
    (
        |lines| put_before(lines, is_acknowledgement, is_recording),
        "no commit that was noted has ended its order",
    ),
    (|lines| put_before(lines, is_recording, is_claim), "comes from no event"),
    (|lines| double(lines, is_recording), "became confirmed"),
    (|lines| edit(lines, is_recording, give_away), "comes from no event"),
    (|lines| without_change(lines, is_recording, is_stock), "no longer its total"),
    (|lines| without(lines, is_claim, |effect| matches!(effect, Effect::Sent { .. })), "no script does"),
    (
        |lines| without(lines, is_claim, |effect| matches!(effect, Effect::StockMoved { .. })),
        "does not add up",
    ),
    (|lines| double(lines, is_claim), "and was given"),
    (|lines| drop_line(lines, is_claim), "comes from no event"),
    (|lines| without(lines, is_acknowledgement, is_note), "no commit that was noted has ended its order"),
    (|lines| drop_line(lines, is_only_a_note), "before its commit was noted"),
    (|lines| drop_line(lines, is_release), "more units of coffee were claimed"),
    (|lines| double(lines, is_release), "did not hold"),
    (
        |lines| without_change(lines, is_cancellation, |change| matches!(change, Change::Waiting { .. })),
        "not in the outbox",
    ),
    (|lines| put_before(lines, is_returned, is_release), "while Redis still holds its unit"),
    (|lines| edit(lines, is_group, skip_what_is_there), "skips what is in the stream"),
    (|lines| drop_line(lines, is_chunk), "beside 0 claims"),
    (|lines| edit(lines, is_flush, disown), "nothing of the program's does"),
    (|lines| drop_line(lines, is_burial), "no commit that was noted has ended its order"),
];

#[tokio::test]
async fn a_trace_is_allowed_as_it_was_left_and_refused_once_it_is_edited() {
    let lines = small_run().await;
    let mut wrong = Vec::new();
    for (number, (edit, sentence)) in EDITS.iter().enumerate() {
        let mut edited = lines.clone();
        edit(&mut edited).unwrap_or_else(|| panic!("edit {number} finds nothing to do"));
        match follow(&edited) {
            Ok(_) => wrong.push(format!("edit {number} is allowed, not refused: {sentence}")),
            Err(why) if why.contains(sentence) => {}
            Err(why) => wrong.push(format!("edit {number} is refused otherwise: {why}, not {sentence}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What users are told is held against what Redis had at the time.
#[tokio::test]
async fn an_answer_that_the_stores_could_not_have_given_is_refused() {
    let lines = small_run().await;
    let first = lines.iter().find_map(|line| match line {
        Line::Redis(effects) => effects.iter().find_map(|effect| match effect {
            Effect::Sent { entry, event } => Some((entry.0 * 1_000, event.clone()?.order)),
            _ => None,
        }),
        _ => None,
    });
    let (first_us, order) = first.unwrap();
    let moments = follow(&lines).unwrap();
    let judge = |class, user: &str, order: Option<&str>, after_ms: i64| {
        let began_us = first_us.checked_add_signed(after_ms * 1_000).unwrap();
        let mut history = History::default();
        history.claims.push(Claim {
            span: Span { began_us, ended_us: began_us },
            coupon: COUPON.into(),
            user: user.into(),
            class,
            told: String::new(),
            order: order.map(str::to_owned),
            status: None,
            insists: false,
        });
        moments.judge(&history)
    };
    assert_eq!(judge(Class::Ok, "alice", Some(&order), 0), Ok(()));
    assert!(
        judge(Class::Ok, "alice", Some("made up"), 0).unwrap_err().contains("of which there was no event")
    );
    // Nothing was sold yet.
    assert!(judge(Class::SoldOut, "dave", None, -1_000).unwrap_err().contains("while there was stock"));
    // Long after the end: two of five units are left.
    assert!(judge(Class::SoldOut, "erin", None, 3_600_000).unwrap_err().contains("while there was stock"));
    let mut history = History::default();
    let asked = Span { began_us: first_us, ended_us: u64::MAX };
    history.statuses.push(Status { span: asked, order: order.clone(), told: "accepted".into() });
    assert_eq!(moments.judge(&history), Ok(()));
    history.statuses[0].span.began_us = u64::MAX;
    assert!(moments.judge(&history).unwrap_err().contains("was recorded, and its owner was told"));
}

fn find(lines: &[Line], which: fn(&Line) -> bool) -> Option<usize> {
    lines.iter().position(which)
}

fn drop_line(lines: &mut Vec<Line>, which: fn(&Line) -> bool) -> Option<()> {
    let place = find(lines, which)?;
    lines.remove(place);
    Some(())
}

fn double(lines: &mut Vec<Line>, which: fn(&Line) -> bool) -> Option<()> {
    let place = find(lines, which)?;
    lines.insert(place, lines[place].clone());
    Some(())
}

/// The first of the one kind goes before the first of the other.
fn put_before(lines: &mut Vec<Line>, which: fn(&Line) -> bool, other: fn(&Line) -> bool) -> Option<()> {
    let (from, to) = (find(lines, which)?, find(lines, other)?);
    let line = lines.remove(from);
    lines.insert(to, line);
    (to < from).then_some(())
}

fn edit(lines: &mut [Line], which: fn(&Line) -> bool, act: fn(&mut Line)) -> Option<()> {
    lines.iter_mut().find(|line| which(line)).map(act)
}

fn without(lines: &mut [Line], which: fn(&Line) -> bool, dropped: fn(&Effect) -> bool) -> Option<()> {
    match lines.iter_mut().find(|line| which(line))? {
        Line::Redis(effects) => effects.retain(|effect| !dropped(effect)),
        _ => return None,
    }
    Some(())
}

fn without_change(lines: &mut [Line], which: fn(&Line) -> bool, dropped: fn(&Change) -> bool) -> Option<()> {
    match lines.iter_mut().find(|line| which(line))? {
        Line::Postgres { changes, .. } => changes.retain(|change| !dropped(change)),
        _ => return None,
    }
    Some(())
}

fn give_away(line: &mut Line) {
    let Line::Postgres { changes, .. } = line else { return };
    for change in changes {
        if let Change::Order { user, .. } = change {
            "mallory".clone_into(user);
        }
    }
}

fn skip_what_is_there(line: &mut Line) {
    let Line::Redis(effects) = line else { return };
    for effect in effects {
        if let Effect::GroupMade { at_start } = effect {
            *at_start = false;
        }
    }
}

fn disown(line: &mut Line) {
    if let Line::Hand { effects, .. } = line {
        *line = Line::Redis(effects.clone());
    }
}

fn of_redis(line: &Line, which: impl Fn(&Effect) -> bool) -> bool {
    matches!(line, Line::Redis(effects) if effects.iter().any(which))
}

fn of_postgres(line: &Line, which: impl Fn(&Change) -> bool) -> bool {
    matches!(line, Line::Postgres { changes, .. } if changes.iter().any(which))
}

fn is_note(effect: &Effect) -> bool {
    matches!(effect, Effect::Noted { .. })
}

fn is_only_a_note(line: &Line) -> bool {
    matches!(line, Line::Redis(effects) if effects.len() == 1) && of_redis(line, is_note)
}

fn is_stock(change: &Change) -> bool {
    matches!(change, Change::Coupon { .. })
}

fn is_claim(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Held { .. }))
        && of_redis(line, |effect| matches!(effect, Effect::Sent { .. }))
}

fn is_recording(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Order { status, .. } if status == "confirmed"))
}

fn is_cancellation(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Order { status, .. } if status == "cancelled"))
}

fn is_group(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::GroupMade { .. }))
}

fn is_flush(line: &Line) -> bool {
    matches!(line, Line::Hand { effects, .. } if effects.contains(&Effect::Flushed))
}

fn is_acknowledgement(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Acknowledged { .. }))
}

fn is_release(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Freed { .. }))
}

fn is_returned(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Returned { .. }))
}

fn is_chunk(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Held { .. })) && !is_claim(line)
}

fn is_burial(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Letter { .. }))
}
