//! Who may do what, and what nobody may see.

use std::error::Error as StdError;
use std::fmt::{Debug, Write};
use std::sync::Arc;

use lock_core::{
    AcquireOptions, End, Error, ErrorKind, EventSink, LockClient, Operation, RetryPolicy, SessionId,
    SystemClock,
};

use crate::case::cases;
use crate::proxy::Proxy;
use crate::remote::{Impostor, addresses};
use crate::scene::{SOON, Scene};
use crate::servers::free_port;
use crate::traces::Traces;
use crate::verdict::{Failure, Verdict, expect, expect_eq};
use lock_core::testing::{Fault, Wire};

cases! { "security":
    79 => strangers_are_refused_and_secrets_kept,
    80 => the_least_rights_suffice_and_reach_no_further,
}

/// On a thread and a runtime of its own, so that whatever is traced there is seen.
async fn strangers_are_refused_and_secrets_kept(scene: Scene) -> Verdict {
    let traces = Traces::default();
    let heard = traces.clone();
    let looked = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            traces.during(|| runtime.block_on(everything_to_be_seen(&scene)))
        });
        watched.join()
    });
    let seen = looked.map_err(|_| Failure::new("no panic", "one"))??;
    let (traced, secrets) = (heard.text(), scene.remote()?.secrets());
    expect(!secrets.is_empty(), "a store with secrets to keep", "the fixture names no `secrets`")?;
    expect(!traced.is_empty(), "something that is traced", "nothing was")?;
    for (place, text) in [("what can be printed", seen), ("the traces", traced)] {
        for secret in &secrets {
            if let Some(at) = text.find(secret) {
                let around: String = text[..at].chars().rev().take(80).collect();
                let around: String = around.chars().rev().collect();
                return Err(Failure::new(
                    format_args!("no secret in {place}"),
                    format_args!("one behind: {around}"),
                ));
            }
        }
    }
    Ok(())
}

/// Whatever a program may print of a store, while all is well and while it is not.
async fn everything_to_be_seen(scene: &Scene) -> Verdict<String> {
    let (remote, mut seen) = (scene.remote()?, String::new());
    let refused = match remote.stranger().await {
        Err(error) => error,
        Ok(backend) => {
            print(&mut seen, &backend);
            let client = LockClient::builder(backend).ttl(scene.ttl()).build()?;
            let opened = scene.within(SOON * 2, "an answer to a stranger", client.open()).await?;
            opened.err().ok_or_else(|| Failure::new("a refusal of a wrong password", "none"))?
        }
    };
    is_a_refusal(&refused, "of a wrong password")?;
    print_error(&mut seen, &refused);
    impostors_are_refused(scene, &mut seen).await?;
    match remote.backend_through(&nowhere(addresses(&remote.endpoint()).len())?).await {
        Ok(backend) => return Err(Failure::new("no store where no server is", format_args!("{backend:?}"))),
        Err(error) => {
            expect_eq("the kind of error", error.kind().clone(), ErrorKind::Unavailable)?;
            print_error(&mut seen, &error);
        }
    }
    let proxy = scene.proxy().await?;
    let backend = remote.backend_through(&proxy.address()).await?;
    print(&mut seen, &backend);
    print(&mut seen, &backend.info());
    let retry = RetryPolicy::default().give_up_after(SOON / 4);
    let client = LockClient::builder(backend).ttl(scene.ttl()).retry(retry).build()?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    print(&mut seen, &(&client, &guard, client.inspect(scene.key()).await?, client.probe().await?));
    for finding in client.probe().await? {
        // Writing to a string cannot fail.
        let _ = writeln!(seen, "{finding}");
    }
    in_trouble(scene, &proxy, &client, &mut seen).await?;
    print(&mut seen, &guard);
    Ok(seen)
}

/// Whoever meets one is told at once, and does not go on trying.
async fn impostors_are_refused(scene: &Scene, seen: &mut String) -> Verdict {
    for Impostor { flaw, client } in scene.remote()?.impostors().await? {
        print(seen, &client);
        let client = LockClient::builder(client).ttl(scene.ttl()).build()?;
        let what = format!("an answer to whoever meets an impostor ({flaw})");
        let opened = scene.within(SOON * 2, &what, client.open()).await?;
        let of = format!("of an impostor ({flaw})");
        let refused = opened.err().ok_or_else(|| Failure::new(format_args!("a refusal {of}"), "none"))?;
        is_a_refusal(&refused, &of)?;
        print_error(seen, &refused);
    }
    Ok(())
}

fn is_a_refusal(error: &Error, of: &str) -> Verdict {
    expect(
        *error.kind() == ErrorKind::Denied && !error.is_retryable(),
        format_args!("a refusal {of} that does not pass"),
        format_args!("{error:?}"),
    )
}

/// So many addresses where nobody listens.
fn nowhere(count: usize) -> Verdict<String> {
    // None is given to anybody else before all are named.
    let ports = (0..count).map(|_| free_port()).collect::<lock_core::Result<Vec<_>>>()?;
    let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{}", port.number())).collect();
    Ok(addresses.join(","))
}

/// Errors of every call, and the traces of what is tried again.
async fn in_trouble(scene: &Scene, proxy: &Proxy, client: &LockClient, seen: &mut String) -> Verdict {
    proxy.refuse(true);
    proxy.reset_all();
    let lock = client.mutex(scene.named("other"))?;
    let errors = [
        lock.try_acquire().await.err(),
        lock.acquire().await.err(),
        client.inspect(scene.key()).await.err(),
        client.force_release(scene.key(), None).await.err(),
    ];
    for error in errors.into_iter().flatten() {
        print_error(seen, &error);
    }
    scene.pause(scene.ttl()).await;
    proxy.refuse(false);
    Ok(())
}

fn print(seen: &mut String, what: &impl Debug) {
    // Writing to a string cannot fail.
    let _ = writeln!(seen, "{what:?}\n{what:#?}");
}

fn print_error(seen: &mut String, error: &Error) {
    print(seen, error);
    let mut next: Option<&dyn StdError> = Some(error);
    while let Some(error) = next {
        let _ = writeln!(seen, "{error}\n{error:?}");
        next = error.source();
    }
}

async fn the_least_rights_suffice_and_reach_no_further(scene: Scene) -> Verdict {
    everything_with_the_least_rights(&scene).await?;
    nothing_with_those_of_a_neighbour(&scene).await?;
    no_session_can_be_guessed(&scene).await
}

async fn everything_with_the_least_rights(scene: &Scene) -> Verdict {
    let remote = scene.remote()?;
    let wire = Wire::new(Arc::new(SystemClock::new()));
    let client = scene.client_of(wire.to(remote.least_privileged().await?), |b| b).await?;
    let other = scene.client_of(remote.least_privileged().await?, |b| b).await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    let waiting = scene.acquiring(&other, scene.key())?;
    scene.queue(&scene.key(), 1).await?;
    let given_up = scene.acquiring(&client, scene.key())?;
    scene.queue(&scene.key(), 2).await?;
    given_up.abort();
    scene.queue(&scene.key(), 1).await?;
    scene.is_renewed(&guard).await?;
    expect_eq("holders", client.inspect(scene.key()).await?.holders.len(), 1)?;
    expect_eq("keys", client.list("", None, 10).await?.keys, vec![scene.key()])?;
    client.probe().await?;
    expect_eq("the end", guard.release().await?, End::Released)?;
    let next = scene.joined(SOON, "the waiter's grant", waiting).await?;
    scene.is_renewed(&next).await?;
    expect_eq("holds ended by force", client.force_release(scene.key(), None).await?, 1)?;
    scene.within(SOON, "the news of it", next.ending()).await?;
    // A claim of which nobody knows what has become is withdrawn, and the session goes on.
    wire.fail(Operation::Claim, [Fault::ReplyLost]);
    let attempt = client.mutex(scene.key())?.try_acquire().await;
    expect(attempt.is_err(), "no answer", format_args!("{attempt:?}"))?;
    prepared_again_and_opened_again(scene, &other).await?;
    let catalogue = client.rw_lock(scene.named("catalogue"))?;
    let options = match scene.capabilities().await?.fixed_terms {
        true => AcquireOptions::new().hold_at_least(SOON / 10),
        false => AcquireOptions::new(),
    };
    let reader = catalogue.read().acquire_with(&options).await?;
    scene.is_renewed(&reader).await?;
    expect_eq("the end", reader.release().await?, End::Released)?;
    client.semaphore(scene.named("permits"), 3)?.permits(2)?.acquire().await?.release().await?;
    let held = client.mutex(scene.named("last"))?.acquire().await?;
    expect_eq("keys left behind by the shutdown", client.shutdown(SOON).await, vec![])?;
    drop(held);
    scene.granted(SOON, "the key afterwards", &other, scene.named("last")).await?.release().await?;
    Ok(())
}

/// Where the store has nothing prepared, or no session that could be ended, there is nothing that has to be done again.
async fn prepared_again_and_opened_again(scene: &Scene, client: &LockClient) -> Verdict {
    let remote = scene.remote()?;
    let if_there = |done: lock_core::Result<()>| match done {
        Err(error) if *error.kind() != ErrorKind::Unsupported => Err(error),
        _ => Ok(()),
    };
    for _ in 0..3 {
        let guard = scene.free_again(client, scene.named("again")).await?;
        if_there(remote.forget_scripts().await)?;
        scene.is_renewed(&guard).await?;
        if_there(remote.end_session(guard.grant().session).await)?;
    }
    scene.free_again(client, scene.named("again")).await?.release().await?;
    Ok(())
}

async fn nothing_with_those_of_a_neighbour(scene: &Scene) -> Verdict {
    let client = scene.client().await?;
    let guard = client.mutex(scene.named("mine"))?.acquire().await?;
    let foreign = scene.remote()?.foreign().await?;
    let options = lock_core::SessionOptions::new(
        SessionId::random()?,
        lock_core::Domain(0),
        scene.ttl(),
        lock_core::HolderInfo::new(1),
    );
    let errors = [
        ("an opening", foreign.open(&options, EventSink::new(|_| {})).await.err()),
        ("a look", foreign.inspect(guard.key()).await.err()),
        ("a list", foreign.list(&lock_core::Query::new(None, "", 10)).await.err()),
        ("a forced release", foreign.force_release(guard.key(), None).await.err()),
    ];
    for (what, error) in errors {
        let error = error.ok_or_else(|| Failure::new(format_args!("a refusal of {what}"), "none"))?;
        is_a_refusal(&error, &format!("of {what}"))?;
    }
    scene.is_renewed(&guard).await?;
    expect_eq("the end", guard.release().await?, End::Released)
}

/// 128 bits, each as often set as not.
async fn no_session_can_be_guessed(scene: &Scene) -> Verdict {
    const COUNT: u32 = 1000;
    let mut seen = std::collections::HashSet::new();
    let mut set = [0_u32; 128];
    for _ in 0..COUNT {
        let id = SessionId::random()?.as_u128();
        expect(seen.insert(id), "an id that was never there", format_args!("{id:x} again"))?;
        set.iter_mut().enumerate().for_each(|(bit, count)| *count += u32::from(id >> bit & 1 == 1));
    }
    // Eight standard deviations.
    let usual = COUNT / 2 - 126..=COUNT / 2 + 126;
    expect(set.iter().all(|count| usual.contains(count)), "bits at random", format_args!("{set:?}"))?;
    let mut sessions = std::collections::HashSet::new();
    for name in ["a", "b"] {
        let guard = scene.client().await?.mutex(scene.named(name))?.acquire().await?;
        let id = scene.holder(&scene.named(name)).await?.session;
        expect_eq("the session that holds it", id, guard.grant().session)?;
        expect(seen.insert(id.as_u128()) && sessions.insert(id), "an id of its own", id)?;
    }
    Ok(())
}
