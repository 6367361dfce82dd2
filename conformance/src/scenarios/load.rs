//! Much, at random, and for long: then the checkers judge what was seen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use lock_core::{
    AcquireOptions, BootTime, ErrorKind, Guard, HoldState, Lock, LockClient, LockKey, Operation, Wait,
};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::history::{FencedRegister, Judgement, Recorder, sweep};
use crate::scene::{LONG, SOON, Scene, without_panic};
use crate::verdict::{Failure, Verdict, expect};
use lock_core::testing::{Fault, Wire};

cases! { "load":
    11 => random_histories_pass_the_checkers,
    #[alone] 75 => ten_thousand_cycles_leave_nothing,
    76 => a_soak_under_faults_passes_the_checkers for 30,
}

const PERMITS: u32 = 3;

/// What everybody in a history shares.
struct Stage {
    recorder: Recorder,
    /// Written under the mutex alone, and only while it is believed to be held.
    register: FencedRegister<BTreeSet<u64>>,
    mutex: LockKey,
    catalogue: LockKey,
    permits: LockKey,
}

/// Four clients, three locks of three kinds, two thousand operations.
async fn random_histories_pass_the_checkers(scene: Scene) -> Verdict {
    let stage = Arc::new(Stage::new(&scene));
    let mut working = JoinSet::new();
    for number in 0..4 {
        let client = scene.client().await?;
        for task in 0..2 {
            let actor = Actor::new(&stage, &client, number * 10 + task, scene.seed());
            working.spawn(actor.act(250, None));
        }
    }
    let acknowledged = all_of(&scene, working, Duration::from_secs(25)).await?;
    judge(&stage, &acknowledged)
}

/// Replies are lost, calls hang and come late, events do not arrive, renewals fail; twenty seconds long.
async fn a_soak_under_faults_passes_the_checkers(scene: Scene) -> Verdict {
    let stage = Arc::new(Stage::new(&scene));
    let end = scene.now() + Duration::from_secs(20);
    let (mut working, mut wires) = (JoinSet::new(), Vec::new());
    for number in 0..4 {
        let (client, wire) = scene.wired_with(|b| b.call_timeout(scene.ttl() / 4)).await?;
        wires.push(wire);
        for task in 0..2 {
            let actor = Actor::new(&stage, &client, number * 10 + task, scene.seed());
            working.spawn(actor.act(usize::MAX, Some(end)));
        }
    }
    let mut random = Rng::with_seed(scene.seed());
    while scene.now() < end {
        disturb(&wires[random.usize(..wires.len())], &mut random, scene.ttl());
        scene.pause(Duration::from_millis(random.u64(5..100))).await;
    }
    wires.iter().for_each(Wire::heal);
    // A lock that a fault has left taken is free when its lease is over.
    let acknowledged = all_of(&scene, working, scene.longest().await? * 5 + SOON * 5).await?;
    expect(
        acknowledged.len() >= 20,
        "a soak in which work is done",
        format_args!("{} updates", acknowledged.len()),
    )?;
    let client = scene.client().await?;
    let limit = scene.longest().await? * 2;
    for lock in stage.whole(&client)? {
        let granted = scene.within(limit, format!("{} after the soak", lock.key()), lock.acquire()).await?;
        granted?.release().await?;
    }
    judge(&stage, &acknowledged)
}

fn disturb(wire: &Wire, random: &mut Rng, ttl: Duration) {
    let op = [Operation::Claim, Operation::Release, Operation::Renew, Operation::Close, Operation::Open]
        [random.usize(..5)];
    let late = ttl / 100 * random.u32(1..60);
    let fault = match random.u32(..8) {
        0 => return wire.heal(),
        1 => return wire.deafen(),
        2 => Fault::Refused,
        3 => Fault::ReplyLost,
        4 => Fault::Silence,
        5 => Fault::AppliedInSilence,
        6 => Fault::AnsweredAfter(late),
        _ => Fault::AppliedAfter(late),
    };
    wire.fail(op, std::iter::repeat_n(fault, random.usize(1..4)));
}

async fn all_of(
    scene: &Scene,
    mut working: JoinSet<Verdict<Vec<u64>>>,
    limit: Duration,
) -> Verdict<Vec<u64>> {
    scene
        .within(limit, "the end of everybody's work", async {
            let mut acknowledged = Vec::new();
            while let Some(worked) = working.join_next().await {
                acknowledged.extend(without_panic(worked)??);
            }
            Ok(acknowledged)
        })
        .await?
}

fn judge(stage: &Stage, acknowledged: &[u64]) -> Verdict {
    match sweep(&stage.recorder.operations()) {
        Judgement::Passed => {}
        other => {
            let file = std::env::temp_dir().join(format!("history-{}.jsonl", std::process::id()));
            std::fs::write(&file, stage.recorder.to_json_lines())?;
            return Err(Failure::new(
                "a history that can have been",
                format_args!("{other:?}; it is in {}", file.display()),
            ));
        }
    }
    let value = stage.register.value();
    let lost: Vec<_> = acknowledged.iter().filter(|update| !value.contains(update)).collect();
    expect(lost.is_empty(), "every acknowledged update in the final state", format_args!("lost are {lost:?}"))
}

impl Stage {
    fn new(scene: &Scene) -> Stage {
        Stage {
            recorder: Recorder::new(),
            register: FencedRegister::new(BTreeSet::new()),
            mutex: scene.anywhere("mutex"),
            catalogue: scene.anywhere("catalogue"),
            permits: scene.anywhere("permits"),
        }
    }

    /// Each of the locks, held so that nobody else has anything of it.
    fn whole(&self, client: &LockClient) -> Verdict<[Lock; 3]> {
        Ok([
            client.mutex(self.mutex.clone())?,
            client.rw_lock(self.catalogue.clone())?.write(),
            client.semaphore(self.permits.clone(), PERMITS)?.permits(PERMITS)?,
        ])
    }
}

/// One task that acquires, works and gives back, as its generator says.
struct Actor {
    stage: Arc<Stage>,
    client: LockClient,
    number: u64,
    random: Rng,
}

impl Actor {
    fn new(stage: &Arc<Stage>, client: &LockClient, number: u64, seed: u64) -> Actor {
        let random = Rng::with_seed(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Actor { stage: stage.clone(), client: client.clone(), number, random }
    }

    /// Returns the updates that were acknowledged.
    async fn act(mut self, operations: usize, until: Option<BootTime>) -> Verdict<Vec<u64>> {
        use lock_core::{Clock, SystemClock};
        let clock = SystemClock::new();
        let mut acknowledged = Vec::new();
        for operation in 0..operations {
            if until.is_some_and(|end| clock.boot() >= end) {
                break;
            }
            let (lock, weight, capacity, is_mutex) = self.choose()?;
            let key = lock.key().as_str().to_owned();
            let patience = Duration::from_millis(self.random.u64(0..200));
            let entry = self.stage.recorder.invoke(self.number, &key, weight, capacity);
            let guard = match lock.acquire_with(&AcquireOptions::new().wait(Wait::AtMost(patience))).await {
                Ok(guard) => guard,
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::WaitTimedOut(_)) {
                        self.stage.recorder.failed(entry);
                    }
                    continue;
                }
            };
            self.stage.recorder.returned(entry, guard.token().get());
            let stage = self.stage.clone();
            let tracked = tokio::spawn({
                let held = guard.held();
                async move {
                    let mut state = held.state();
                    let mut last = None;
                    while let HoldState::Held { until } | HoldState::AtRisk { until } = state {
                        last = Some(until);
                        state = held.extended(until).await;
                    }
                    // The deadline that was in force when it ended; a loss that the store told of came before it.
                    if let Some(last) = last {
                        stage.recorder.deadline(entry, last);
                    }
                }
            });
            if is_mutex {
                let update = self.number * 1_000_000 + operation as u64;
                acknowledged.extend(self.update(&guard, update).await);
            } else {
                clock.sleep(Duration::from_millis(self.random.u64(0..5))).await;
            }
            self.stage.recorder.gives_back(entry);
            let _ = guard.release().await;
            tracked.await.map_err(|panic| Failure::new("no panic", panic))?;
        }
        Ok(acknowledged)
    }

    /// Read, think, write; acknowledged if the register took it.
    async fn update(&mut self, guard: &Guard, update: u64) -> Option<u64> {
        let mut value = self.stage.register.read(guard.token()).ok()?;
        for _ in 0..self.random.u32(0..4) {
            tokio::task::yield_now().await;
        }
        value.insert(update);
        self.stage.register.write(guard.token(), value).ok()?;
        Some(update)
    }

    /// A lock, how much of it of how much, and whether it is the mutex.
    fn choose(&mut self) -> Verdict<(Lock, u32, u32, bool)> {
        let (stage, client) = (&self.stage, &self.client);
        Ok(match self.random.u32(..6) {
            0..3 => (client.mutex(stage.mutex.clone())?, 1, 1, true),
            3 => (client.rw_lock(stage.catalogue.clone())?.read(), 1, u32::MAX, false),
            4 => (client.rw_lock(stage.catalogue.clone())?.write(), u32::MAX, u32::MAX, false),
            _ => {
                let held = self.random.u32(1..=PERMITS);
                (client.semaphore(stage.permits.clone(), PERMITS)?.permits(held)?, held, PERMITS, false)
            }
        })
    }
}

/// Descriptors, tasks and whatever the store keeps are as many as before.
async fn ten_thousand_cycles_leave_nothing(scene: Scene) -> Verdict {
    let client = scene.client_with(|builder| builder.ttl(LONG)).await?;
    // Whatever is opened at the first use and kept.
    for number in 0..64 {
        client.mutex(scene.anywhere(&format!("k{number}")))?.acquire().await?.release().await?;
    }
    let counted = async || {
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let of_the_store = scene.fixture().descriptors();
        let descriptors = descriptors().map(|open| open.saturating_sub(of_the_store));
        Verdict::Ok((descriptors, tasks, scene.fixture().size().await?))
    };
    let before = counted().await?;
    let mut working = JoinSet::new();
    for task in 0..64 {
        let lock = client.mutex(scene.anywhere(&format!("k{}", task % 48)))?;
        working.spawn(async move {
            for cycle in 0..157 {
                let guard = lock.acquire().await?;
                if cycle % 2 == 0 { drop(guard) } else { guard.release().await.map(|_| ())? }
            }
            Ok::<_, lock_core::Error>(())
        });
    }
    while let Some(worked) = working.join_next().await {
        without_panic(worked)??;
    }
    drop(working);
    // Less is no leak: something may have been under way when it was counted before, such as a renewal.
    let leaves = |now: &(Option<usize>, usize, Option<usize>)| {
        now.0 > before.0 || now.1 > before.1 || now.2 > before.2
    };
    let settled = async || Ok(!leaves(&counted().await?));
    // Whether it came to that is said below, with what it came to.
    let _ = scene.until(Duration::from_secs(5), "no more than before", settled).await;
    let now = counted().await?;
    expect(
        !leaves(&now),
        format_args!("no more descriptors, tasks and keys than {before:?}, five seconds later"),
        format_args!("{now:?}"),
    )?;
    let page = client.list("", None, 100).await?;
    expect(page.keys.is_empty(), "no key that is held or waited for", format_args!("{:?}", page.keys))
}

/// `None` where the system does not say.
fn descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}
