//! The connection to a server, and every way in which it can end: cut, silent, halved, slow, taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_core::{
    AcquireOptions, End, Error, ErrorKind, HoldState, LockClient, LockKey, Operation, Query, Reason,
    RetryPolicy, Wait,
};

use crate::case::cases;
use crate::proxy::{Proxy, Way};
use crate::remote::Remote;
use crate::scene::{LONG, NOISE, SOON, Scene, deadline};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "connections":
    48 => reset_in_the_middle_of_an_acquire for 30,
    49 => a_retry_recognises_its_own_claim,
    50 => a_black_hole_keeps_nobody_for_longer,
    #[alone] 51 => half_closed_and_in_slow_slices,
    52 => reconnecting_tells_the_truth,
    53 => the_server_ends_connection_or_session,
    54 => nothing_is_retried_blindly,
    55 => a_waiter_outlives_its_wake_up_channel,
}

/// What a call may take beyond its deadline, on a machine that has nothing else to do.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Each time after so many more bytes, until an acquire has ended before the cut.
async fn reset_in_the_middle_of_an_acquire(scene: Scene) -> Verdict {
    const STEP: u64 = 37;
    let (client, proxy) = scene.proxied_with(|b| b.ttl(LONG)).await?;
    let other = scene.client_with(|b| b.ttl(LONG)).await?;
    for way in [Way::ToServer, Way::ToClient] {
        let sent = |proxy: &Proxy| match way {
            Way::ToServer => proxy.counts().to_server,
            _ => proxy.counts().to_client,
        };
        let before = sent(&proxy);
        client.mutex(scene.key())?.acquire().await?.release().await?;
        let usual = sent(&proxy) - before;
        for bytes in (0..usual).step_by(usize::try_from(STEP.min(usual / 6).max(1)).unwrap_or(1)) {
            let place = format!("cut after {bytes} of {usual} bytes, {way:?}");
            proxy.reset_after_bytes(way, bytes);
            cut_once(&scene, &client, &other).await.map_err(|failure| failure.within(place))?;
        }
        // The last one may still be to come, where a cycle took fewer bytes than the first.
        proxy.heal();
    }
    Ok(())
}

async fn cut_once(scene: &Scene, client: &LockClient, other: &LockClient) -> Verdict {
    let guard = scene.granted(SOON * 5, "a grant in the end", client, scene.key()).await?;
    let holder = scene.holder(&scene.key()).await?;
    expect_eq("the token of the one holder", holder.token, guard.token())?;
    expect_eq("who it is", holder.session, guard.grant().session)?;
    expect_eq("waiters", scene.state(&scene.key()).await?.queue.len(), 0)?;
    match guard.release().await {
        Ok(end) => expect_eq("the end", end, End::Released)?,
        // The cut may come only now. Then the engine goes on.
        Err(error) => expect_eq("the kind of error", error.kind().clone(), ErrorKind::Unavailable)?,
    }
    scene.granted(SOON * 2, "the key after the release", other, scene.key()).await?.release().await?;
    Ok(())
}

/// The pause before the retry is long: whoever looks meanwhile sees the token that the retry has to get.
async fn a_retry_recognises_its_own_claim(scene: Scene) -> Verdict {
    let retry = RetryPolicy::default().base(Duration::from_millis(300));
    let (client, proxy) = scene.proxied_with(|b| b.ttl(LONG).retry(retry)).await?;
    for _ in 0..3 {
        proxy.swallow_next_reply();
        let acquiring = scene.acquiring(&client, scene.key())?;
        scene
            .until(SOON, "a grant that is not answered", async || {
                Ok(!scene.state(&scene.key()).await?.is_idle())
            })
            .await?;
        let seen = scene.holder(&scene.key()).await?;
        let guard = scene.joined(SOON * 3, "the retry's grant", acquiring).await?;
        expect_eq("the token that could be seen before the retry", guard.token(), seen.token)?;
        expect_eq("the token afterwards", scene.holder(&scene.key()).await?.token, seen.token)?;
        expect_eq("the end", guard.release().await?, End::Released)?;
        expect(scene.state(&scene.key()).await?.is_idle(), "a free key", "it is held, or waited for")?;
    }
    Ok(())
}

async fn a_black_hole_keeps_nobody_for_longer(scene: Scene) -> Verdict {
    const CALL: Duration = Duration::from_millis(300);
    for way in [Way::ToServer, Way::ToClient, Way::Both] {
        let (client, proxy) = scene.proxied_with(|b| b.call_timeout(CALL)).await?;
        let leaving = scene.client_through(&proxy, |b| b.call_timeout(CALL)).await?;
        let _left = leaving.mutex(scene.named("left"))?.acquire().await?;
        let held = client.mutex(scene.key())?.acquire().await?;
        let released = client.mutex(scene.named("released"))?.acquire().await?;
        proxy.block(way);
        let place = |failure: Failure| failure.within(format_args!("blocked: {way:?}"));
        let calls = calls_are_answered(&scene, &client, &proxy, released, CALL);
        let lost = async {
            let state = scene.within(scene.ttl(), "a hold at risk", held.changed(held.state())).await?;
            expect(matches!(state, HoldState::AtRisk { .. }), "at risk", format_args!("{state:?}"))?;
            let end = scene.within(scene.ttl() + NOISE, "the end of the hold", held.ending()).await?;
            expect_eq("the end", end, End::Lost(Reason::Expired))
        };
        let shut = scene.within(CALL + TOLERANCE + NOISE, "the end of a shutdown", leaving.shutdown(CALL));
        let (calls, lost, shut) = tokio::join!(calls, lost, shut);
        calls.and(lost).map_err(place)?;
        let left = shut.map_err(place)?;
        expect_eq("keys whose release nobody has acknowledged", left, vec![scene.named("left")])?;
        proxy.heal();
        let limit = scene.longest().await? + SOON;
        let other = scene.client().await?;
        for key in [scene.key(), scene.named("left"), scene.named("released")] {
            scene.granted(limit, "the key for another", &other, key).await?.release().await?;
        }
        scene.free_again(&client, scene.key()).await?.release().await?;
    }
    a_server_falls_silent(&scene).await
}

/// After each of its first answers, in the middle of what it takes to connect.
async fn a_server_falls_silent(scene: &Scene) -> Verdict {
    for answers in 1..=4 {
        let proxy = scene.proxy().await?;
        let (network, seen) = (proxy.clone(), AtomicUsize::new(0));
        proxy.watch(move |way, _| {
            if way == Way::ToClient && seen.fetch_add(1, Ordering::SeqCst) + 1 == answers {
                network.block(Way::Both);
            }
        });
        let address = proxy.address();
        let connecting = scene.remote()?.backend_through(&address);
        let what = format!("a connection to a server that is silent after {answers} answers");
        let failed = in_time(scene, &what, scene.remote()?.connect_timeout(), connecting).await?;
        // It may have had all that it needed.
        expect(failed.is_none_or(|error| error.is_retryable()), "an error that passes", "another")?;
        proxy.close().await;
        // It refers to itself.
        proxy.watch(|_, _| {});
    }
    Ok(())
}

/// All at once, each under its own deadline.
async fn calls_are_answered(
    scene: &Scene,
    client: &LockClient,
    proxy: &Proxy,
    released: lock_core::Guard,
    call: Duration,
) -> Verdict {
    let patience = AcquireOptions::new().wait(Wait::AtMost(call + call / 2));
    let (lock, key) = (client.mutex(scene.named("free"))?, scene.named("free"));
    let remote = scene.remote()?;
    let at_once = remote.lazy_backend_through(&proxy.address())?;
    let query = Query::new(None, "", 10);
    let address = proxy.address();
    let errors: [Verdict<Option<Error>>; 9] = tokio::join!(
        in_time(scene, "an attempt", call, lock.try_acquire()),
        in_time(scene, "an acquire", call + call / 2, lock.acquire_with(&patience)),
        in_time(scene, "a release", call, released.release()),
        in_time(scene, "a look", call, client.inspect(key.clone())),
        in_time(scene, "a list", call, client.list("", None, 10)),
        in_time(scene, "a forced release", call, client.force_release(key, None)),
        in_time(scene, "a probe", call, client.probe()),
        in_time(scene, "a connection", remote.connect_timeout(), remote.backend_through(&address)),
        in_time(scene, "a first call", remote.connect_timeout(), at_once.list(&query)),
    )
    .into();
    for error in errors {
        let error = error?;
        let error = error.ok_or_else(|| Failure::new("an error where no answer can come", "an answer"))?;
        expect(
            matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable) && error.is_retryable(),
            "no answer in time, or unavailable, and that one may try again",
            format_args!("{error:?}"),
        )?;
    }
    Ok(())
}

/// The error that a call answers in its time.
async fn in_time<T>(
    scene: &Scene,
    what: &str,
    limit: Duration,
    call: impl Future<Output = lock_core::Result<T>>,
) -> Verdict<Option<Error>> {
    Ok(scene.within(limit + TOLERANCE + NOISE, format_args!("the answer to {what}"), call).await?.err())
}

async fn half_closed_and_in_slow_slices(scene: Scene) -> Verdict {
    let (client, proxy) = scene.proxied_with(|b| b.ttl(LONG)).await?;
    let other = scene.client_with(|b| b.ttl(LONG)).await?;
    for (size, pause) in [(1, 0), (2, 1), (3, 2)] {
        proxy.slices(size, Duration::from_millis(pause));
        let lock = client.mutex(scene.key())?;
        let guard = scene.within(SOON * 5, "a grant in slices", lock.acquire()).await??;
        expect_eq("the holder's token", scene.holder(&scene.key()).await?.token, guard.token())?;
        expect_eq("the end", guard.release().await?, End::Released)?;
        let held = other.mutex(scene.key())?.acquire().await?;
        let waiting = scene.acquiring(&client, scene.key())?;
        scene.queue(&scene.key(), 1).await?;
        held.release().await?;
        drop(scene.joined(SOON * 2, "a wake-up in slices", waiting).await?);
    }
    proxy.slices(0, Duration::ZERO);
    let (client, proxy) = scene.proxied().await?;
    let guard = scene.granted(SOON, "a key", &client, scene.named("half")).await?;
    proxy.half_close();
    let lock = client.mutex(scene.named("other"))?;
    scene.within(SOON * 2, "a grant after the half-close", lock.acquire()).await??.release().await?;
    scene.is_renewed(&guard).await
}

/// A hold whose connection was cut for less than its lease is kept, and one whose was cut for longer is lost for good.
async fn reconnecting_tells_the_truth(scene: Scene) -> Verdict {
    let (client, proxy) = scene.proxied().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    for cut in [Way::ToServer, Way::ToClient, Way::Both] {
        proxy.reset_all();
        scene.is_renewed(&guard).await?;
        proxy.block(cut);
        scene.pause(scene.ttl() / 4).await;
        proxy.heal();
        scene.is_renewed(&guard).await?;
        expect_eq("the holder", scene.holder(&scene.key()).await?.session, guard.grant().session)?;
    }
    proxy.block(Way::Both);
    let until = deadline(&guard)?;
    let end = scene.within(scene.ttl() + SOON, "the end of the hold", guard.ending()).await?;
    let at = scene.now();
    expect_eq("the end", end, End::Lost(Reason::Expired))?;
    // A renewal whose answer was on its way may have moved it once more.
    let latest = until + scene.ttl() / 2 + NOISE;
    expect(
        at >= until && at <= latest,
        "an end at the local deadline",
        format_args!("{:?}", at.since(until)),
    )?;
    proxy.heal();
    let next = scene.free_again(&client, scene.key()).await?;
    expect(next.token() > guard.token(), "a higher token", next.token())?;
    scene.pause(scene.ttl()).await;
    expect_eq("the state of what was lost", guard.state(), HoldState::Ended(end))?;
    expect(next.state().is_held(), "a new hold that is kept", format_args!("{:?}", next.state()))
}

async fn the_server_ends_connection_or_session(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    for _ in 0..2 {
        scene.remote()?.disconnect().await?;
        scene.is_renewed(&guard).await?;
    }
    scene.remote()?.end_session(guard.grant().session).await?;
    let end = scene.within(scene.ttl() + NOISE, "the news of a session's end", guard.ending()).await?;
    expect(
        matches!(end, End::Lost(Reason::SessionEnded | Reason::Expired)),
        "a session that was ended, or whose lease has expired",
        end,
    )?;
    let next = scene.free_again(&client, scene.key()).await?;
    expect(next.token() > guard.token(), "a higher token", next.token())
}

/// Counted on the network: requests that name the key. A backend sends one for each call of the engine's, the engine one
/// claim for an attempt, and an acquire's further ones are of the same claim.
async fn nothing_is_retried_blindly(scene: Scene) -> Verdict {
    const TIMES: usize = 3;
    let name = format!("once{:016x}", scene.seed());
    let key = LockKey::new(&*name)?;
    let proxy = scene.proxy().await?;
    let client_and_wire = async || {
        let wire = lock_core::testing::Wire::new(Arc::new(lock_core::SystemClock::new()));
        let backend = wire.to(scene.remote()?.backend_through(&proxy.address()).await?);
        Verdict::Ok((scene.client_of(backend, |b| b.ttl(LONG)).await?, wire))
    };

    let (client, wire) = client_and_wire().await?;
    let requests = lose_replies(&proxy, &name, TIMES);
    let guard = scene.granted(SOON * 5, "a grant in the end", &client, key.clone()).await?;
    expect_eq("claims", wire.calls(Operation::Claim), TIMES + 1)?;
    // It may be sent together with what goes with it.
    let of_calls = |calls: usize| calls..=calls * scene.remote().map_or(1, Remote::requests_of_a_call);
    let sent = requests.load(Ordering::SeqCst);
    expect(of_calls(TIMES + 1).contains(&sent), format_args!("{:?} requests", of_calls(TIMES + 1)), sent)?;
    let state = scene.state(&key).await?;
    expect_eq("holders of the one grant", state.holders.len() + state.queue.len(), 1)?;
    expect_eq("the highest token so far", state.fence, Some(guard.token()))?;

    let requests = lose_replies(&proxy, &name, 1);
    let forced = client.force_release(key.clone(), None).await;
    expect(forced.is_err(), "no answer to a forced release", format_args!("{forced:?}"))?;
    let sent = requests.load(Ordering::SeqCst);
    expect(of_calls(1).contains(&sent), "one forced release", sent)?;
    // A store that looks before it ends what it has seen may have lost the answer to the look: then nothing was ended.
    let was_ended = scene.state(&key).await?.is_idle();
    match guard.release().await? {
        End::Lost(Reason::Revoked | Reason::Forgotten) if was_ended => {}
        End::Released if !was_ended => {}
        end => return expect(false, format_args!("ended by force: {was_ended}"), end),
    }

    // Of another client, for another key: the engine of the first may still be giving back what was ended by force.
    let name = format!("tried{:016x}", scene.seed());
    let key = LockKey::new(&*name)?;
    let (client, wire) = client_and_wire().await?;
    let requests = lose_replies(&proxy, &name, 1);
    let attempt = client.mutex(key.clone())?.try_acquire().await;
    expect(attempt.is_err(), "no answer to one attempt", format_args!("{attempt:?}"))?;
    expect_eq("claims of one attempt", wire.calls(Operation::Claim), 1)?;
    // What it may have won is given back.
    scene.until(SOON, "a free key", async || Ok(scene.state(&key).await?.is_idle())).await?;
    // A node that has not got the key says which one has it: what it refuses is sent on.
    let counted =
        || (wire.calls(Operation::Claim) + wire.calls(Operation::Release), requests.load(Ordering::SeqCst));
    // A key that was never won is free before its release has been sent.
    scene.until(SOON, "a request for each call", async || Ok(counted().1 >= counted().0)).await?;
    let (made, sent) = counted();
    let most = *of_calls(made).end() * if scene.remote()?.endpoint().contains(',') { 2 } else { 1 };
    expect((made..=most).contains(&sent), format_args!("{made} requests, {most} at most"), sent)?;
    // It refers to itself.
    proxy.watch(|_, _| {});
    Ok(())
}

/// Loses the replies to so many requests that have a name in them, each with its connection; and counts these requests.
fn lose_replies(proxy: &Proxy, name: &str, times: usize) -> Arc<AtomicUsize> {
    let (requests, times) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(times));
    let (name, counted, network) = (name.as_bytes().to_vec(), requests.clone(), proxy.clone());
    proxy.watch(move |way, bytes| {
        if way == Way::ToServer && bytes.windows(name.len()).any(|part| part == name) {
            counted.fetch_add(1, Ordering::SeqCst);
            if times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                // That of this connection, whatever else is under way.
                network.swallow_next_reply();
            }
        }
    });
    requests
}

/// With leases so long that no fallback could be the reason for the grant.
async fn a_waiter_outlives_its_wake_up_channel(scene: Scene) -> Verdict {
    let (one, other) = (scene.client_with(|b| b.ttl(LONG)).await?, scene.client_with(|b| b.ttl(LONG)).await?);
    let mut random = fastrand::Rng::with_seed(scene.seed());
    for round in 0..6 {
        let held = one.mutex(scene.key())?.acquire().await?;
        let waiting = scene.acquiring(&other, scene.key())?;
        scene.queue(&scene.key(), 1).await?;
        scene.remote()?.disconnect().await?;
        // Before it has noticed, while it comes back, and after that.
        scene.pause(Duration::from_millis(random.u64(0..10) * round)).await;
        match held.release().await {
            Ok(end) => expect_eq("the end", end, End::Released)?,
            // Its connection has gone as well, and the engine goes on.
            Err(error) => expect(error.is_retryable(), "an error that passes", error)?,
        }
        let what = format!("the waiter's grant in round {round}");
        scene.joined(SOON, what, waiting).await?.release().await?;
    }
    Ok(())
}
