//! Waiting for a turn, and telling the holders of it.

use std::sync::Arc;
use std::time::Duration;

use lock_core::queue::wishes;
use lock_core::{Busy, Claimed, LockKey, Result};
use zookeeper_client::Error as Driver;

use super::claiming::{Asked, place_of};
use super::{Shared, token};
use crate::entry::{Queue, read_of_session};
use crate::failure::failed;
use crate::place::{Place, Stands, Then, Watched};

/// After so long whoever is the first that waits tells the holders that he does.
const PATIENCE: Duration = Duration::from_millis(500);
/// And again after so long each further time.
const LATER_LOOKS: Duration = Duration::from_secs(10);
/// Whoever cannot be told looks as often.
const UNWATCHED: Duration = Duration::from_secs(1);
/// Of so many other sessions it is remembered whose they are.
const SEEN: usize = 64;

impl Shared {
    /// Watches what is in the way, until nothing is or something is watched.
    ///
    /// Whoever cannot hold beside one that is before it waits for the last such one alone: so a mutex's release wakes one waiter, and
    /// a writer's all readers behind it. Where several that go may make room, as in a semaphore, the whole lock is watched.
    pub(super) async fn waits(
        self: &Arc<Shared>,
        asked: &Asked<'_>,
        mut place: usize,
        mut queue: Queue,
    ) -> Result<Claimed> {
        let ticket = asked.claim.ticket;
        let Some(own) = self.path_of(ticket) else { return self.is_granted(ticket) };
        loop {
            let wanted = match queue.excluder(place) {
                Some(excluder) => Watched::Node(format!("{}/{}", asked.lock, queue.entries()[excluder].name)),
                None => Watched::All,
            };
            let watches =
                |place: &mut Place| place.watches.as_ref().is_some_and(|watch| watch.watched == wanted);
            if self.of(ticket, watches) == Some(true) {
                return self.is_queued(asked, place, &queue).await;
            }
            let length = match &wanted {
                Watched::Node(path) => path.len(),
                Watched::All => asked.lock.len(),
            };
            if !self.places().may_watch(ticket, length) {
                let queued = self.is_queued(asked, place, &queue).await?;
                return Ok(match queued {
                    Claimed::Queued { busy, .. } => Claimed::Queued { recheck_in: Some(UNWATCHED), busy },
                    other => other,
                });
            }
            queue = match &wanted {
                Watched::Node(path) => {
                    if self.watch_node(ticket, path, then(&queue, place)).await? {
                        return self.is_queued(asked, place, &queue).await;
                    }
                    let lock = asked.lock.clone();
                    self.wire.ask(|client| async move { super::claiming::look(&client, &lock).await }).await?
                }
                Watched::All => self.watch_all(ticket, &asked.lock).await?,
            };
            // It has been ended meanwhile: whoever asks again makes it anew.
            let Some(found) = place_of(&queue, &own) else {
                return Ok(Claimed::Queued { recheck_in: Some(Duration::ZERO), busy: Busy::new() });
            };
            place = found;
            if queue.holds(place) {
                return self.is_granted(ticket);
            }
        }
    }

    async fn is_queued(&self, asked: &Asked<'_>, place: usize, queue: &Queue) -> Result<Claimed> {
        let (now, is_first) = (self.now(), queue.holders() == place);
        let first_for = self.of(asked.claim.ticket, |place| {
            place.first_since = is_first.then(|| place.first_since.unwrap_or(now));
            place.first_since.map(|since| now.since(since))
        });
        let recheck_in = match first_for.flatten() {
            Some(time) if time >= PATIENCE => {
                self.tell_holders(&asked.claim.key, queue).await;
                LATER_LOOKS
            }
            Some(time) => PATIENCE.saturating_sub(time),
            // Seldom, and the further behind the more seldom: whoever comes to be the first is to notice it.
            None => LATER_LOOKS * u32::try_from(place - queue.holders() + 1).unwrap_or(u32::MAX).min(360),
        };
        let busy = match self.known_of(queue) {
            Some(busy) => busy,
            None => self.busy(&asked.claim.key, queue).await?,
        };
        Ok(Claimed::Queued { recheck_in: Some(recheck_in), busy })
    }

    /// Who is in the way, as far as it is known here: whoever waits is not told the token of somebody else's hold.
    fn known_of(&self, queue: &Queue) -> Option<Busy> {
        let first = queue.entries().first()?;
        let (ttl, info) = self.seen().get(&first.session)?.clone();
        let own = self.of(first.ticket, |place| match &place.stands {
            Stands::Holds(made) if first.session == self.id => token(made.zxid).ok(),
            _ => None,
        });
        Some(Busy::new().held_by(info).for_another(Some(ttl)).under(own.flatten()))
    }

    /// Who is in the way: the first that holds.
    pub(super) async fn busy(&self, key: &LockKey, queue: &Queue) -> Result<Busy> {
        let Some(first) = queue.entries().first() else { return Ok(Busy::new()) };
        let (claim, session) =
            (format!("{}/{}", self.names.lock(key), first.name), self.names.session(first.session));
        self.wire
            .ask(|client| async move {
                let (claim, session) = (client.check_stat(&claim), client.get_data(&session));
                let token = claim.await.map_err(failed)?.and_then(|stat| token(stat.czxid).ok());
                let found = match session.await {
                    Ok((data, _)) => read_of_session(&data),
                    Err(Driver::NoNode) => None,
                    Err(error) => return Err(failed(error)),
                };
                if let Some(found) = &found {
                    let mut seen = self.seen();
                    if seen.len() >= SEEN {
                        seen.clear();
                    }
                    seen.insert(first.session, found.clone());
                }
                let (ttl, info) = found.unzip();
                Ok(Busy::new().held_by(info.flatten()).for_another(ttl).under(token))
            })
            .await
    }

    /// Tells the holders that somebody waits. Best effort: whoever waits tells it again.
    async fn tell_holders(&self, key: &LockKey, queue: &Queue) {
        let told: Vec<_> = wishes::of_sessions(&queue.entries()[..queue.holders()])
            .into_iter()
            .map(|(session, holds)| {
                let words = wishes::written(holds.iter().map(|hold| (key, hold.ticket)));
                (self.names.wanted(session), words)
            })
            .collect();
        let tell = self.wire.ask(|client| async move {
            let telling: Vec<_> =
                told.iter().map(|(path, words)| client.set_data(path, words.as_bytes(), None)).collect();
            for told in telling {
                // One that has gone holds nothing any more.
                let _ = told.await;
            }
            Ok(())
        });
        let _ = tell.await;
    }

    /// Who only tries tells it as well, once in a while.
    pub(super) async fn tell_holders_of_a_try(&self, key: &LockKey, queue: &Queue) {
        if self.tries.is_time(key, self.now()) {
            self.tell_holders(key, queue).await;
        }
    }
}

/// What it means for the claim in this place that the last one goes that it cannot hold beside.
fn then(queue: &Queue, place: usize) -> Then {
    match place.checked_sub(1).map(|before| queue.entries()[before].permit) {
        Some(_) if place == 1 => Then::Holds,
        Some(before) if before.weight() == before.capacity() => Then::HoldsBehindAHold,
        _ => Then::Looks,
    }
}
