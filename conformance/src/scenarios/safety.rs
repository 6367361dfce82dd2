//! Never two.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{Certainty, End, HolderInfo, Operation, Reason, Released};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::counter;
use crate::scene::{LONG, SOON, Scene, without_panic};
use crate::verdict::{Verdict, expect, expect_eq};
use lock_core::testing::Fault;

cases! { "safety":
    1 => two_clients_one_holder,
    2 => never_two_holders for 60,
    3 => no_acknowledged_update_is_lost,
    4 => only_the_owner_releases,
    5 => a_second_release_frees_nobody_else,
    6 => a_release_after_expiry_says_so,
    7 => keys_are_independent,
    8 => not_reentrant,
    9 => two_processes_never_share_an_ownership,
    10 => whoever_waits_holds_nothing,
}

async fn two_clients_one_holder(scene: Scene) -> Verdict {
    let (one, other) = (scene.client().await?, scene.client().await?);
    let held = one.mutex(scene.key())?.acquire().await?;
    let lock = other.mutex(scene.key())?;
    expect(lock.try_acquire().await?.is_err(), "busy while another client holds it", "it was granted too")?;
    held.release().await?;
    expect(lock.try_acquire().await?.is_ok(), "granted after the release", "still busy")
}

/// Four processes (or clients, where a store lives in one process) increment what only the lock protects.
async fn never_two_holders(scene: Scene) -> Verdict {
    const CROWD: usize = 4;
    const TASKS: usize = 8;
    const TIMES: usize = 250;
    let file = std::env::temp_dir().join(format!("conformance-{}-{:x}", std::process::id(), scene.seed()));
    let _removed = Removed(file.clone());
    std::fs::write(&file, "0 ")?;
    let mut working = JoinSet::new();
    for _ in 0..CROWD {
        let (key, file) = (scene.key(), file.clone());
        if scene.is_weaker() {
            let client = scene.client().await?;
            working
                .spawn(async move { Ok(counter::count(&client, key.as_str(), &file, TASKS, TIMES).await?) });
        } else {
            let mut child = scene.child().await?;
            working.spawn(async move {
                child.ask(format!("count {} {} {TASKS} {TIMES}", key.as_str(), file.display())).await
            });
        }
    }
    while let Some(answer) = working.join_next().await {
        let answer = without_panic(answer)??;
        expect_eq("what each of them counted", answer, format!("counted {}", TASKS * TIMES))?;
    }
    let total = std::fs::read_to_string(&file)?;
    expect_eq("the sum of all increments", total, format!("{} ", CROWD * TASKS * TIMES))
}

/// A file that goes with its scenario.
struct Removed(std::path::PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn no_acknowledged_update_is_lost(scene: Scene) -> Verdict {
    let register: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let mut working = JoinSet::new();
    for client_number in 0..4_u32 {
        let client = scene.client().await?;
        for task in 0..4 {
            let (lock, register) = (client.mutex(scene.key())?, register.clone());
            working.spawn(async move {
                for turn in 0..25 {
                    let guard = lock.acquire().await?;
                    let mut set = register.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    tokio::task::yield_now().await;
                    set.insert(client_number * 1000 + task * 100 + turn);
                    *register.lock().unwrap_or_else(PoisonError::into_inner) = set;
                    guard.release().await?;
                }
                Verdict::Ok(())
            });
        }
    }
    while let Some(worked) = working.join_next().await {
        without_panic(worked)??;
    }
    let length = register.lock().unwrap_or_else(PoisonError::into_inner).len();
    expect_eq("acknowledged updates in the final state", length, 400)
}

async fn only_the_owner_releases(scene: Scene) -> Verdict {
    let (owner, other) = (scene.session(LONG).await?, scene.session(LONG).await?);
    let key = scene.key();
    let token = owner.take(&key, 1).await?;
    for certainty in [Certainty::Settled, Certainty::MaybeInFlight] {
        let released = other.release(&key, 1, certainty).await?;
        expect_eq("the release of another session's claim", released, Released::Gone)?;
        let released = owner.release(&key, 2, certainty).await?;
        expect_eq("the release of another claim of the same session", released, Released::Gone)?;
    }
    let wrong = lock_core::FencingToken::new(token.get() + 1)?;
    let ended = scene.backend().await?.force_release(&key, Some(wrong)).await?;
    expect_eq("holds ended by a token that nobody has", ended, 0)?;
    let holder = scene.holder(&key).await?;
    expect_eq("the holder after all that", (holder.session, holder.token), (owner.session.id(), token))
}

async fn a_second_release_frees_nobody_else(scene: Scene) -> Verdict {
    let (first, second) = (scene.session(LONG).await?, scene.session(LONG).await?);
    let key = scene.key();
    first.take(&key, 1).await?;
    expect_eq("the release", first.release(&key, 1, Certainty::Settled).await?, Released::Done)?;
    let token = second.take(&key, 1).await?;
    for certainty in [Certainty::Settled, Certainty::MaybeInFlight] {
        expect_eq("the second release", first.release(&key, 1, certainty).await?, Released::Gone)?;
        expect_eq("the successor's hold", scene.holder(&key).await?.token, token)?;
    }
    Ok(())
}

async fn a_release_after_expiry_says_so(scene: Scene) -> Verdict {
    let (client, wire) = scene.wired().await?;
    let guard = client.mutex(scene.key())?.acquire().await?;
    wire.always(Operation::Renew, Fault::Silence);
    let successor = scene.client().await?;
    let held = scene.granted(scene.longest().await? + SOON, "a successor", &successor, scene.key()).await?;
    let end = guard.release().await?;
    expect_eq("the end that a release after expiry tells of", end, End::Lost(Reason::Expired))?;
    expect(held.state().is_held(), "the successor still holds it", format_args!("{:?}", held.state()))?;
    expect_eq("whom the store knows", scene.holder(&scene.key()).await?.token, held.token())
}

async fn keys_are_independent(scene: Scene) -> Verdict {
    let (one, other) = (scene.client().await?, scene.client().await?);
    let _held = one.mutex(scene.named("a"))?.acquire().await?;
    for name in ["b", "a/b", "aa", "A", "a "] {
        let granted = other.mutex(scene.named(name))?.try_acquire().await?;
        expect(
            granted.is_ok(),
            format_args!("the key {name:?} to be free while \"a\" is held"),
            "it is busy",
        )?;
    }
    Ok(())
}

async fn not_reentrant(scene: Scene) -> Verdict {
    let client = scene.client().await?;
    let lock = client.mutex(scene.key())?;
    let held = lock.acquire().await?;
    expect(lock.try_acquire().await?.is_err(), "busy for its own holder", "it was granted twice")?;
    held.release().await?;
    expect(lock.try_acquire().await?.is_ok(), "granted after the release", "still busy")
}

/// However alike they are: same host, same name, same number of a process.
async fn two_processes_never_share_an_ownership(scene: Scene) -> Verdict {
    let key = scene.key();
    if scene.is_weaker() {
        let info = || HolderInfo::new(4711);
        let backend = scene.backend().await?;
        let open = async |_: ()| {
            let options = lock_core::SessionOptions::new(
                lock_core::SessionId::random()?,
                lock_core::Domain(0),
                LONG,
                info(),
            );
            backend.open(&options, lock_core::EventSink::new(|_| {})).await
        };
        let (one, other) = (open(()).await?.session, open(()).await?.session);
        let claimed = one.claim(&crate::scene::mutex(&key, 1)).await?;
        expect(
            matches!(claimed, lock_core::Claimed::Granted { .. }),
            "granted",
            format_args!("{claimed:?}"),
        )?;
        let claimed = other.claim(&crate::scene::mutex(&key, 1)).await?;
        return expect(
            matches!(claimed, lock_core::Claimed::Busy(_)),
            "busy for a client that looks the same",
            format_args!("{claimed:?}"),
        );
    }
    let (mut one, mut other) = (scene.child().await?, scene.child().await?);
    let first = one.acquire(&key).await?;
    let owner = scene.holder(&key).await?.session;
    expect_eq(
        "a process that looks the same",
        other.ask(format!("try {}", key.as_str())).await?,
        "busy".to_owned(),
    )?;
    one.ask("release").await?;
    let second = other.acquire(&key).await?;
    expect(second > first, "a token of its own", format_args!("{first}, then {second}"))?;
    let successor = scene.holder(&key).await?.session;
    expect(owner != successor, "a session of its own", successor)
}

async fn whoever_waits_holds_nothing(scene: Scene) -> Verdict {
    let (one, other) = (scene.client().await?, scene.client().await?);
    let held = one.mutex(scene.key())?.acquire().await?;
    let lock = other.mutex(scene.key())?;
    let waiting = tokio::spawn(async move { lock.acquire().await });
    scene.queue(&scene.key(), 1).await?;
    // Through a renewal and more.
    for _ in 0..5 {
        scene.pause(Duration::from_millis(100)).await;
        expect(!waiting.is_finished(), "a waiter that waits", "its acquire has returned")?;
        expect_eq(
            "the one holder while another waits",
            scene.holder(&scene.key()).await?.token,
            held.token(),
        )?;
    }
    held.release().await?;
    let guard = scene.joined(SOON, "the waiter's grant", waiting).await?;
    expect(guard.state().is_held(), "the waiter holds it", format_args!("{:?}", guard.state()))
}
