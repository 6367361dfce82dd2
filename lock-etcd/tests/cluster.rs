//! What operators do to a cluster, and what becomes of its locks: leases revoked, no more room, members defragmented, history
//! compacted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixtures;

use lock_conformance::servers::{EtcdCluster, EtcdClusterSetup, EtcdSetup};
use lock_core::{AcquireOptions, Effect, End, Error, ErrorKind, Guard, HoldState, LockClient, Reason, Wait};

use crate::fixtures::clients::{
    LONG, PATIENCE, SECOND, SOON, acquired, acquired_again, answer, clients, is_kept, now, queued, until,
    waiting, within,
};
use crate::fixtures::lease_of;

/// A cluster that is soon full.
async fn small() -> EtcdCluster {
    let member = EtcdSetup::new().quota(4 * 1024 * 1024);
    EtcdClusterSetup::new().each(member).start().await.unwrap()
}

async fn revoke(cluster: &EtcdCluster, guard: &Guard) {
    cluster.leader().await.unwrap().revoke(lease_of(guard.grant().session)).await.unwrap();
}

/// A renewal would find it in minutes: it is told, whichever member it listens to.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_hears_at_once_that_its_lease_was_revoked() {
    let cluster = EtcdCluster::start().await.unwrap();
    let clients = clients(&cluster, LONG).await;
    for (number, client) in clients.iter().enumerate() {
        let next = &clients[(number + 1) % clients.len()];
        let guard = acquired(client, "k").await;
        let wait = waiting(next, "k", 1, next).await;
        revoke(&cluster, &guard).await;
        let end = within(SOON, "the news of the loss", guard.ending()).await;
        assert_eq!(end, End::Lost(Reason::SessionEnded));
        assert_eq!(guard.state(), HoldState::Ended(end));
        let (next, _) = answer(SOON, "the waiter's grant", wait).await;
        let next = next.unwrap();
        assert!(next.token() > guard.token());
        assert_eq!(guard.release().await.unwrap(), end);
        assert!(next.state().is_held());
        assert_eq!(next.release().await.unwrap(), End::Released);
        // The client goes on with another session.
        acquired(client, "k").await.release().await.unwrap();
    }
}

/// It is told, and holds nothing when its turn would have come; whoever waited behind it does not take its place for a grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_lease_was_revoked_is_passed_by() {
    let cluster = EtcdCluster::start().await.unwrap();
    let clients = clients(&cluster, LONG).await;
    for turn in 0..clients.len() {
        let [holder, revoked, behind] = [0, 1, 2].map(|place| &clients[(turn + place) % clients.len()]);
        let guard = acquired(holder, "k").await;
        let wait = waiting(revoked, "k", 1, holder).await;
        let mut next = waiting(behind, "k", 2, holder).await;
        let session = holder.inspect("k").await.unwrap().queue[0].session;
        cluster.leader().await.unwrap().revoke(lease_of(session)).await.unwrap();
        let (told, _) = answer(SOON, "an answer to who was revoked", wait).await;
        let error = told.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SessionLost(_)) && error.is_retryable(), "{error:?}");
        queued(holder, "k", 1).await;
        // Whoever is the first to wait has looked again by the time that the holder hears of it.
        until("the holder to be wanted", async || {
            assert!(next.try_join_next().is_none(), "granted in the place of one who has gone");
            guard.is_wanted()
        })
        .await;
        let (token, released) = (guard.token(), now());
        assert_eq!(guard.release().await.unwrap(), End::Released);
        let (next, at) = answer(SOON, "the grant to who waited behind", next).await;
        let next = next.unwrap();
        assert!(at > released && next.token() > token, "both hold it");
        assert_eq!(next.release().await.unwrap(), End::Released);
        acquired_again(revoked, "k").await.release().await.unwrap();
    }
}

/// The release follows on the revocation. To both who wait it may be one piece of news.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_granted_by_a_claim_that_is_gone() {
    let cluster = EtcdCluster::start().await.unwrap();
    let clients = clients(&cluster, LONG).await;
    for turn in 0..9 {
        let [holder, revoked, behind] = [0, 1, 2].map(|place| &clients[(turn + place) % clients.len()]);
        let guard = acquired(holder, "k").await;
        let wait = waiting(revoked, "k", 1, holder).await;
        let next = waiting(behind, "k", 2, holder).await;
        let session = holder.inspect("k").await.unwrap().queue[0].session;
        let leader = cluster.leader().await.unwrap();
        let (revocation, end) = tokio::join!(leader.revoke(lease_of(session)), guard.release());
        revocation.unwrap();
        assert_eq!(end.unwrap(), End::Released);
        let (told, _) = answer(SOON, "an answer to who was revoked", wait).await;
        match told {
            // The release was first: it did hold, and hears of the loss.
            Ok(granted) => {
                let end = within(SOON, "the news of the loss", granted.ending()).await;
                assert_eq!(end, End::Lost(Reason::SessionEnded));
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
        let (next, _) = answer(SOON, "the grant to who waited behind", next).await;
        let next = next.unwrap();
        let seen = holder.inspect("k").await.unwrap();
        assert_eq!(seen.holders[0].token, next.token());
        assert!(next.state().is_held());
        assert_eq!(next.release().await.unwrap(), End::Released);
    }
}

/// Without room a hold goes on, a release works, and the next waiter is granted: only what is new has to wait.
#[tokio::test(flavor = "multi_thread")]
async fn without_room_what_is_there_goes_on_and_nothing_new_begins() {
    let cluster = small().await;
    let clients = clients(&cluster, 2 * SECOND).await;
    let [holder, second, third] = &clients[..] else { unreachable!("three clients") };
    let guard = acquired(holder, "k").await;
    let next = waiting(second, "k", 1, holder).await;
    let impatient = AcquireOptions::new().wait(Wait::AtMost(3 * SECOND));
    let lock = third.mutex("k").unwrap();
    let gives_up = tokio::task::JoinSet::from_iter([async move { lock.acquire_with(&impatient).await }]);
    queued(holder, "k", 2).await;
    cluster.fill().await.unwrap();
    is_full(third).await;
    // For longer than the lease.
    is_kept(&guard, third).await;
    is_kept(&guard, third).await;
    let given_up = answer(PATIENCE, "the end of a patience", gives_up).await;
    assert!(matches!(given_up.as_ref().unwrap_err().kind(), ErrorKind::WaitTimedOut(_)), "{given_up:?}");
    queued(holder, "k", 1).await;
    let (token, released) = (guard.token(), now());
    assert_eq!(within(SOON, "a release", guard.release()).await.unwrap(), End::Released);
    let (next, at) = answer(SOON, "the waiter's grant", next).await;
    let next = next.unwrap();
    assert!(at > released && next.token() > token, "both hold it");
    is_kept(&next, third).await;
    is_full(third).await;
    cluster.make_room().await.unwrap();
    is_kept(&next, third).await;
    assert_eq!(next.release().await.unwrap(), End::Released);
    for client in &clients {
        acquired(client, "another").await.release().await.unwrap();
    }
}

async fn is_full(client: &LockClient) {
    let error: Error = client.mutex("another").unwrap().try_acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.took_effect()), (&ErrorKind::Exhausted, Effect::NotApplied), "{error:?}");
    assert!(error.is_retryable(), "{error:?}");
}

/// Member by member, also the one that leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_ends_no_hold_and_no_wait() {
    let cluster = EtcdCluster::start().await.unwrap();
    let (short, long) = (clients(&cluster, 2 * SECOND).await, clients(&cluster, LONG).await);
    for turn in 0..short.len() {
        let (holder, waiter) = (&short[turn], &long[(turn + 1) % long.len()]);
        let guard = acquired(holder, "k").await;
        let next = waiting(waiter, "k", 1, holder).await;
        // By now it is not about to look again for a while.
        until("the holder to be wanted", async || guard.is_wanted()).await;
        for member in cluster.members() {
            member.defragment().await.unwrap();
        }
        is_kept(&guard, waiter).await;
        let (token, released) = (guard.token(), now());
        assert_eq!(guard.release().await.unwrap(), End::Released);
        let (next, at) = answer(SOON, "the waiter's grant", next).await;
        let next = next.unwrap();
        assert!(at > released && next.token() > token, "both hold it");
        assert_eq!(next.release().await.unwrap(), End::Released);
    }
}

/// Whoever waits was there before anything of what is left of the history, and hears of what comes all the same: also where its
/// connection ends meanwhile, and it has to listen anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_while_somebody_waits_changes_nothing() {
    let cluster = EtcdCluster::start().await.unwrap();
    for (turn, listens_anew) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        // A holder whose connection has ended listens to those who want its lock from its next renewal on.
        let clients = clients(&cluster, LONG).await;
        let (holder, waiter) = (&clients[turn], &clients[(turn + 1) % clients.len()]);
        let guard = acquired(holder, "k").await;
        let next = waiting(waiter, "k", 1, holder).await;
        until("the holder to be wanted", async || guard.is_wanted()).await;
        let leader = cluster.leader().await.unwrap();
        leader.put("other", "data").await.unwrap();
        leader.compact().await.unwrap();
        if listens_anew {
            cluster.disconnect().unwrap();
            leader.put("other", "more data").await.unwrap();
            leader.compact().await.unwrap();
        }
        let (token, released) = (guard.token(), now());
        assert_eq!(within(PATIENCE, "a release", guard.release()).await.unwrap(), End::Released);
        let (next, at) = answer(SOON, "the waiter's grant", next).await;
        let next = next.unwrap();
        assert!(at > released && next.token() > token, "both hold it");
        assert_eq!(next.release().await.unwrap(), End::Released);
    }
}
