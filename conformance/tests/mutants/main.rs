//! The suite can fail: each broken store is caught by the scenario that is there for it.
//!
//! `docs/conformance.md` lists them; a test here holds that list to what is played. `MUTANT_ROUNDS=10` plays each ten times.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]

mod broken;

use std::sync::Arc;

use lock_conformance::oracle::compare_with_the_table;
use lock_core::{Backend, MemoryBackend};

use self::broken::{Broken, Fault, play};

macro_rules! mutants {
    ($($name:ident: $fault:ident => $scenario:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            caught(Fault::$fault, $scenario);
        })+

        #[test]
        fn the_page_lists_each_with_its_scenario() {
            let page = include_str!("../../../docs/conformance.md");
            for (name, scenario) in [$((stringify!($name), $scenario)),+] {
                let row = format!("| `{name}` | `{scenario}` |");
                assert!(page.contains(&row), "docs/conformance.md has no row that begins {row}");
            }
        }
    };
}

mutants! {
    releases_for_anybody: ReleasesForAnybody => "safety::only_the_owner_releases",
    grants_twice: GrantsTwice => "safety::two_clients_one_holder",
    ignores_weights: IgnoresWeights => "load::random_histories_pass_the_checkers",
    forgets_releases: ForgetsReleases => "liveness::a_released_key_is_free_at_once",
    drop_that_forgets: ForgetsReleases => "cancellation::dropping_a_guard_releases",
    loses_wake_ups: LosesWakeUps => "liveness::the_release_wakes_the_waiter",
    ignores_expiry: IgnoresExpiry => "liveness::a_crashed_holders_key_is_free_in_time",
    dead_waiter_blocks: IgnoresExpiry => "fairness::a_dead_waiter_is_skipped",
    keeps_cancelled_waiters: KeepsCancelledWaiters => "fairness::a_cancelled_waiter_blocks_nobody",
    serves_whoever_comes: ServesWhoeverComes => "fairness::nobody_is_starved",
    wakes_the_herd: WakesTheHerd => "fairness::one_release_wakes_one",
    renews_nothing: RenewsNothing => "lease::the_holder_knows_before_its_successor",
    counts_from_the_reply: CountsFromTheReply => "lease::the_holder_knows_before_its_successor",
    overstates_the_ttl: OverstatesTheTtl => "lease::the_holder_knows_before_its_successor",
    revives_sessions: RevivesSessions => "lease::what_has_expired_cannot_be_renewed",
    reuses_tokens: ReusesTokens => "fencing::rises_from_holder_to_holder",
    counts_tokens_from_one: CountsTokensFromOne => "fencing::deletion_brings_no_old_token_back",
    tokens_follow_the_clock: TokensFollowTheClock => "repair::a_clock_a_year_ahead_is_corrected",
    takes_copies_for_claims: TakesCopiesForClaims => "fencing::the_token_comes_with_the_grant",
    keeps_orphans: KeepsOrphans => "repair::an_orphan_is_freed_when_it_is_wanted",
    grants_delayed_claims: GrantsDelayedClaims => "repair::a_delayed_claim_is_never_granted",
    verifies_nothing: VerifiesNothing => "repair::a_forgotten_grant_is_told",
    ignores_at_least: IgnoresAtLeast => "terms::hold_at_least_outlives_its_process",
    ends_fixed_terms_early: EndsFixedTermsEarly => "terms::a_detached_hold_outlives_its_process",
    folds_keys: FoldsKeys => "input::every_key_is_one_of_its_own_or_refused",
    lists_everything: ListsEverything => "input::a_key_is_never_more_than_a_name",
    leaks_descriptors: LeaksDescriptors => "load::ten_thousand_cycles_leave_nothing",
}

#[track_caller]
fn caught(fault: Fault, scenario: &str) {
    let rounds = std::env::var("MUTANT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for round in 0..rounds {
        match play(fault, scenario) {
            Err(failure) if failure.to_string().contains("none is called") => panic!("{failure}"),
            // Shown by `--nocapture`: it has to be caught for what it does wrong.
            Err(failure) => eprintln!("{fault:?}: {failure}"),
            Ok(()) => {
                panic!("{scenario} passed a store that is broken in this way: {fault:?} (round {round})")
            }
        }
    }
}

/// What a store answers in one of its answers wrong, the lock table knows better.
#[test]
fn the_oracle_catches_a_wrong_answer() {
    for fault in [
        Fault::ReleasesForAnybody,
        Fault::ForgetsReleases,
        Fault::GrantsTwice,
        Fault::GrantsDelayedClaims,
        Fault::TakesCopiesForClaims,
        Fault::ReusesTokens,
        Fault::RevivesSessions,
        Fault::IgnoresExpiry,
        Fault::OverstatesTheTtl,
        Fault::IgnoresWeights,
        Fault::IgnoresAtLeast,
        Fault::EndsFixedTermsEarly,
        Fault::KeepsCancelledWaiters,
    ] {
        let compared = compare_with_the_table(256, |clock| {
            let clock = Arc::new(clock);
            let store: Arc<dyn Backend> =
                Arc::new(Broken::new(MemoryBackend::with_clock(clock.clone()), clock, fault));
            Ok(move || Ok(store.clone()))
        });
        assert!(compared.is_err(), "{fault:?} was not noticed");
    }
}
