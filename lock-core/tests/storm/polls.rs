//! Futures dropped at every await point.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lock_core::{AcquireOptions, Clock, Lock};

use crate::scene::{CALL, Scene, TTL};
use crate::server::Shape;
use crate::weather::{Cut, Weather};
use crate::world::{Turn, World};

/// Polls a future at most `count` times, whenever it is woken, and drops it then.
pub(crate) async fn poll_some<F: Future>(count: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|context| {
        if polls >= count {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polls >= count => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A future that is polled whenever it is woken, and dropped after so many polls; `Some` when it was done before.
async fn drop_after<F: Future>(world: &World, polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let turn = Turn::new();
    let waker = turn.waker();
    let limit = world.now() + TTL * 8;
    for _ in 0..polls {
        turn.is_woken();
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        world.idle().await;
        while !turn.is_woken() {
            if !world.step(limit).await {
                return None;
            }
            world.idle().await;
        }
    }
    None
}

/// How the store answers while a future is being dropped.
#[derive(Clone, Copy, Debug)]
enum Answers {
    AtOnce,
    Late,
    /// The first calls are applied, and their replies lost.
    Never,
    /// Nothing arrives at first.
    CutOff,
}

const ALL: [Answers; 4] = [Answers::AtOnce, Answers::Late, Answers::Never, Answers::CutOff];

impl Answers {
    fn make(self, scene: &Scene) {
        scene.weather(match self {
            Answers::AtOnce => Weather::still(),
            Answers::Late => Weather::slow(Duration::from_millis(7)),
            Answers::Never => Weather::cut(Cut::Replies),
            Answers::CutOff => Weather::cut(Cut::Requests),
        });
        if let Answers::Never | Answers::CutOff = self {
            // Heals by itself, after the first call has run into its deadline.
            let server = scene.server.clone();
            let at = scene.world.now() + CALL * 3 / 2;
            scene.world.net.deliver_at(at, move || server.set_weather(Weather::still()));
        }
    }

    /// Within which time everything is as if nothing had been: at once, if the store answers at once.
    fn bound(self) -> Duration {
        match self {
            Answers::AtOnce => Duration::ZERO,
            Answers::Late => Duration::from_secs(1),
            // A call that is not answered, the pause after it, and the next one.
            Answers::Never | Answers::CutOff => TTL,
        }
    }
}

/// Drops a future at every await point, in every weather, and acquires afterwards.
fn dropped_everywhere<F: Future>(shape: Shape, contended: bool, future: impl Fn(Lock) -> F) {
    dropped_everywhere_of(shape, contended, Duration::ZERO, future);
}

/// The same for what stays for a while when it was done.
fn dropped_everywhere_of<F: Future>(
    shape: Shape,
    contended: bool,
    stays: Duration,
    future: impl Fn(Lock) -> F,
) {
    for answers in ALL {
        let mut done = false;
        for polls in 0..40 {
            if done {
                break;
            }
            let scene = Scene::of(shape, 1000);
            let Scene { world, server } = &scene;
            world.run(async {
                let (client, other) = (scene.client(), scene.mutex("key"));
                client.open().await.unwrap();
                other.try_acquire().await.unwrap().unwrap().release().await.unwrap();
                let holder = if contended { Some(scene.hold(&other).await) } else { None };
                if let Some(holder) = holder {
                    // It gives way after a while, so that the future gets as far as it can.
                    let clock = world.clock.clone();
                    world.play(async move {
                        clock.sleep(TTL / 5).await;
                        drop(holder);
                    });
                }
                answers.make(&scene);
                done = drop_after(world, polls, future(client.mutex("key").unwrap())).await.is_some();
                let began = world.now();
                world.idle().await;
                let next = world.play(async move { other.acquire().await.map(drop) });
                let patience =
                    stays + answers.bound() + if contended { TTL / 5 + MOMENT } else { Duration::ZERO };
                assert!(
                    world.until(patience, || next.is_over()).await,
                    "{answers:?}, dropped after {polls} polls: not free within {patience:?}; left: {:?}",
                    server.left()
                );
                let next = next.result().unwrap();
                assert!(next.is_ok(), "{answers:?}, dropped after {polls} polls: {next:?}");
                assert!(world.now().since(began) <= patience);
                world.pass(answers.bound()).await;
                let faults = (server.left(), server.violations());
                assert_eq!(faults, (Vec::new(), Vec::new()), "{answers:?}, {polls} polls");
            });
        }
        assert!(done, "{answers:?}: it is never done");
    }
}

const MOMENT: Duration = Duration::from_millis(100);
const SHAPES: [Shape; 2] = [Shape::HandsOver, Shape::Watched { wanted: false }];

#[test]
fn an_acquire_that_is_dropped_anywhere_leaves_nothing() {
    for shape in SHAPES {
        for contended in [false, true] {
            dropped_everywhere(shape, contended, |lock| async move { lock.acquire().await.map(drop) });
        }
    }
}

#[test]
fn a_try_that_is_dropped_anywhere_leaves_nothing() {
    for shape in SHAPES {
        dropped_everywhere(shape, false, |lock| async move { lock.try_acquire().await.map(drop) });
    }
}

#[test]
fn a_release_that_is_dropped_anywhere_goes_on() {
    for shape in SHAPES {
        dropped_everywhere(shape, false, |lock| async move { lock.acquire().await?.release().await });
    }
}

#[test]
fn a_run_that_is_dropped_anywhere_leaves_nothing() {
    for shape in SHAPES {
        dropped_everywhere(shape, false, |lock| async move {
            lock.run(|_| tokio::task::yield_now()).await.map(drop)
        });
    }
}

#[test]
fn a_detached_acquire_that_is_dropped_anywhere_leaves_nothing() {
    // One whose token was told stays, and ends by itself.
    let time = Duration::from_millis(1);
    dropped_everywhere_of(Shape::HandsOver, false, time, |lock| async move {
        lock.acquire_detached(time, &AcquireOptions::new()).await.map(drop)
    });
}

#[test]
fn a_shutdown_that_is_dropped_anywhere_shuts_down() {
    for polls in 0..6 {
        let scene = Scene::new();
        let Scene { world, server } = &scene;
        world.run(async {
            let client = scene.client();
            let guard = scene.hold(&client.mutex("key").unwrap()).await;
            scene.weather(Weather::slow(Duration::from_millis(7)));
            let done = drop_after(world, polls, client.shutdown(TTL)).await;
            world.pass(CALL).await;
            drop((guard, client));
            world.pass(CALL).await;
            assert_eq!(server.left(), [""; 0], "dropped after {polls} polls, {done:?}");
            assert_eq!(world.tasks_of_engines(), 0);
        });
    }
}
