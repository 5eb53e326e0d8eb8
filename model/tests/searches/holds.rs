//! With all rules in force, no sequence of steps and faults breaks a promise, and the system can always become quiet.

use crate::checks::{holds, of};
use model::{Fault, Scope};

use Fault::*;

/// Every pair of faults, except the pair that hides itself: a deleted claims hash and an edited stock that together
/// keep `stock + claims = total` are found only by the next comparison.
fn pairs() -> impl Iterator<Item = [Fault; 2]> {
    let pairs = Fault::ALL
        .iter()
        .enumerate()
        .flat_map(|(n, &one)| Fault::ALL[n..].iter().map(move |&other| [one, other]));
    pairs.filter(|pair| *pair != [ClaimsDeleted, StockEdited])
}

#[test]
fn two_workers_and_no_fault() {
    holds(&Scope { workers: 2, total: 2, claims: [2, 2], ..Scope::small() }, 1_000_000);
    holds(&Scope { workers: 2, total: 1, claims: [2, 2], cancels: 2, ..Scope::small() }, 1_000_000);
    holds(
        &Scope { workers: 2, total: 2, claims: [1, 1], edits: &[-1, 1], cancels: 1, ..Scope::small() },
        1_000_000,
    );
}

#[test]
fn any_fault_beside_an_order_that_ends() {
    for fault in Fault::ALL {
        let scope = Scope { claims: [2, 1], cancels: 1, compares: true, max_faults: 1, ..Scope::small() };
        holds(&Scope { faults: of(&[fault]), ..scope }, 2_000_000);
    }
}

#[test]
fn any_fault_beside_an_edit() {
    for fault in Fault::ALL {
        for edits in [&[1], &[-1], &[0]] {
            let scope = Scope { claims: [1, 0], edits, compares: true, max_faults: 1, ..Scope::small() };
            holds(&Scope { faults: of(&[fault]), ..scope }, 2_000_000);
        }
    }
}

#[test]
fn any_fault_beside_a_second_worker() {
    for fault in Fault::ALL {
        let scope = Scope { workers: 2, compares: true, max_faults: 1, ..Scope::small() };
        holds(&Scope { faults: of(&[fault]), ..scope }, 2_000_000);
    }
}

#[test]
fn any_fault_beside_two_rebuilders_that_may_die() {
    for fault in Fault::ALL {
        let scope = Scope { claims: [1, 0], rebuilders: 2, compares: true, max_faults: 2, ..Scope::small() };
        holds(&Scope { faults: of(&[fault, RebuilderKilled, SessionDropped]), ..scope }, 2_000_000);
    }
}

#[test]
fn any_fault_beside_an_ordered_rebuild() {
    for fault in Fault::ALL {
        let scope = Scope { orders: 1, compares: true, max_faults: 1, ..Scope::small() };
        holds(&Scope { faults: of(&[fault]), ..scope }, 2_000_000);
    }
}

#[test]
fn any_two_faults() {
    for faults in pairs() {
        holds(&Scope { faults: of(&faults), compares: true, max_faults: 2, ..Scope::small() }, 2_000_000);
    }
}

const LOST_COMMITS: [Fault; 3] = [PostgresOlderCopy, PostgresPromoted, DefinitionRestored];

#[test]
fn lost_commits_and_a_fault_of_redis_beside_an_edit_and_a_claim() {
    let faults_of_redis =
        [RedisRestarted, RedisFlushed, ClaimsDeleted, CouponDeleted, StockEdited, MarkerDeleted];
    for fault in faults_of_redis {
        for (lost, total, edits) in
            [(PostgresOlderCopy, 0, &[1]), (DefinitionRestored, 0, &[1]), (DefinitionRestored, 1, &[0])]
        {
            let scope =
                Scope { total, claims: [1, 0], edits, compares: true, max_faults: 2, ..Scope::small() };
            holds(&Scope { faults: of(&[lost, fault]), ..scope }, 2_000_000);
        }
    }
}

#[test]
fn faults_that_workers_find_need_no_comparison() {
    for fault in Fault::ALL.into_iter().filter(|fault| *fault != EntryDeleted) {
        holds(&Scope { faults: of(&[fault]), max_faults: 1, ..Scope::small() }, 2_000_000);
    }
}

#[test]
#[ignore = "long"]
fn any_two_faults_beside_an_order_that_ends() {
    let mut states = 0;
    for faults in pairs() {
        let scope = Scope { claims: [2, 0], cancels: 1, compares: true, max_faults: 2, ..Scope::small() };
        states += holds(&Scope { faults: of(&faults), ..scope }, 15_000_000);
    }
    println!("{states} states");
}

/// Without deleted pending entries: the model identifies entries by their orders, and would merge two entries of the
/// same order.
#[test]
#[ignore = "long"]
fn any_three_faults() {
    let mut states = 0;
    for [one, two] in pairs().filter(|pair| !pair.contains(&PendingDeleted)) {
        for three in [RebuilderKilled, WorkerKilled] {
            let scope = Scope { claims: [1, 0], compares: true, max_faults: 3, ..Scope::small() };
            states += holds(&Scope { faults: of(&[one, two, three]), ..scope }, 15_000_000);
        }
    }
    println!("{states} states");
}

#[test]
#[ignore = "long"]
fn any_fault_beside_two_workers_and_an_order_that_ends() {
    let mut states = 0;
    for fault in Fault::ALL {
        let scope =
            Scope { workers: 2, claims: [2, 0], cancels: 1, compares: true, max_faults: 1, ..Scope::small() };
        states += holds(&Scope { faults: of(&[fault]), ..scope }, 15_000_000);
    }
    println!("{states} states");
}

#[test]
#[ignore = "long"]
fn lost_commits_and_any_fault_beside_an_edit_and_a_claim() {
    let mut states = 0;
    for (lost, fault) in LOST_COMMITS.into_iter().flat_map(|lost| Fault::ALL.map(|fault| (lost, fault))) {
        for (total, edits) in [(0, &[1]), (1, &[-1]), (1, &[0])] {
            let scope =
                Scope { total, claims: [1, 0], edits, compares: true, max_faults: 2, ..Scope::small() };
            states += holds(&Scope { faults: of(&[lost, fault]), ..scope }, 15_000_000);
        }
    }
    println!("{states} states");
}

#[test]
#[ignore = "long"]
fn lost_commits_beside_an_edit_and_two_users() {
    let mut states = 0;
    for lost in LOST_COMMITS {
        for (total, edits) in [(1, &[1][..]), (2, &[-1]), (1, &[0]), (0, &[1, 1])] {
            let scope = Scope { total, edits, compares: true, max_faults: 1, ..Scope::small() };
            states += holds(&Scope { faults: of(&[lost]), ..scope }, 15_000_000);
        }
    }
    println!("{states} states");
}

/// Without deleted pending entries, for the same reason as `any_three_faults`.
#[test]
#[ignore = "long"]
fn lost_commits_and_a_rebuilder_that_dies() {
    let mut states = 0;
    let faults = Fault::ALL.into_iter().filter(|fault| *fault != PendingDeleted);
    for (lost, fault) in faults.flat_map(|fault| LOST_COMMITS.map(|lost| (lost, fault))) {
        let scope = Scope { total: 0, claims: [1, 0], edits: &[1], compares: true, ..Scope::small() };
        let faults = of(&[lost, fault, RebuilderKilled]);
        states += holds(&Scope { faults, max_faults: 3, ..scope }, 15_000_000);
    }
    println!("{states} states");
}
