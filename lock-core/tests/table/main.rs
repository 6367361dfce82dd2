//! Properties of the lock table under random histories: several sessions, their deaths, and a clock that also goes
//! back.

mod encoding;
mod model;
mod steps;

use lock_core::table::{Applied, Command, Holder, KeyRecord, News, Notice, Outcome};
use lock_core::{Released, SessionId, Ticket};
use proptest::prelude::*;

use self::model::{Answer, Model};
use self::steps::{World, history};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn whoever_holds_holds_rightly(steps in history()) {
        let mut world = World::new();
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            let before = world.clone();
            let applied = world.apply(&command);
            the_holders_fit_the_capacity(&world.record)?;
            tokens_rise(&before.record, &world.record)?;
            nobody_passed_a_live_waiter(&before, &world)?;
            every_grant_is_in_the_record(&applied, &world.record)?;
            a_grant_is_stable(&applied, &world, &command)?;
        }
    }

    #[test]
    fn the_same_record_and_command_give_the_same_result(steps in history()) {
        let mut world = World::new();
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            let bytes = world.record.encode();
            let mut copy = World { record: KeyRecord::decode(&bytes).unwrap(), ..world.clone() };
            prop_assert_eq!(&copy.record, &world.record);
            let applied = world.apply(&command);
            prop_assert_eq!(&copy.apply(&command), &applied);
            prop_assert_eq!(copy.record.encode(), world.record.encode());
            prop_assert_eq!(applied.changed, bytes != world.record.encode(), "{:?}", command);
        }
    }

    #[test]
    fn a_naive_model_agrees(steps in history()) {
        let (mut world, mut model) = (World::new(), Model::default());
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            for command in [Command::Settle, command] {
                let (input, outcome) = (world.input(), world.apply(&command).outcome);
                let answer = model.apply(input, &command, &|session| world.is_alive(session));
                prop_assert_eq!(answer_of(&outcome), Some(answer), "to {:?}", command);
            }
            let name = |holder: &Holder| ((holder.session, holder.ticket), holder.token.get());
            prop_assert_eq!(world.record.holders().iter().map(name).collect::<Vec<_>>(), model.holders());
            prop_assert_eq!(names(&world.record), model.waiters());
        }
    }

    /// What is over is removed only when somebody is in the way; that may cost nobody a grant.
    #[test]
    fn a_claim_is_answered_as_if_everything_had_been_settled_before(steps in history()) {
        let mut world = World::new();
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            if let Command::Claim(request) = &command {
                let own = |h: &&Holder| (h.session, h.ticket) == (request.session, request.ticket);
                let own = world.record.holders().iter().find(own);
                // Known until it is removed: a copy of that claim is not granted again.
                let is_over = own.is_some_and(|hold| hold.holding.fixed_until().is_some());
                let (mut settled, mut lazy) = (world.clone(), world.clone());
                settled.apply(&Command::Settle);
                let settled_outcome = settled.apply(&command).outcome;
                let lazy_outcome = lazy.apply(&command).outcome;
                if !is_over {
                    prop_assert_eq!(lazy_outcome, settled_outcome);
                    lazy.apply(&Command::Settle);
                    settled.apply(&Command::Settle);
                    prop_assert_eq!(lazy.record.holders(), settled.record.holders());
                    prop_assert_eq!(names(&lazy.record), names(&settled.record));
                }
            }
            world.apply(&command);
        }
    }

    #[test]
    fn whoever_becomes_the_head_of_the_queue_is_told_to_look(steps in history()) {
        let mut world = World::new();
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            let before = names(&world.record);
            let applied = world.apply(&command);
            let Some(&head) = names(&world.record).first() else { continue };
            let learns_it_anyway = match &command {
                Command::Claim(request) => head == (request.session, request.ticket),
                _ => false,
            };
            if before.first() != Some(&head) && !learns_it_anyway {
                let told = |n: &Notice| (n.session, n.ticket) == head && n.news == News::Recheck;
                prop_assert!(applied.notices.iter().any(told), "{:?} of {:?}", head, applied);
            }
        }
    }

    #[test]
    fn a_claim_on_a_free_key_asks_one_question(steps in history()) {
        let mut world = World::new();
        for step in &steps {
            let Some(command) = world.command(step) else { continue };
            let was_idle = world.record.is_idle();
            let (applied, questions) = world.count_questions(&command);
            if was_idle && matches!(command, Command::Claim(_)) {
                prop_assert_eq!(questions, 1, "{:?}", applied);
            }
        }
    }
}

fn the_holders_fit_the_capacity(record: &KeyRecord) -> Result<(), TestCaseError> {
    let held: u64 = record.holders().iter().map(|holder| u64::from(holder.weight)).sum();
    prop_assert!(held <= record.capacity().map_or(0, u64::from), "{:?}", record);
    Ok(())
}

/// Each new token is above all before it, in the order of the grants, also those that were given back since.
fn tokens_rise(before: &KeyRecord, after: &KeyRecord) -> Result<(), TestCaseError> {
    let mut last = before.fence();
    for holder in new_holders(before, after) {
        prop_assert!(holder.token.get() > last, "{:?} after {}", holder, last);
        last = holder.token.get();
    }
    prop_assert_eq!(after.fence(), last);
    Ok(())
}

fn nobody_passed_a_live_waiter(before: &World, after: &World) -> Result<(), TestCaseError> {
    let (queue, still_waiting) = (names(&before.record), names(&after.record));
    for holder in new_holders(&before.record, &after.record) {
        let place = queue.iter().position(|&name| name == (holder.session, holder.ticket));
        let earlier = &queue[..place.unwrap_or(queue.len())];
        let passed = earlier.iter().find(|name| still_waiting.contains(name) && after.is_alive(name.0));
        prop_assert_eq!(passed, None, "by {:?}", holder);
    }
    Ok(())
}

fn every_grant_is_in_the_record(applied: &Applied, record: &KeyRecord) -> Result<(), TestCaseError> {
    for notice in &applied.notices {
        if let News::Granted { token } = notice.news {
            let holds = record.holders().iter().any(|holder| {
                (holder.session, holder.ticket, holder.token) == (notice.session, notice.ticket, token)
            });
            prop_assert!(holds, "{:?} in {:?}", notice, record);
        }
    }
    Ok(())
}

fn a_grant_is_stable(applied: &Applied, world: &World, command: &Command) -> Result<(), TestCaseError> {
    if matches!(applied.outcome, Outcome::Granted { .. }) {
        let again = world.clone().apply(command);
        prop_assert_eq!(&again.outcome, &applied.outcome);
        prop_assert!(!again.changed && again.notices.is_empty());
    }
    Ok(())
}

fn new_holders<'a>(before: &'a KeyRecord, after: &'a KeyRecord) -> impl Iterator<Item = &'a Holder> {
    after.holders().iter().filter(|holder| before.holders().iter().all(|old| old.token != holder.token))
}

fn names(record: &KeyRecord) -> Vec<(SessionId, Ticket)> {
    record.queue().map(|waiter| (waiter.session, waiter.ticket)).collect()
}

fn answer_of(outcome: &Outcome) -> Option<Answer> {
    Some(match outcome {
        Outcome::Granted { token } => Answer::Granted(token.get()),
        Outcome::Queued { .. } => Answer::Queued,
        Outcome::Busy { .. } => Answer::Busy,
        Outcome::SessionEnded => Answer::SessionEnded,
        Outcome::Withdrawn => Answer::Withdrawn,
        Outcome::CapacityMismatch { .. } => Answer::Mismatch,
        Outcome::Released(Released::Done) => Answer::Done,
        Outcome::Released(Released::Gone) => Answer::Gone,
        Outcome::ForceReleased(count) => Answer::Ended(*count),
        Outcome::Settled => Answer::Settled,
        _ => return None,
    })
}
