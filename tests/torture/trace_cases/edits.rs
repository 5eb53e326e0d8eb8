//! The edits of a trace that the replay must refuse: which line, what happens to it, and a part of the message.

use model::trace::{Change, Effect, Line};

/// One edit of a trace; `None` if the trace has no line to edit.
pub type Edit = fn(&mut Vec<Line>) -> Option<()>;

/// Each edit with a part of the message that refuses it.
pub const EDITS: [(Edit, &str); 38] = [
    (drop_acknowledged_recording, "no commit that was noted has ended its order"),
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
    (|lines| edit(lines, is_cancellation, expire), "confirmed, became expired"),
    (|lines| edit(lines, is_recording_of_k2, use_k1), "with key Some(\"k2\") and recorded with Some(\"k1\")"),
    (|lines| edit(lines, is_claim_of_k3, use_k1), "with key k1 and was given"),
    (|lines| edit(lines, is_chunk_of_k3, use_k1), "with key Some(\"k1\"), which was claimed with"),
    (
        |lines| {
            edit(lines, is_recording_of_k3, use_k1)?;
            edit(lines, is_claim_of_k3, claim_by_hand_with_k1)
        },
        "with key k1 and was given",
    ),
    (|lines| drop_line(lines, is_row_in_line), "no commit that was noted has the row"),
    (|lines| put_before(lines, is_join, is_row_in_line), "no commit that was noted has the row"),
    (|lines| without(lines, is_join, is_note), "no commit that was noted has the row"),
    (|lines| double(lines, is_row_in_line), "joined a line twice"),
    (|lines| double(lines, is_join), "a second place"),
    (|lines| without(lines, is_join, is_place), "an order has no place"),
    (|lines| edit(lines, is_second_join, go_first), "before others in the line of cocoa"),
    (|lines| drop_line(lines, is_leave), "the row of ivan in the line of cocoa was deleted"),
    (|lines| edit(lines, is_hand_over, serve_heidi), "heidi was served before Some(\"grace\")"),
    (|lines| without(lines, is_hand_over, is_of_a_claim), "without a unit"),
    (|lines| without(lines, is_serve, is_removal), "claimed cocoa while users waited"),
    (|lines| drop_line(lines, is_line_of_a_rebuild), "judy took a place in the line of cocoa"),
    (
        |lines| edit(lines, is_line_of_a_rebuild, invent_a_place),
        "a rebuild puts judy into the line of cocoa, who",
    ),
];

fn find(lines: &[Line], which: fn(&Line) -> bool) -> Option<usize> {
    lines.iter().position(which)
}

fn drop_line(lines: &mut Vec<Line>, which: fn(&Line) -> bool) -> Option<()> {
    let place = find(lines, which)?;
    lines.remove(place);
    Some(())
}

/// Of a recording that is acknowledged before the next one: a worker may record a batch before it acknowledges the last
/// one, and then the missing stock is noticed first.
fn drop_acknowledged_recording(lines: &mut Vec<Line>) -> Option<()> {
    let of_workers = |line: &Line| is_recording(line) || is_acknowledgement(line);
    let places: Vec<usize> = (0..lines.len()).filter(|&place| of_workers(&lines[place])).collect();
    let is_wanted = |pair: &&[usize]| is_recording(&lines[pair[0]]) && is_acknowledgement(&lines[pair[1]]);
    let place = places.windows(2).find(is_wanted)?[0];
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

fn expire(line: &mut Line) {
    let Line::Postgres { changes, .. } = line else { return };
    for change in changes {
        if let Change::Order { status, .. } = change {
            "expired".clone_into(status);
        }
    }
}

fn use_k1(line: &mut Line) {
    let new = "k1".to_owned();
    match line {
        Line::Redis(effects) => {
            for effect in effects {
                match effect {
                    Effect::Held { key: Some(key), .. } => key.clone_from(&new),
                    Effect::Sent { event: Some(event), .. } => event.key = Some(new.clone()),
                    _ => {}
                }
            }
        }
        Line::Postgres { changes, .. } => {
            for change in changes {
                if let Change::Order { key: Some(key), .. } = change {
                    key.clone_from(&new);
                }
            }
        }
        Line::Hand { .. } => {}
    }
}

/// A second claim with the key that no script of the program made.
fn claim_by_hand_with_k1(line: &mut Line) {
    use_k1(line);
    if let Line::Redis(effects) = line {
        *line = Line::Hand { effects: effects.clone(), changes: Vec::new() };
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

fn holds_key(line: &Line, wanted: &str) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Held { key: Some(key), .. } if key == wanted))
}

fn is_claim_of_k3(line: &Line) -> bool {
    is_claim(line) && holds_key(line, "k3")
}

fn is_chunk_of_k3(line: &Line) -> bool {
    is_chunk(line) && holds_key(line, "k3")
}

fn is_recording_of_k2(line: &Line) -> bool {
    is_recording_of(line, "k2")
}

fn is_recording_of_k3(line: &Line) -> bool {
    is_recording_of(line, "k3")
}

fn is_recording_of(line: &Line, wanted: &str) -> bool {
    of_postgres(
        line,
        |change| matches!(change, Change::Order { key: Some(key), status, .. } if key == wanted && status == "reserved"),
    )
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

fn is_row_in_line(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Joined { .. }))
}

fn is_place(effect: &Effect) -> bool {
    matches!(effect, Effect::Placed { .. })
}

fn is_removal(effect: &Effect) -> bool {
    matches!(effect, Effect::Unplaced { .. } | Effect::Unpromised { .. })
}

fn is_of_a_claim(effect: &Effect) -> bool {
    matches!(effect, Effect::Held { .. } | Effect::Sent { .. } | Effect::StockMoved { by: -1, .. })
}

fn is_join(line: &Line) -> bool {
    of_redis(line, is_place)
}

fn is_second_join(line: &Line) -> bool {
    of_redis(line, |effect| matches!(effect, Effect::Placed { place: 2, .. }))
}

fn is_leave(line: &Line) -> bool {
    of_redis(line, is_removal) && !of_redis(line, is_of_a_claim)
}

fn is_hand_over(line: &Line) -> bool {
    of_redis(line, is_removal) && is_release(line)
}

fn is_serve(line: &Line) -> bool {
    of_redis(line, is_removal) && of_redis(line, is_of_a_claim) && !is_release(line)
}

fn is_line_of_a_rebuild(line: &Line) -> bool {
    let is_judys =
        |effect: &Effect| matches!(effect, Effect::Placed { place: 1, user, .. } if user == "judy");
    of_redis(line, is_judys)
}

fn go_first(line: &mut Line) {
    let Line::Redis(effects) = line else { return };
    for effect in effects {
        if let Effect::Placed { place, .. } = effect {
            *place = 1;
        }
    }
}

fn invent_a_place(line: &mut Line) {
    let Line::Redis(effects) = line else { return };
    for effect in effects {
        if let Effect::Promised { order, .. } = effect {
            "made up".clone_into(order);
        }
    }
}

fn serve_heidi(line: &mut Line) {
    let Line::Redis(effects) = line else { return };
    for effect in effects {
        if let Effect::Unplaced { user, .. } | Effect::Unpromised { user, .. } = effect {
            "heidi".clone_into(user);
        }
    }
}

fn is_burial(line: &Line) -> bool {
    of_postgres(line, |change| matches!(change, Change::Letter { .. }))
}
