//! Random commands, through the files and through the lock table alone: the outcomes are the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place};
use lock_core::table::{Command, Input, KeyRecord, Outcome, Request};
use lock_core::{
    Certainty, Claim, Claimed, Clock, ErrorKind, LockKey, Mode, Permit, Released, Standing, Term, Ticket,
    VirtualClock,
};
use lock_file::FileOptions;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Claim { client: usize, ticket: u64, wait: bool },
    Release { client: usize, ticket: u64, certain: bool },
    Force,
    Pass { millis: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || (0..3_usize, 1..7_u64);
    prop_oneof![
        6 => (who(), any::<bool>()).prop_map(|((client, ticket), wait)| Step::Claim { client, ticket, wait }),
        4 => (who(), any::<bool>()).prop_map(|((client, ticket), certain)| Step::Release { client, ticket, certain }),
        1 => Just(Step::Force),
        2 => (1..60_u64).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::Reopen),
    ]
}

/// What a ticket stands for: a claim that is sent again is the same claim.
fn claim(key: &LockKey, ticket: u64) -> Claim {
    let (weight, capacity) = [(1, 2), (1, 2), (2, 2), (1, 3)][ticket as usize % 4];
    let permit = Permit::new(weight, capacity).unwrap();
    let claim = Claim::new(key.clone(), Ticket(ticket), Mode::Permits { held: weight, of: capacity }, permit);
    if ticket % 3 == 0 { claim.term(Term::Fixed(Duration::from_millis(40))) } else { claim }
}

async fn compare(steps: Vec<Step>) {
    let place = Place::new();
    let clock = VirtualClock::new();
    let options = || FileOptions::new().clock(Arc::new(clock.clone()));
    let mut backend = place.backend_with(options());
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::open(&backend, LONG * 60).await);
    }
    let key = LockKey::new("k").unwrap();
    let mut model = KeyRecord::new();
    let alive = |_| true;
    for step in steps {
        let now = clock.wall_micros();
        let input = Input { now, proposed_token: now };
        match step {
            Step::Claim { client, ticket, wait } => {
                let session = &clients[client].session;
                let claim = claim(&key, ticket).waiting(wait);
                let expected =
                    model.apply(input, &Command::Claim(Request::of(session.id(), &claim)), &alive).outcome;
                let same = match (session.claim(&claim).await, &expected) {
                    (Ok(Claimed::Granted { token, .. }), Outcome::Granted { token: expected }) => {
                        token == *expected
                    }
                    (Ok(Claimed::Queued { recheck_in, .. }), Outcome::Queued { head, .. }) => {
                        recheck_in.is_some() == *head
                    }
                    (Ok(Claimed::Busy(busy)), Outcome::Busy { blocker }) => {
                        busy.token == blocker.map(|blocker| blocker.token)
                    }
                    (Err(error), Outcome::Withdrawn) => *error.kind() == ErrorKind::Withdrawn,
                    (Err(error), Outcome::CapacityMismatch { in_force }) => {
                        *error.kind() == ErrorKind::CapacityMismatch { in_force: *in_force }
                    }
                    _ => false,
                };
                assert!(same, "{claim:?}: {expected:?}");
            }
            Step::Release { client, ticket, certain } => {
                let session = &clients[client].session;
                let certainty = if certain { Certainty::Settled } else { Certainty::MaybeInFlight };
                let reference = lock_core::ClaimRef::new(key.clone(), Ticket(ticket));
                let command = Command::Release { session: session.id(), ticket: Ticket(ticket), certainty };
                let expected = model.apply(input, &command, &alive).outcome;
                let released: Released = session.release(&reference, certainty).await.unwrap();
                assert_eq!(Outcome::Released(released), expected);
            }
            Step::Force => {
                let expected = model.apply(input, &Command::ForceRelease { only: None }, &alive).outcome;
                assert_eq!(
                    Outcome::ForceReleased(backend.force_release(&key, None).await.unwrap()),
                    expected
                );
            }
            Step::Pass { millis } => clock.advance(Duration::from_millis(millis)),
            // Another process would see the same.
            Step::Reopen => backend = place.backend_with(options()),
        }
        for client in &clients {
            let known: Vec<_> =
                (1..7).map(|ticket| lock_core::ClaimRef::new(key.clone(), Ticket(ticket))).collect();
            let standings = client.session.renew(&known).await.unwrap().standings;
            for (claim, found) in known.iter().zip(standings) {
                let same = match (&found, model.standing(client.session.id(), claim.ticket)) {
                    (Standing::Holds { token, .. }, Standing::Holds { token: expected, .. }) => {
                        *token == expected
                    }
                    (Standing::Waits { .. }, Standing::Waits { .. }) | (Standing::Gone, Standing::Gone) => {
                        true
                    }
                    _ => false,
                };
                assert!(same, "{claim:?}: {found:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_files_answer_as_the_table(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(steps));
    }
}
