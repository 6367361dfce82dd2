//! The server: down, killed, full, read-only, stopped, without room; and what its clients are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{Effect, End, Error, ErrorKind, HoldState, LockClient, Reason, RetryPolicy};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::remote::{Impairment, addresses};
use crate::scene::{LONG, NOISE, SOON, Scene, deadline, without_panic};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "servers":
    56 => down_at_start,
    57 => killed_and_started_again,
    58 => a_server_that_cannot_write_says_so,
    59 => forgotten_scripts_are_sent_again,
    60 => started_again_while_others_wait,
    61 => no_room_for_another_connection,
    69 => a_late_reply_is_judged_by_its_sending,
}

async fn down_at_start(scene: Scene) -> Verdict {
    let remote = scene.remote()?;
    let (endpoint, patience) = (remote.endpoint(), Duration::from_millis(500));
    remote.kill().await?;
    let limit = remote.connect_timeout() + NOISE;
    let eager = scene.within(limit, "an answer to a connection", remote.backend_through(&endpoint)).await?;
    let lazy = remote.lazy_backend_through(&endpoint)?;
    let client = LockClient::builder(lazy.clone())
        .ttl(scene.ttl())
        .retry(RetryPolicy::default().give_up_after(patience))
        .build()?;
    let lock = client.mutex(scene.key())?;
    let errors = [
        eager.err(),
        scene.within(limit, "an answer to one attempt", lock.try_acquire()).await?.err(),
        scene.within(limit + patience, "an answer to an acquire", lock.acquire()).await?.err(),
        scene.within(limit, "the end of an opening", client.open_within(patience)).await?.err(),
    ];
    for error in errors {
        let error = error.ok_or_else(|| Failure::new("an error where no server is", "none"))?;
        expect(
            *error.kind() == ErrorKind::Unavailable
                && error.is_retryable()
                && addresses(&endpoint).iter().any(|address| error.to_string().contains(address)),
            format_args!("an error that says that {endpoint} is unavailable, or one of these"),
            format_args!("{error:?}"),
        )?;
    }
    // Whoever is more patient waits for the server, and all of them go on once it is there.
    let patient = LockClient::builder(lazy).ttl(scene.ttl()).build()?;
    let waiting = scene.acquiring(&patient, scene.named("patient"))?;
    remote.start_again().await?;
    scene.joined(SOON * 3, "a grant once the server is there", waiting).await?.release().await?;
    scene.granted(SOON * 3, "a grant to the same client", &client, scene.key()).await?.release().await?;
    Ok(())
}

/// With what it had written every hold is kept; without, it is lost: then the holder is told, and the token decides.
async fn killed_and_started_again(scene: Scene) -> Verdict {
    let remote = scene.remote()?;
    let (client, other) = (scene.client().await?, scene.client().await?);
    // So that the lease outlives the starts of a store that takes its time.
    let patient = scene.client_with(|b| b.ttl(scene.ttl() * 5)).await?;
    let kept = patient.mutex(scene.named("kept"))?.acquire().await?;
    for _ in 0..2 {
        remote.kill().await?;
        remote.start_again().await?;
        let busy = scene.client().await?.mutex(scene.named("kept"))?.try_acquire().await?;
        expect(busy.is_err(), "busy after the start", "granted")?;
        scene.within(scene.ttl() * 5, "a renewal", kept.extended(deadline(&kept)?)).await?;
        expect_eq("the holder's token", scene.holder(&scene.named("kept")).await?.token, kept.token())?;
    }
    let guard = scene.free_again(&client, scene.key()).await?;
    remote.kill().await?;
    remote.start_again_empty().await?;
    let end = scene.within(scene.ttl() + NOISE, "the news that the hold is lost", guard.ending()).await?;
    expect(
        matches!(end, End::Lost(Reason::SessionEnded | Reason::Forgotten | Reason::Expired)),
        "the store no longer knows it",
        end,
    )?;
    let next = scene.free_again(&other, scene.key()).await?;
    // A store that counts from one again says so: then whoever is protected by tokens has to be told.
    if scene.is_weaker() {
        expect(next.token() <= guard.token(), "tokens that begin anew", next.token())?;
    } else {
        expect(next.token() > guard.token(), format_args!("a token above {}", guard.token()), next.token())?;
    }
    scene.free_again(&client, scene.named("other")).await?.release().await?;
    Ok(())
}

async fn a_server_that_cannot_write_says_so(scene: Scene) -> Verdict {
    let impairments = scene.remote()?.impairments();
    expect(!impairments.is_empty(), "a server that can be impaired", "the fixture names no `impairments`")?;
    for impairment in impairments {
        impaired(&scene, impairment).await.map_err(|failure| failure.within(impairment.name))?;
    }
    Ok(())
}

async fn impaired(scene: &Scene, Impairment { name, passes }: Impairment) -> Verdict {
    let remote = scene.remote()?;
    let client = scene.client_with(|b| b.ttl(LONG)).await?;
    let other = scene.client_with(|b| b.ttl(LONG)).await?;
    let held = client.mutex(scene.key())?.acquire().await?;
    let waiting = scene.acquiring(&other, scene.key())?;
    scene.queue(&scene.key(), 1).await?;
    remote.impair(name).await?;
    let said = |error: &Error| {
        let whole = *error.kind() == ErrorKind::Exhausted && error.is_retryable() == passes;
        let expected = format!("a store that cannot write (and passes by itself: {passes})");
        expect(whole, expected, format_args!("{error:?}"))
    };
    let refused = |error: Option<Error>| {
        let error = error.ok_or_else(|| Failure::new("an error where nothing can be written", "none"))?;
        said(&error)?;
        expect_eq("its effect", error.took_effect(), Effect::NotApplied)
    };
    let lock = client.mutex(scene.named("free"))?;
    refused(scene.within(SOON, "an answer to one attempt", lock.try_acquire()).await?.err())?;
    let once = LockClient::builder(scene.backend().await?).ttl(LONG).retry(RetryPolicy::none()).build()?;
    refused(scene.within(SOON, "an answer to an opening", once.open()).await?.err())?;
    // A store may let through what only gives back.
    match scene.within(SOON, "an answer to a release", held.release()).await? {
        Ok(end) => expect_eq("the end", end, End::Released)?,
        Err(error) => said(&error)?,
    }
    remote.mend().await?;
    // Also if the release had failed: the engine goes on.
    scene.joined(SOON * 3, "the grant to whoever waited", waiting).await?.release().await?;
    for client in [&client, &other, &once] {
        scene.granted(SOON * 3, "a grant after that", client, scene.named("free")).await?.release().await?;
    }
    let idle = async |key| Verdict::Ok(scene.state(key).await?.is_idle());
    expect(idle(&scene.key()).await?, "a free key", "it is held, or waited for")
}

async fn forgotten_scripts_are_sent_again(scene: Scene) -> Verdict {
    let remote = scene.remote()?;
    let (client, other) = (scene.client().await?, scene.client().await?);
    remote.forget_scripts().await?;
    let guard = scene.granted(SOON, "a grant", &client, scene.key()).await?;
    remote.forget_scripts().await?;
    scene.is_renewed(&guard).await?;
    let waiting = scene.acquiring(&other, scene.key())?;
    scene.queue(&scene.key(), 1).await?;
    remote.forget_scripts().await?;
    expect_eq("the end", guard.release().await?, End::Released)?;
    let next = scene.joined(SOON, "the waiter's grant", waiting).await?;
    remote.forget_scripts().await?;
    expect_eq("the holder", client.inspect(scene.key()).await?.holders.len(), 1)?;
    remote.forget_scripts().await?;
    expect_eq("holds ended by force", client.force_release(scene.key(), None).await?, 1)?;
    drop(next);
    remote.forget_scripts().await?;
    client.shutdown(SOON).await;
    remote.forget_scripts().await?;
    a_new_client_is_served(&scene).await
}

/// With its data it serves them in their order; without, each gets the lock, or an error after which it may try again.
async fn started_again_while_others_wait(scene: Scene) -> Verdict {
    const WAITERS: usize = 5;
    let remote = scene.remote()?;
    for with_its_data in [true, false] {
        let key = scene.named(if with_its_data { "kept" } else { "lost" });
        // With leases so long that only the news of the restart brings a waiter back.
        let ttl = if with_its_data { LONG } else { scene.ttl() };
        let first = scene.client_with(|b| b.ttl(ttl)).await?;
        let held = first.mutex(key.clone())?.acquire().await?;
        let served: Arc<Mutex<Vec<usize>>> = Arc::default();
        let mut waiting = JoinSet::new();
        for number in 0..WAITERS {
            let (lock, served) =
                (scene.client_with(|b| b.ttl(ttl)).await?.mutex(key.clone())?, served.clone());
            waiting.spawn(async move {
                let guard = lock.acquire().await?;
                served.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                // A server that is gone again is told later.
                guard.release().await.map(|_| ())
            });
            scene.queue(&key, number + 1).await?;
        }
        remote.kill().await?;
        if with_its_data {
            remote.start_again().await?;
            scene.queue(&key, WAITERS).await?;
            expect_eq("the end", held.release().await?, End::Released)?;
        } else {
            remote.start_again_empty().await?;
            scene.within(scene.ttl() + NOISE, "the news of the loss", held.ending()).await?;
        }
        let limit = scene.ttl() * 3 + SOON * 3;
        scene
            .within(limit, "an answer to each waiter", async {
                while let Some(answer) = waiting.join_next().await {
                    let answer = without_panic(answer)?;
                    expect(
                        answer
                            .as_ref()
                            .map_or_else(|error| !with_its_data && error.is_retryable(), |()| true),
                        "the lock, or without its data an error that passes",
                        format_args!("{answer:?}"),
                    )?;
                }
                Verdict::Ok(())
            })
            .await??;
        if with_its_data {
            let order = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
            expect_eq("the order in which they were served", order, (0..WAITERS).collect())?;
        }
        let limit = scene.longest().await? + SOON;
        scene.granted(limit, "the key afterwards", &scene.client().await?, key).await?.release().await?;
    }
    Ok(())
}

async fn no_room_for_another_connection(scene: Scene) -> Verdict {
    let remote = scene.remote()?;
    let client = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    remote.refuse_connections().await?;
    // It may refuse before it is asked for anything, or in answer to that.
    let slow = scene.proxy().await?;
    slow.delay(Duration::from_millis(20));
    for address in [remote.endpoint(), slow.address()] {
        let limit = remote.connect_timeout() + NOISE;
        let refused = scene.within(limit, "an answer", remote.backend_through(&address)).await?;
        let typed = |error: &Error| *error.kind() == ErrorKind::Unavailable && error.is_retryable();
        expect(refused.as_ref().is_err_and(typed), "unavailable, and passes", format_args!("{refused:?}"))?;
    }
    // Whoever has a connection is none the worse for it.
    client.mutex(scene.named("other"))?.acquire().await?.release().await?;
    scene.within(scene.ttl(), "a renewal", guard.extended(deadline(&guard)?)).await?;
    remote.mend().await?;
    scene.is_renewed(&guard).await?;
    expect_eq("the end", guard.release().await?, End::Released)?;
    a_new_client_is_served(&scene).await
}

async fn a_new_client_is_served(scene: &Scene) -> Verdict {
    let guard = scene.granted(SOON, "a grant to a new client", &scene.client().await?, scene.key()).await?;
    expect_eq("the end", guard.release().await?, End::Released)
}

/// A renewal, a claim and an opening are under way while the server is stopped for longer than their leases.
async fn a_late_reply_is_judged_by_its_sending(scene: Scene) -> Verdict {
    const PATIENT: Duration = Duration::from_secs(20);
    let remote = scene.remote()?;
    let client = scene.client_with(|b| b.call_timeout(PATIENT)).await?;
    let opening =
        LockClient::builder(scene.backend().await?).ttl(scene.ttl()).call_timeout(PATIENT).build()?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    scene.within(scene.ttl(), "a renewal", guard.extended(deadline(&guard)?)).await?;
    remote.stop().await?;
    let claiming = scene.acquiring(&client, scene.named("claimed"))?;
    let opened = scene.acquiring(&opening, scene.named("opened"))?;
    let until = deadline(&guard)?;
    // Before the server has said anything.
    let end = scene.within(scene.ttl() + NOISE, "the end of the hold", guard.ending()).await?;
    expect_eq("the end", end, End::Lost(Reason::Expired))?;
    let late = scene.now().since(until);
    expect(late <= NOISE, "an end at the local deadline", format_args!("{late:?} after it"))?;
    scene.pause(scene.ttl() / 2).await;
    remote.go_on().await?;
    // What was claimed under the old session is none, whatever the server says of it by now.
    let claimed = without_panic(scene.within(SOON, "an answer to the claim", claiming).await?)?;
    expect(
        claimed.as_ref().is_err_and(Error::is_retryable),
        "a claim that has ended with its lease",
        format_args!("{claimed:?}"),
    )?;
    // What was opened is over as well; another session takes its place.
    let granted = scene.joined(SOON * 3, "a grant by another session", opened).await?;
    let (believed, holder) = (deadline(&granted)?, scene.holder(&scene.named("opened")).await?);
    let kept = holder.remaining.map(|left| scene.now() + left);
    expect(
        holder.session == granted.grant().session && kept >= Some(believed),
        format_args!("a holder until {believed:?}, as the client believes"),
        format_args!("one until {kept:?}: {holder:?}"),
    )?;
    scene.is_renewed(&granted).await?;
    expect_eq("the state of what was lost", guard.state(), HoldState::Ended(end))?;
    let (other, limit) = (scene.client().await?, scene.longest().await? + SOON);
    for key in [scene.key(), scene.named("claimed")] {
        let next = scene.granted(limit, "the key for another", &other, key).await?;
        expect(next.state().is_held(), "a hold", format_args!("{:?}", next.state()))?;
    }
    Ok(())
}
