//! The queue: first come, first served; who is told to look again, and who that somebody waits.

use super::{
    Scene, for_exactly, granted, is_behind, is_busy, is_granted, is_head, mutex, permits, reader, trying,
    writer,
};
use crate::table::News;

#[test]
fn waiters_are_served_in_the_order_of_their_claims() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    assert!(is_head(&key.claim(mutex(2, 1))));
    assert!(is_behind(&key.claim(mutex(3, 1))));
    key.release(1, 1);
    assert_eq!(key.told_of_grants(), [2]);
    key.release(2, 1);
    assert_eq!(key.told_of_grants(), [3]);
}

#[test]
fn a_writer_is_not_starved_by_readers() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    key.claim(writer(2, 1));
    assert!(is_busy(&key.claim(trying(reader(3, 1)))));
    assert!(is_behind(&key.claim(reader(3, 2))));
    key.release(1, 1);
    assert_eq!((key.holders(), key.waiters()), (vec![2], vec![3]));
}

#[test]
fn a_wide_request_is_not_starved_by_narrow_ones() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 2, 3));
    key.claim(permits(2, 1, 2, 3));
    assert!(is_busy(&key.claim(trying(permits(3, 1, 1, 3)))), "one is free, but somebody was first");
    key.claim(permits(3, 2, 1, 3));
    key.release(1, 1);
    assert_eq!(key.told_of_grants(), [2, 3]);
}

#[test]
fn readers_behind_a_writer_enter_together() {
    let mut key = Scene::new();
    key.claim(writer(1, 1));
    for session in 2..5 {
        key.claim(reader(session, 1));
    }
    key.release(1, 1);
    assert_eq!(key.told_of_grants(), [2, 3, 4]);
    assert_eq!(key.holders(), [2, 3, 4]);
}

#[test]
fn a_claim_in_the_queue_keeps_its_place_when_it_is_sent_again() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.claim(mutex(3, 1));
    assert!(is_head(&key.claim(mutex(2, 1))));
    assert!(is_behind(&key.claim(mutex(3, 1))));
    assert_eq!(key.waiters(), [2, 3]);
}

#[test]
fn a_waiter_is_judged_by_the_weight_under_which_it_joined() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 2, 3));
    key.claim(permits(2, 1, 3, 3));
    assert!(is_head(&key.claim(permits(2, 1, 1, 3))), "a copy that differs changes nothing");
    assert_eq!(key.waiters(), [2]);
}

#[test]
fn the_first_waiter_makes_itself_known_to_the_holders() {
    let mut key = Scene::new();
    key.claim(reader(1, 1));
    key.claim(reader(2, 1));
    key.claim(writer(3, 1));
    assert_eq!(key.told(|news| news == News::Wanted), [1, 2]);
    key.claim(writer(4, 1));
    assert_eq!(key.notices, [], "they know already");
}

#[test]
fn whoever_asks_again_behind_the_head_has_it_looked_for() {
    let mut key = Scene::new();
    for session in 1..5 {
        key.claim(mutex(session, 1));
    }
    key.claim(mutex(4, 1));
    assert_eq!(key.told(|news| news == News::Wanted), [2], "the head alone, whether anybody owns it or not");
    key.claim(mutex(2, 1));
    assert_eq!(key.told(|news| news == News::Wanted), [1], "the head looks after the holder");
}

#[test]
fn a_fixed_hold_has_nobody_who_could_be_told_that_it_is_wanted() {
    let mut key = Scene::new();
    key.claim(for_exactly(500, mutex(1, 1)));
    key.claim(mutex(2, 1));
    assert_eq!(key.notices, []);
}

#[test]
fn whoever_becomes_the_head_by_a_grant_is_told_to_look() {
    let mut key = Scene::new();
    for session in 1..4 {
        key.claim(mutex(session, 1));
    }
    key.release(1, 1);
    assert_eq!(key.told(|news| news == News::Recheck), [3]);
}

#[test]
fn whoever_becomes_the_head_by_a_withdrawal_is_told_to_look() {
    let mut key = Scene::new();
    for session in 1..4 {
        key.claim(mutex(session, 1));
    }
    key.release(2, 1);
    assert_eq!(key.told(|news| news == News::Recheck), [3]);
}

#[test]
fn whoever_becomes_the_head_by_a_death_is_told_to_look() {
    let mut key = Scene::new();
    for session in 1..4 {
        key.claim(mutex(session, 1));
    }
    key.kill(2);
    key.settle();
    assert_eq!(key.told(|news| news == News::Recheck), [3]);
}

#[test]
fn a_withdrawal_behind_the_head_tells_nobody() {
    let mut key = Scene::new();
    for session in 1..5 {
        key.claim(mutex(session, 1));
    }
    key.release(1, 9);
    key.release(3, 1);
    assert_eq!(key.notices, []);
}

#[test]
fn a_withdrawal_of_a_wide_head_grants_to_the_narrow_ones_behind_it() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 2, 3));
    key.claim(permits(2, 1, 2, 3));
    key.claim(permits(3, 1, 1, 3));
    key.release(2, 1);
    assert_eq!(key.told_of_grants(), [3]);
}

#[test]
fn a_dead_head_is_skipped() {
    let mut key = Scene::new();
    for session in 1..4 {
        key.claim(mutex(session, 1));
    }
    key.kill(2);
    key.release(1, 1);
    assert_eq!((key.holders(), key.waiters()), (vec![3], vec![]));
}

#[test]
fn a_dead_waiter_in_the_middle_is_skipped_when_its_turn_comes() {
    let mut key = Scene::new();
    for session in 1..5 {
        key.claim(mutex(session, 1));
    }
    key.kill(3);
    key.release(1, 1);
    assert_eq!(key.holders(), [2]);
    key.release(2, 1);
    assert_eq!(key.holders(), [4]);
}

#[test]
fn a_try_behind_a_dead_wide_waiter_is_granted() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 1, 3));
    key.claim(permits(2, 1, 3, 3));
    assert!(is_busy(&key.claim(trying(permits(3, 1, 1, 3)))));
    key.kill(2);
    assert!(is_granted(&key.claim(trying(permits(3, 2, 1, 3)))));
}

#[test]
fn the_recheck_of_a_head_takes_over_from_a_dead_holder() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.kill(1);
    assert_eq!(key.at(2_000).claim(mutex(2, 1)), granted(2_000));
}

#[test]
fn a_newcomer_settles_for_those_who_were_first() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(mutex(2, 1));
    key.kill(1);
    assert!(is_head(&key.claim(mutex(3, 1))));
    assert_eq!(key.told_of_grants(), [2]);
    assert_eq!(key.told(|news| news == News::Wanted), [2]);
}

#[test]
fn nobody_passes_a_waiter_that_had_no_token() {
    let mut key = Scene::new();
    key.claim(permits(1, 1, 2, 2));
    key.claim(permits(2, 1, 1, 2));
    // The store's clock leaps out of all bounds, and is put right again.
    key.at(u64::MAX).release(1, 1);
    assert_eq!(key.told_of_grants(), []);
    assert_eq!(key.at(2_000).claim(permits(3, 1, 1, 2)), granted(2_001));
    assert_eq!(key.told_of_grants(), [2], "under the token before");
    assert_eq!(key.holders(), [2, 3]);
}

/// Once granted, its engine forgets it, and would take the news for those of an orphan.
#[test]
fn a_head_that_will_hold_for_a_fixed_time_is_not_told_that_it_is_wanted() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(for_exactly(500, mutex(2, 1)));
    key.claim(mutex(3, 1));
    key.claim(mutex(3, 1));
    assert_eq!(key.told(|news| news == News::Wanted), []);
}

#[test]
fn whoever_only_tries_makes_itself_known_too() {
    let mut key = Scene::new();
    key.claim(mutex(1, 1));
    key.claim(trying(mutex(2, 1)));
    assert_eq!(key.told(|news| news == News::Wanted), [1]);
}
