//! With all rules in force, no sequence of moves, edits and faults breaks a promise, and both stores can become equal.

use crate::share_checks::{holds, lost};
use model::shares::{Fault, Scope};

use Fault::*;

#[test]
fn a_move_and_any_fault() {
    for fault in [FailedOver, Flushed] {
        let scope = Scope { claims: [1, 0], faults: Vec::leak(vec![fault]), max_faults: 1, ..Scope::small() };
        holds(&scope, 2_000_000);
    }
}

#[test]
fn two_movers_at_once() {
    holds(&Scope { movers: 2, moves: 2, claims: [1, 0], ..Scope::small() }, 2_000_000);
}

#[test]
fn a_transaction_that_is_open_while_a_partition_is_rebuilt() {
    let scope = Scope { claims: [1, 0], opens: true, faults: &[FailedOver], max_faults: 1, ..Scope::small() };
    holds(&scope, 2_000_000);
}

#[test]
fn a_move_beside_an_order_that_is_cancelled() {
    holds(&Scope { cancels: 1, ..Scope::small() }, 2_000_000);
}

#[test]
fn a_lowering_of_one_and_of_all_units() {
    for lowers in [&[1], &[2]] {
        holds(&Scope { moves: 0, claims: [1, 0], lowers, ..Scope::small() }, 2_000_000);
    }
}

#[test]
fn lost_commits_of_a_move() {
    holds(&Scope { claims: [0, 1], ..lost() }, 2_000_000);
}

#[test]
#[ignore = "long"]
fn h1_two_movers_and_a_failover() {
    println!(
        "{} states",
        holds(
            &Scope {
                movers: 2,
                moves: 2,
                faults: &[FailedOver],
                max_faults: 1,
                claims: [1, 0],
                ..Scope::small()
            },
            20_000_000
        )
    );
}

#[test]
#[ignore = "long"]
fn h2_two_movers_and_a_flush() {
    println!(
        "{} states",
        holds(
            &Scope { movers: 2, moves: 2, faults: &[Flushed], max_faults: 1, ..Scope::small() },
            20_000_000
        )
    );
}

#[test]
#[ignore = "long"]
fn h3_a_move_and_two_faults() {
    let faults = &[FailedOver, Flushed, RebuilderKilled];
    println!(
        "{} states",
        holds(&Scope { claims: [1, 0], faults, max_faults: 2, ..Scope::small() }, 20_000_000)
    );
}

#[test]
#[ignore = "long"]
fn h4_a_raise_beside_a_move_and_a_fault() {
    let faults = &[FailedOver, Flushed];
    println!(
        "{} states",
        holds(&Scope { raises: &[1], claims: [1, 0], faults, max_faults: 1, ..Scope::small() }, 20_000_000)
    );
}

#[test]
#[ignore = "long"]
fn h5_a_raise_beside_two_movers() {
    println!(
        "{} states",
        holds(&Scope { raises: &[1], movers: 2, moves: 2, claims: [1, 0], ..Scope::small() }, 20_000_000)
    );
}

#[test]
#[ignore = "long"]
fn h6_a_lowering_and_a_fault() {
    let faults = &[FailedOver, Flushed];
    let scope = Scope { moves: 0, lowers: &[1], faults, max_faults: 1, ..Scope::small() };
    println!("{} states", holds(&scope, 20_000_000));
}

#[test]
#[ignore = "long"]
fn h7_a_cancelled_order_beside_a_move_and_a_fault() {
    let faults = &[FailedOver, Flushed];
    println!(
        "{} states",
        holds(&Scope { cancels: 1, claims: [1, 0], faults, max_faults: 1, ..Scope::small() }, 20_000_000)
    );
}

#[test]
#[ignore = "long"]
fn h8_three_moves_there_and_back() {
    println!("{} states", holds(&Scope { moves: 3, claims: [1, 1], ..Scope::small() }, 20_000_000));
}

#[test]
#[ignore = "long"]
fn h9_moves_of_one_or_two_units_and_a_flush() {
    let scope = Scope { units: [2, 0], sizes: &[1, 2], claims: [1, 0], ..Scope::small() };
    println!("{} states", holds(&Scope { faults: &[Flushed], max_faults: 1, ..scope }, 20_000_000));
}

#[test]
#[ignore = "long"]
fn l1_a_lost_move() {
    println!("{} states", holds(&lost(), 20_000_000));
}

#[test]
#[ignore = "long"]
fn l2_a_lost_move_and_a_lost_raise() {
    println!("{} states", holds(&Scope { raises: &[1], claims: [1, 0], ..lost() }, 20_000_000));
}

#[test]
#[ignore = "long"]
fn l3_a_lost_move_and_a_second_fault() {
    let faults = &[PostgresOlderCopy, FailedOver, Flushed, RebuilderKilled];
    println!("{} states", holds(&Scope { claims: [1, 0], faults, max_faults: 2, ..lost() }, 20_000_000));
}

#[test]
#[ignore = "long"]
fn l4_a_lost_move_beside_a_cancelled_order() {
    println!("{} states", holds(&Scope { cancels: 1, claims: [1, 0], ..lost() }, 20_000_000));
}

#[test]
#[ignore = "long"]
fn l5_a_lost_lowering() {
    println!("{} states", holds(&Scope { moves: 0, lowers: &[1], claims: [1, 0], ..lost() }, 20_000_000));
}
