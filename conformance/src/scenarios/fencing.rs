//! The tokens: they rise, whatever happens, and a resource that checks them is safe.

use std::sync::Arc;

use lock_core::{AcquireOptions, ErrorKind, Fence, FencingToken, LockClient, Mode, Operation, Wait};

use crate::case::cases;
use crate::scene::{SOON, Scene};
use crate::verdict::{Failure, Verdict, expect, expect_eq};
use lock_core::testing::Fault;

cases! { "fencing":
    34 => rises_from_holder_to_holder,
    35 => rises_across_clients_and_restarts,
    36 => renewal_keeps_the_token,
    37 => a_paused_holder_is_refused,
    38 => deletion_brings_no_old_token_back,
    39 => the_largest_is_never_passed,
    40 => the_token_comes_with_the_grant,
}

/// The largest token that there can be.
const LARGEST: u64 = (1 << 53) - 1;

async fn rises_from_holder_to_holder(scene: Scene) -> Verdict {
    let clients = [scene.client().await?, scene.client().await?];
    let mut last = None;
    for turn in 0..100 {
        let client = &clients[turn % 2];
        let guard = match turn % 4 {
            0 => client.rw_lock(scene.named("rw"))?.write().acquire().await?,
            _ => client.rw_lock(scene.named("rw"))?.read().acquire().await?,
        };
        let token = guard.token();
        expect(last < Some(token), "a token above all before it", format_args!("{token} after {last:?}"))?;
        last = Some(token);
        guard.release().await?;
    }
    Ok(())
}

async fn cycle(client: &LockClient, scene: &Scene) -> Verdict<FencingToken> {
    let guard = client.mutex(scene.key())?.acquire().await?;
    let token = guard.token();
    guard.release().await?;
    Ok(token)
}

async fn rises_across_clients_and_restarts(scene: Scene) -> Verdict {
    let mut last = None;
    for turn in 0..6 {
        let client = scene.client().await?;
        let token = cycle(&client, &scene).await?;
        expect(last < Some(token), "a token above all before it", format_args!("{token} after {last:?}"))?;
        last = Some(token);
        client.shutdown(SOON).await;
        drop(client);
        if turn % 2 == 1 && !scene.is_weaker() {
            scene.fixture().restart().await?;
        }
    }
    Ok(())
}

async fn renewal_keeps_the_token(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let token = guard.token();
    let mut state = guard.state();
    for _ in 0..4 {
        let (lock_core::HoldState::Held { until } | lock_core::HoldState::AtRisk { until }) = state else {
            return Err(Failure::new("a hold that is renewed", format_args!("{state:?}")));
        };
        state = scene.within(scene.ttl(), "a renewal", guard.extended(until)).await?;
        expect_eq("the guard's token", guard.token(), token)?;
        expect_eq("the token in the store", scene.holder(&scene.key()).await?.token, token)?;
    }
    Ok(())
}

/// Paused past its TTL it wakes up, and writes.
async fn a_paused_holder_is_refused(scene: Scene) -> Verdict {
    let successor = scene.client().await?;
    let limit = scene.longest().await? + SOON;
    let mut fence = Fence::new();
    let (client, wire) = scene.wired().await?;
    let cut_off = client.mutex(scene.key())?.acquire().await?;
    fence.admit(cut_off.mode(), cut_off.token()).map_err(|stale| Failure::new("admitted", stale))?;
    wire.cut();
    let next = scene.granted(limit, "a successor", &successor, scene.key()).await?;
    fence
        .admit(next.mode(), next.token())
        .map_err(|stale| Failure::new("the successor is admitted", stale))?;
    refused(&mut fence, cut_off.token())?;
    next.release().await?;
    if scene.fixture().address().is_none() {
        return Ok(());
    }
    let mut child = scene.child().await?;
    let paused = child.acquire(&scene.key()).await?;
    fence.admit(Mode::Exclusive, paused).map_err(|stale| Failure::new("admitted", stale))?;
    child.stop()?;
    let next = scene.granted(limit, "a successor", &successor, scene.key()).await?;
    child.resume()?;
    fence
        .admit(next.mode(), next.token())
        .map_err(|stale| Failure::new("the successor is admitted", stale))?;
    refused(&mut fence, paused)
}

fn refused(fence: &mut Fence, token: FencingToken) -> Verdict {
    expect(
        fence.admit(Mode::Exclusive, token).is_err(),
        "a resource that refuses the paused holder's token",
        format_args!("it admitted {token}"),
    )
}

async fn deletion_brings_no_old_token_back(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let mut last = cycle(&client, &scene).await?;
    for turn in 0..3 {
        scene.fixture().forget(&scene.key()).await?;
        let token = cycle(&client, &scene).await?;
        expect(
            token > last,
            format_args!("a token above {last} although the key's data was deleted (time {turn})"),
            token,
        )?;
        last = token;
    }
    Ok(())
}

async fn the_largest_is_never_passed(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    scene.set_fence(&scene.key(), LARGEST - 1).await?;
    let token = cycle(&client, &scene).await?;
    expect_eq("the last token that there is", token.get(), LARGEST)?;
    let lock = client.mutex(scene.key())?;
    let patience = AcquireOptions::new().wait(Wait::AtMost(SOON));
    for error in
        [lock.try_acquire().await.map(|_| ()).err(), lock.acquire_with(&patience).await.map(|_| ()).err()]
    {
        let error =
            error.ok_or_else(|| Failure::new("an error where no token is left", "a grant, or busy"))?;
        expect_eq("the kind of error", error.kind().clone(), ErrorKind::FenceExhausted)?;
    }
    Ok(())
}

/// The reply is lost; whoever looks sees the token that the retry will get.
async fn the_token_comes_with_the_grant(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired().await?;
    wire.fail(
        Operation::Claim,
        [Fault::ReplyLost, Fault::AppliedAfter(std::time::Duration::from_millis(300))],
    );
    let lock = client.mutex(scene.key())?;
    let acquiring = tokio::spawn(async move { lock.acquire().await });
    let backend: Arc<dyn lock_core::Backend> = scene.backend().await?;
    let key = scene.key();
    scene
        .until(SOON, "the grant whose reply was lost", async || {
            Ok(!backend.inspect(&key).await?.holders.is_empty())
        })
        .await?;
    let seen = scene.holder(&key).await?.token;
    let guard = scene.joined(SOON * 5, "the retry's answer", acquiring).await?;
    expect(wire.calls(Operation::Claim) >= 2, "a retry", "the claim was sent once")?;
    expect_eq("the token that the retry got", guard.token(), seen)
}
