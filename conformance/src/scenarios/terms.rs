//! At least, at most, and for a fixed time.

use std::time::Duration;

use lock_core::{AcquireOptions, End, ErrorKind, FencingToken, HoldState, Operation, Reason};

use crate::case::cases;
use crate::scene::{LONG, SOON, Scene};
use crate::verdict::{Failure, Verdict, expect, expect_eq};

cases! { "terms":
    87 => hold_at_least_outlives_its_process,
    88 => a_detached_hold_outlives_its_process,
    89 => hold_at_most_ends_what_is_renewed,
    90 => busy_says_who_and_how_long,
    91 => handed_over_to_a_process_that_dies,
}

/// Given back early, and its process gone: the key stays taken until the time has passed since the grant.
async fn hold_at_least_outlives_its_process(scene: Scene) -> Verdict {
    const AT_LEAST: Duration = Duration::from_millis(1_500);
    if scene.is_weaker() && !scene.capabilities().await?.fixed_terms {
        return fixed_terms_are_refused(&scene).await;
    }
    let key = scene.key();
    let other = scene.client_with(|builder| builder.ttl(LONG)).await?;
    let granted_after = scene.now();
    let granted_before;
    if scene.fixture().address().is_some() {
        let mut child = scene.child().await?;
        crate::child::token(
            &child.ask(format!("acquire-for {} {}", key.as_str(), AT_LEAST.as_millis())).await?,
        )?;
        granted_before = scene.now();
        expect_eq("its release", child.ask("release").await?, End::Released.to_string())?;
        child.kill().await?;
    } else {
        let client = scene.client().await?;
        let guard =
            client.mutex(key.clone())?.acquire_with(&AcquireOptions::new().hold_at_least(AT_LEAST)).await?;
        granted_before = scene.now();
        expect_eq("its release", guard.release().await?, End::Released)?;
        client.shutdown(SOON).await;
    }
    let busy = other.mutex(key.clone())?.try_acquire().await?;
    expect(busy.is_err(), "busy although it was given back", "it was granted")?;
    let slack = later(&scene);
    drop(scene.granted(AT_LEAST + SOON + slack, "the key after that time", &other, key).await?);
    let at = scene.now();
    // The store counts in its own units; what a millisecond cannot tell apart is the same instant.
    expect(
        at + Duration::from_millis(1) >= granted_after + AT_LEAST,
        format_args!("no grant within {AT_LEAST:?} of the one before"),
        format_args!("one {:?} after it", at.since(granted_before)),
    )?;
    expect(
        at <= granted_before + AT_LEAST + Duration::from_millis(500) + slack,
        "a grant as soon as the time has passed",
        format_args!("{:?} after the grant before", at.since(granted_before)),
    )
}

/// How much later the end of a fixed time may be noticed by a store that counts it in whole seconds.
fn later(scene: &Scene) -> Duration {
    if scene.is_weaker() { Duration::from_secs(3) } else { Duration::ZERO }
}

/// A store in which every hold ends with its session says so before it has taken anything.
async fn fixed_terms_are_refused(scene: &Scene) -> Verdict {
    let (lock, at_least) =
        (scene.client().await?.mutex(scene.key())?, AcquireOptions::new().hold_at_least(SOON));
    let errors = [
        ("an acquisition", lock.acquire_with(&at_least).await.err()),
        ("a detached hold", lock.acquire_detached(SOON, &AcquireOptions::new()).await.err()),
    ];
    for (what, error) in errors {
        let kind = error.map(|error| error.kind().clone());
        expect_eq(format_args!("the kind of error of {what}"), kind, Some(ErrorKind::Unsupported))?;
    }
    expect(scene.state(&scene.key()).await?.is_idle(), "nothing taken", "something")
}

async fn a_detached_hold_outlives_its_process(scene: Scene) -> Verdict {
    if scene.is_weaker() && !scene.capabilities().await?.fixed_terms {
        return fixed_terms_are_refused(&scene).await;
    }
    let key = scene.key();
    let time = LONG;
    let token = if scene.fixture().address().is_some() {
        let mut child = scene.child().await?;
        let token =
            crate::child::token(&child.ask(format!("detach {} {}", key.as_str(), time.as_millis())).await?)?;
        child.kill().await?;
        token
    } else {
        let client = scene.client().await?;
        let held = client.mutex(key.clone())?.acquire_detached(time, &AcquireOptions::new()).await?;
        client.shutdown(SOON).await;
        held.token
    };
    let other = scene.client().await?;
    scene.pause(scene.longest().await?).await;
    let busy = other.mutex(key.clone())?.try_acquire().await?;
    expect(busy.is_err(), "held although its process has been gone for longer than a TTL", "it was granted")?;
    let wrong = FencingToken::new(token.get() - 1)?;
    expect_eq("ended by a wrong token", other.release_detached(key.clone(), wrong).await?, false)?;
    expect(other.mutex(key.clone())?.try_acquire().await?.is_err(), "held as before", "it was granted")?;
    expect_eq("ended by its own token", other.release_detached(key.clone(), token).await?, true)?;
    expect_eq("ended once more", other.release_detached(key.clone(), token).await?, false)?;
    let next = other.mutex(key.clone())?.try_acquire().await?;
    let next = next.map_err(|busy| Failure::new("free after that", busy))?;
    expect(next.token() > token, "a higher token", next.token())?;
    next.release().await?;
    // And one that nobody ends: it ends by itself.
    let short = Duration::from_millis(300);
    let began = scene.now();
    other.mutex(key.clone())?.acquire_detached(short, &AcquireOptions::new()).await?;
    drop(scene.granted(short + SOON + later(&scene), "the key after the fixed time", &other, key).await?);
    let took = scene.now().since(began);
    expect(
        took + Duration::from_millis(1) >= short,
        format_args!("no grant within {short:?}"),
        format_args!("one after {took:?}"),
    )
}

async fn hold_at_most_ends_what_is_renewed(scene: Scene) -> Verdict {
    let age = scene.ttl() * 3 / 2;
    let client = scene.client().await?;
    let other = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire_with(&AcquireOptions::new().hold_at_most(age)).await?;
    let lock = other.mutex(scene.key())?;
    let began = scene.now();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    let ran = guard.run(std::future::pending::<()>()).await;
    expect(ran.is_err(), "work that is dropped at that age", "it went on")?;
    expect_eq("the state", guard.state(), HoldState::Ended(End::Lost(Reason::HeldTooLong)))?;
    drop(scene.joined(SOON, "the key at that age", waiting).await?);
    let took = scene.now().since(began);
    expect(
        took + SOON / 2 >= age && took <= age + SOON,
        format_args!("an end after {age:?}"),
        format_args!("after {took:?}"),
    )
}

async fn busy_says_who_and_how_long(scene: Scene) -> Verdict {
    let holder = scene.client_with(|builder| builder.name("the holder")).await?;
    let guard = holder.mutex(scene.key())?.acquire().await?;
    let (client, wire) = scene.wired_with(|builder| builder.call_timeout(Duration::from_millis(200))).await?;
    let busy = match client.mutex(scene.key())?.try_acquire().await? {
        Err(busy) => busy,
        Ok(guard) => return Err(Failure::new("busy", format_args!("{guard:?}"))),
    };
    let name = busy.holder.as_ref().and_then(|holder| holder.name().map(str::to_owned));
    expect_eq("the holder's name", name, Some("the holder".to_owned()))?;
    expect_eq("the holder's token", busy.token, Some(guard.token()))?;
    let slack = scene.capabilities().await?.expiry_slack;
    let is_told_less = scene.is_weaker() && busy.remaining.is_none();
    expect(
        is_told_less
            || busy.remaining.is_some_and(|left| left > Duration::ZERO && left <= scene.ttl() + slack),
        "the time that is left of the holder's lease",
        format_args!("{:?}", busy.remaining),
    )?;
    wire.always(Operation::Claim, crate::Fault::Silence);
    let away = client.mutex(scene.key())?.try_acquire().await;
    expect(away.is_err(), "an error where the store is not reached, never busy", format_args!("{away:?}"))?;
    wire.always(Operation::Claim, crate::Fault::Refused);
    let away = client.mutex(scene.key())?.try_acquire().await;
    expect(away.is_err(), "an error where the store refuses, never busy", format_args!("{away:?}"))
}

/// Handed over while it was stopped, so that it can do nothing for its hold any more: that is kept for its time all the same.
async fn handed_over_to_a_process_that_dies(scene: Scene) -> Verdict {
    if scene.is_weaker() && !scene.capabilities().await?.fixed_terms {
        return fixed_terms_are_refused(&scene).await;
    }
    let key = scene.key();
    let (holder, other) = (
        scene.client_with(|builder| builder.ttl(LONG)).await?,
        scene.client_with(|builder| builder.ttl(LONG)).await?,
    );
    let held = holder.mutex(key.clone())?.acquire().await?;
    let longest = scene.longest().await?;
    let at_least = longest * 2;
    let mut child = scene.child().await?;
    child.order(format!("acquire-for {} {}", key.as_str(), at_least.as_millis())).await?;
    scene.queue(&key, 1).await?;
    child.stop()?;
    let released = scene.now();
    expect_eq("the end of the hold before", held.release().await?, End::Released)?;
    child.kill().await?;
    let limit = at_least + longest + SOON;
    drop(scene.granted(limit, "the key after that time", &other, key).await?);
    let taken = scene.now().since(released);
    let (kept, instead) = (taken + Duration::from_millis(1) >= at_least, format_args!("taken for {taken:?}"));
    if scene.is_weaker() {
        return expect(!kept, "a hold that ends with its session, whose time had not begun", instead);
    }
    expect(kept, format_args!("a key that is taken for {at_least:?}"), instead)
}
