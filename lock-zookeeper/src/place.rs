//! [`Places`]: a session's claims, and how they stand as far as it knows.

use std::collections::{HashMap, VecDeque};

use lock_core::queue::{Contenders, Withdrawn};
use lock_core::{BootTime, Certainty, Claim, ClaimRef, LockKey, Ticket};

/// How many of one session's claims of one lock wait in the store at once: each is in every list of the lock's claims. The others
/// wait here, in their order.
pub(crate) const CONTENDERS: usize = 64;

/// So many bytes of names are watched at most.
const WATCHED: usize = 100_000;
/// As long as what comes before a lock's name may be.
const ROOT: usize = 256;

/// So many claims that were given back are remembered, for news that come behind them.
const GIVEN_BACK: usize = 256;

/// A session's claims.
#[derive(Debug)]
pub(crate) struct Places {
    claims: HashMap<Ticket, Place>,
    withdrawn: Withdrawn,
    contenders: Contenders,
    /// The last claims that held and were given back, or are about to be.
    given_back: VecDeque<String>,
}

/// One claim's place.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) key: LockKey,
    pub(crate) stands: Stands,
    /// What it waits for, if news of that can come.
    pub(crate) watches: Option<Watch>,
    /// How many bytes it is about to watch: the request for it is on its way.
    pub(crate) about_to_watch: usize,
    /// Since when it has been seen as the first that waits.
    pub(crate) first_since: Option<BootTime>,
    /// Requests that may make it and were not answered: each may still arrive.
    unanswered: u32,
}

/// A node of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) path: String,
    /// When it was made: its token.
    pub(crate) zxid: i64,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// No answer has come yet.
    Unknown,
    Waits(Made),
    Holds(Made),
}

/// What a claim watches, and what it means that it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) watched: Watched,
    pub(crate) then: Then,
}

/// What it means for a claim that the node that it watches goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nobody else was before it: it holds.
    Holds,
    /// It holds, if that one held: it was directly before it, and nobody can hold beside it.
    HoldsBehindAHold,
    /// It has to look.
    Looks,
}

/// What a claim watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// That this node goes.
    Node(String),
    /// That any claim of the lock comes or goes.
    All,
}

/// Whether a claim may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It may, and this one as well, of those who wait here.
    Sent { next: Option<Ticket> },
    /// Not before others of the same session.
    WaitsHere,
    /// Never more.
    Withdrawn,
}

impl Places {
    pub(crate) fn new() -> Places {
        Places {
            claims: HashMap::new(),
            withdrawn: Withdrawn::default(),
            contenders: Contenders::at_most(CONTENDERS),
            given_back: VecDeque::new(),
        }
    }

    /// A claim is about to be sent.
    pub(crate) fn enter(&mut self, claim: &Claim) -> Entered {
        if self.withdrawn.contains(claim.ticket) {
            return Entered::Withdrawn;
        }
        if self.claims.contains_key(&claim.ticket) {
            return Entered::Sent { next: None };
        }
        if !self.contenders.enter(&claim.key, claim.ticket, claim.wait) {
            return Entered::WaitsHere;
        }
        let place = Place {
            key: claim.key.clone(),
            stands: Stands::Unknown,
            watches: None,
            about_to_watch: 0,
            first_since: None,
            unanswered: 0,
        };
        self.claims.insert(claim.ticket, place);
        // Several places may have become free when one of those who wait here was told.
        Entered::Sent { next: self.contenders.next(&claim.key) }
    }

    pub(crate) fn of(&mut self, ticket: Ticket) -> Option<&mut Place> {
        self.claims.get_mut(&ticket)
    }

    /// A request that may make the claim goes out.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered += 1;
        }
    }

    /// And this is what became of it, for certain.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered = place.unanswered.saturating_sub(1);
        }
    }

    /// Nothing that was sent before can arrive any more.
    pub(crate) fn nothing_may_arrive(&mut self, ticket: Ticket) {
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.unanswered = 0;
        }
    }

    /// Whether a copy of the claim may still arrive.
    pub(crate) fn may_arrive(&self, ticket: Ticket) -> bool {
        self.claims.get(&ticket).is_some_and(|place| place.unanswered > 0)
    }

    /// The claim holds, now or since before. Returns who may be sent in its place.
    pub(crate) fn holds(&mut self, ticket: Ticket, made: Made) -> Option<Ticket> {
        let place = self.claims.get_mut(&ticket)?;
        (place.watches, place.first_since) = (None, None);
        match std::mem::replace(&mut place.stands, Stands::Holds(made)) {
            Stands::Holds(_) => None,
            _ => self.contenders.leave(&place.key),
        }
    }

    /// What holds is about to be given back: whoever waits behind it hears of its end, and may know then that it holds.
    pub(crate) fn gives_back(&mut self, ticket: Ticket) {
        if let Some(Place { stands: Stands::Holds(made), .. }) = self.claims.get(&ticket) {
            self.given_back.push_back(made.path.clone());
            if self.given_back.len() > GIVEN_BACK {
                self.given_back.pop_front();
            }
        }
    }

    /// What a claim watched is no more, or has changed. `None` if it does not wait for that any more; otherwise whether it holds
    /// now, as which claim, for all that is known without a look.
    pub(crate) fn hears(
        &mut self,
        ticket: Ticket,
        watched: &Watched,
        has_gone: bool,
    ) -> Option<Option<Made>> {
        let place = self.claims.get_mut(&ticket)?;
        let watch = place.watches.take_if(|watch| watch.watched == *watched)?;
        let Stands::Waits(made) = &place.stands else { return Some(None) };
        let holds = has_gone
            && match (watch.then, watched) {
                (Then::Holds, _) => true,
                (Then::HoldsBehindAHold, Watched::Node(path)) => self.given_back.contains(path),
                _ => false,
            };
        Some(holds.then(|| made.clone()))
    }

    /// Whether a claim may watch something with a name of this length as well, and is about to. What is watched is said again with
    /// each new connection; the driver says more than so much in several requests, and takes them for one: it could not connect any
    /// more.
    pub(crate) fn may_watch(&mut self, ticket: Ticket, length: usize) -> bool {
        let watched = |place: &Place| match place.watches.as_ref().map(|watch| &watch.watched) {
            Some(Watched::Node(path)) => path.len(),
            Some(Watched::All) => place.key.encoded().len() + ROOT,
            None => place.about_to_watch,
        };
        let others = self.claims.iter().filter(|(other, _)| **other != ticket);
        if others.map(|(_, place)| watched(place)).sum::<usize>() + length > WATCHED {
            return false;
        }
        if let Some(place) = self.claims.get_mut(&ticket) {
            place.about_to_watch = length;
        }
        true
    }

    /// The claim is not in the store any more, and is to be made anew.
    pub(crate) fn has_gone(&mut self, ticket: Ticket) {
        let Some(place) = self.claims.get_mut(&ticket) else { return };
        // What it waited for, it waited for in its old place.
        (place.watches, place.first_since) = (None, None);
        if let Stands::Holds(_) = std::mem::replace(&mut place.stands, Stands::Unknown) {
            self.contenders.contend_again(&place.key);
        }
    }

    /// Whether a claim waits here, and has never been sent.
    pub(crate) fn waits_here(&self, claim: &ClaimRef) -> bool {
        self.contenders.waits_here(&claim.key, claim.ticket)
    }

    /// Who may be sent next of those who wait here.
    pub(crate) fn next(&self, key: &LockKey) -> Option<Ticket> {
        self.contenders.next(key)
    }

    /// A claim is given back of which nothing is in the store: whether it waited here.
    pub(crate) fn give_up(&mut self, claim: &ClaimRef, certainty: Certainty) -> bool {
        if certainty == Certainty::MaybeInFlight {
            self.withdrawn.insert(claim.ticket);
        }
        self.contenders.give_up(&claim.key, claim.ticket)
    }

    /// Nothing of this claim is in the store any more, nor on its way there. Returns who may be sent in its place.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Ticket> {
        let place = self.claims.remove(&ticket)?;
        match place.stands {
            Stands::Holds(_) => self.contenders.next(&place.key),
            _ => self.contenders.leave(&place.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lock_core::{Mode, Permit};

    fn claim(ticket: u64) -> Claim {
        let key = LockKey::new("k").unwrap();
        Claim::new(key, Ticket(ticket), Mode::Exclusive, Permit::MUTEX).waiting(true)
    }

    fn made(zxid: i64) -> Made {
        Made { path: format!("/l/{zxid}"), zxid }
    }

    #[test]
    fn what_was_not_answered_may_arrive() {
        let mut places = Places::new();
        places.enter(&claim(1));
        places.sent(Ticket(1));
        places.sent(Ticket(1));
        places.answered(Ticket(1));
        assert!(places.may_arrive(Ticket(1)), "the first of the two");
        places.nothing_may_arrive(Ticket(1));
        assert!(!places.may_arrive(Ticket(1)));
    }

    #[test]
    fn whoever_was_behind_a_hold_of_its_own_session_holds_without_a_look() {
        let watch = |then| Watch { watched: Watched::Node("/l/1".to_owned()), then };
        for (then, given_back, has_gone, holds) in [
            (Then::Holds, false, true, true),
            (Then::Holds, false, false, false),
            (Then::HoldsBehindAHold, true, true, true),
            (Then::HoldsBehindAHold, false, true, false),
            (Then::Looks, true, true, false),
        ] {
            let mut places = Places::new();
            places.enter(&claim(1));
            places.holds(Ticket(1), made(1));
            places.enter(&claim(2));
            let second = places.of(Ticket(2)).unwrap();
            (second.stands, second.watches) = (Stands::Waits(made(2)), Some(watch(then)));
            if given_back {
                places.gives_back(Ticket(1));
            }
            let other = Watched::Node("/l/0".to_owned());
            assert_eq!(places.hears(Ticket(2), &other, has_gone), None, "it does not wait for that");
            let heard = places.hears(Ticket(2), &watch(then).watched, has_gone);
            assert_eq!(heard, Some(holds.then(|| made(2))), "{then:?}");
            assert_eq!(places.hears(Ticket(2), &watch(then).watched, has_gone), None, "told once");
        }
    }

    #[test]
    fn no_more_is_watched_than_can_be_said_at_once() {
        let mut places = Places::new();
        for ticket in 1..=3 {
            places.enter(&claim(ticket));
        }
        assert!(places.may_watch(Ticket(1), WATCHED) && !places.may_watch(Ticket(1), WATCHED + 1));
        let watched = Watched::Node("x".repeat(WATCHED - 10));
        places.of(Ticket(1)).unwrap().watches = Some(Watch { watched, then: Then::Looks });
        assert!(!places.may_watch(Ticket(2), 11) && places.may_watch(Ticket(2), 10));
        assert!(!places.may_watch(Ticket(3), 1), "the second is about to");
        places.of(Ticket(2)).unwrap().about_to_watch = 0;
        assert!(places.may_watch(Ticket(3), 1));
    }

    #[test]
    fn whoever_holds_makes_room_for_those_who_wait_here() {
        let (mut places, many) = (Places::new(), u64::try_from(CONTENDERS).unwrap());
        for ticket in 0..many {
            assert_eq!(places.enter(&claim(ticket)), Entered::Sent { next: None });
        }
        assert_eq!(places.enter(&claim(many)), Entered::WaitsHere);
        assert!(places.waits_here(&claim(many).reference()));
        assert_eq!(places.holds(Ticket(0), made(1)), Some(Ticket(many)));
        assert_eq!(places.holds(Ticket(0), made(1)), None, "told once");
        // It is ended by force, and made anew.
        places.has_gone(Ticket(0));
        assert_eq!(places.next(&claim(0).key), None);
        assert_eq!(places.leave(Ticket(1)), Some(Ticket(many)));
        assert!(places.give_up(&claim(many).reference(), Certainty::MaybeInFlight));
        assert_eq!(places.enter(&claim(many)), Entered::Withdrawn);
        for ticket in 0..many {
            places.leave(Ticket(ticket));
        }
        assert!(places.claims.is_empty() && places.contenders.are_none(), "{places:?}");
    }
}
