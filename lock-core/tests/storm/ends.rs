//! How holds end: in time, by every clock, and for everybody who looks.

use std::time::Duration;

use lock_core::{AcquireOptions, Clock, End, HoldState, LockKey, Lost, Reason, Wait};

use crate::scene::{CALL, Scene, TTL};
use crate::weather::{Cut, Weather};

const MOMENT: Duration = Duration::from_millis(50);

/// The store may have given it to another long before the answer arrives.
#[test]
fn work_stops_when_a_release_sets_out() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let guard = scene.hold(&scene.mutex("key")).await;
        let held = guard.held();
        let work = world.play(async move { held.run(std::future::pending::<()>()).await });
        world.idle().await;
        scene.weather(Weather::cut(Cut::Replies));
        let _release = world.play(async move { guard.release().await });
        world.pass(MOMENT).await;
        assert_eq!(scene.server.left(), [""; 0], "the store has released it");
        assert_eq!(work.result(), Some(Err(Lost(Reason::Released))), "and the work under it goes on");
    });
}

#[test]
fn a_hold_ends_with_its_lease_while_its_release_is_not_answered() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let options = AcquireOptions::new().hold_at_most(TTL / 20);
        for (limit, options) in [(TTL, AcquireOptions::new()), (TTL / 20, options)] {
            scene.weather(Weather::still());
            let client = lock_core::LockClient::builder(scene.server.backend())
                .clock(std::sync::Arc::new(world.clock.clone()))
                .ttl(TTL)
                .call_timeout(TTL * 5)
                .runtime(world.handle().clone())
                .build()
                .unwrap();
            let lock = client.mutex("key").unwrap();
            let guard = world.outcome(TTL * 2, async move { lock.acquire_with(&options).await });
            let guard = guard.await.unwrap().unwrap();
            let ending = world.play(guard.ending());
            scene.weather(Weather::cut(Cut::Requests));
            let _release = world.play(async move { guard.release().await });
            assert!(world.until(limit, || ending.is_over()).await, "ending() outlives what it tells of");
            assert!(matches!(ending.result(), Some(End::Lost(Reason::Expired | Reason::HeldTooLong))));
        }
    });
}

/// What was promised under the longer TTL is not promised any more.
#[test]
fn a_ttl_that_the_store_shortens_shortens_the_lease() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let guard = scene.hold(&scene.mutex("key")).await;
        world.pass(TTL / 10).await;
        server.shorten(TTL / 5);
        // The renewal that brings it, and then silence.
        assert!(world.until(TTL, || server.sent("renew") > 0).await);
        world.idle().await;
        let told = world.now();
        scene.weather(Weather::cut(Cut::Requests));
        world.pass(TTL / 5 + MOMENT).await;
        assert_eq!(server.left(), [""; 0], "the store has ended the session");
        assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)), "told at {told:?}");
    });
}

#[test]
fn a_grant_that_is_revoked_before_anybody_looks_is_no_grant() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let (first, second) = (scene.mutex("key"), scene.mutex("key"));
        let guard = scene.hold(&first).await;
        let waiting = world.play({
            let second = second.clone();
            async move { second.acquire().await }
        });
        world.idle().await;
        // Granted and revoked within one instant: the waiter has not been polled between the two.
        server.force_release(guard.key(), None);
        server.force_release(guard.key(), None);
        world.idle().await;
        let revoked =
            waiting.result().map(|won| won.map(|guard| server.broken_at(guard.key(), guard.token())));
        assert!(!matches!(revoked, Some(Ok(Some(_)))), "a grant is handed out that is known to be revoked");
        drop(guard);
    });
}

/// The reply of a detached claim is lost, and then the session: nobody knows the token by which to end it.
#[test]
fn a_detached_hold_that_nobody_was_told_of_does_not_outlive_its_session() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let lock = scene.mutex("key");
        drop(scene.hold(&lock).await);
        world.idle().await;
        scene.weather(Weather::cut(Cut::Replies));
        let year = AcquireOptions::LONGEST_TERM;
        let detached = world.play({
            let lock = lock.clone();
            async move { lock.acquire_detached(year, &AcquireOptions::new()).await }
        });
        world.idle().await;
        // Long enough for the session to end at both sides.
        scene.weather(Weather::cut(Cut::Requests));
        world.pass(TTL * 2).await;
        assert!(matches!(detached.result(), Some(Err(_))));
        scene.weather(Weather::still());
        world.pass(TTL).await;
        assert_eq!(server.left(), [""; 0], "it stays for a year, and nobody has its token");
        drop(lock);
    });
}

#[test]
fn shutdown_names_only_what_it_could_not_give_back() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let (holder, client) = (scene.mutex("key"), scene.client());
        let guard = scene.hold(&holder).await;
        let waiter = client.mutex("key").unwrap();
        let waiting = world.play(async move { waiter.acquire().await });
        world.idle().await;
        let left = world.outcome(CALL, async move { client.shutdown(CALL).await }).await;
        assert_eq!(left, Some(Vec::<LockKey>::new()), "a waiter was withdrawn, and is said to be left");
        assert!(waiting.result().unwrap().is_err());
        drop(guard);
        world.pass(MOMENT).await;
        assert_eq!(server.left(), [""; 0]);
    });
}

#[test]
fn nobody_wins_once_the_client_shuts_down() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let (holder, client) = (scene.mutex("key"), scene.client());
        let guard = scene.hold(&holder).await;
        let waiter = client.mutex("key").unwrap();
        // The shutdown is first to be polled, and the grant arrives in the same instant.
        let going = std::rc::Rc::new(std::cell::Cell::new(false));
        let shutdown = world.play({
            let (client, going) = (client.clone(), going.clone());
            async move {
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if going.get() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
                client.shutdown(CALL).await
            }
        });
        let _ = (&shutdown, &waiter);
        let waiting = world.play(async move { waiter.acquire().await });
        for _ in 0..3 {
            world.turn().await;
        }
        going.set(true);
        drop(guard);
        world.until(CALL, || waiting.is_over() && shutdown.is_over()).await;
        let won = waiting.result().unwrap();
        assert!(won.is_err(), "{won:?} was won from a client that was shut down");
    });
}

#[test]
fn a_machine_that_slept_sees_the_end_at_its_next_look() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let guard = scene.hold(&scene.mutex("key")).await;
        let held = guard.held();
        let polls = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = polls.clone();
        let clock = world.clock.clone();
        let work = world.play(async move {
            let mut sleep = clock.sleep(TTL * 3);
            let work = std::future::poll_fn(move |context| {
                count.set(count.get() + 1);
                sleep.as_mut().poll(context)
            });
            held.run(work).await
        });
        world.idle().await;
        let before = polls.get();
        world.clock.suspend(TTL * 4);
        assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
        world.idle().await;
        assert_eq!(work.result(), Some(Err(Lost(Reason::Expired))));
        assert_eq!(polls.get(), before, "the work was polled after its lease had ended");
        assert!(matches!(guard.ending().await, End::Lost(Reason::Expired)));
    });
}

/// A thread that was blocked past the end: the work's own poll took that long.
#[test]
fn work_that_blocked_past_the_end_has_no_result() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let lock = scene.mutex("key");
        let clock = world.clock.clone();
        let ran = world
            .outcome(TTL * 3, async move {
                lock.run(|_| async move {
                    clock.suspend(TTL * 2);
                    "too late"
                })
                .await
            })
            .await;
        assert_eq!(ran.unwrap().unwrap(), lock_core::Ran::Lost(Reason::Expired));
    });
}

#[test]
fn patience_is_kept_to_whatever_hangs() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let lock = scene.mutex("key");
        scene.weather(Weather::cut(Cut::Requests));
        let began = world.now();
        let patience = TTL / 3;
        let options = AcquireOptions::new().wait(Wait::AtMost(patience));
        let waited = world.outcome(TTL, async move { lock.acquire_with(&options).await }).await;
        assert!(waited.unwrap().is_err());
        assert_eq!(world.now().since(began), patience);
    });
}

/// The reply waits in the socket while the machine sleeps, and both wake up together.
#[test]
fn an_acknowledgement_after_the_deadline_changes_nothing() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let guard = scene.hold(&scene.mutex("key")).await;
        scene.weather(Weather { steady_renewals: false, ..Weather::slow(TTL / 20) });
        assert!(world.until(TTL, || server.sent("renew") > 0).await);
        // It arrives, and is answered.
        world.pass(TTL / 20 + MOMENT).await;
        // Past the deadline that is known, and not past the one that the reply would bring.
        world.clock.suspend(TTL * 4 / 5);
        // Sent before the sleep, acknowledged after it, and only then does anybody look.
        while world.net.deliver(world.now()) {}
        world.idle().await;
        assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
    });
}

#[test]
fn a_grant_that_is_heard_of_after_the_deadline_is_none() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let client = scene.client();
        client.open().await.unwrap();
        scene.weather(Weather::slow(TTL / 20));
        let lock = client.mutex("key").unwrap();
        let waiting = world.play(async move { lock.acquire().await });
        // It arrives, and is granted.
        world.pass(TTL / 20 + MOMENT).await;
        world.clock.suspend(TTL);
        while world.net.deliver(world.now()) {}
        // The waiter is polled before its session's heartbeat.
        world.turn().await;
        world.idle().await;
        let won = waiting.result().expect("it is told");
        assert!(won.is_err(), "{won:?} was granted to a session that is over");
    });
}

#[test]
fn a_gap_makes_waiters_ask_at_once() {
    let scene = Scene::new();
    let Scene { world, .. } = &scene;
    world.run(async {
        let (holder, lock) = (scene.mutex("key"), scene.mutex("key"));
        let guard = scene.hold(&holder).await;
        let waiting = world.play(async move { lock.acquire().await });
        world.pass(MOMENT).await;
        scene.weather(Weather { event_lost: 1000, gap: 1000, ..Weather::still() });
        drop(guard);
        world.pass(MOMENT).await;
        assert!(waiting.is_over(), "whoever is told of a gap waits for the next renewal");
    });
}

/// Both arrive before the waiter is polled again.
#[test]
fn a_grant_beats_the_reply_that_it_overtakes() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let (holder, lock) = (scene.mutex("key"), scene.mutex("key"));
        let guard = scene.hold(&holder).await;
        assert!(lock.try_acquire().await.unwrap().is_err(), "and its session is open");
        let delay = Duration::from_millis(7);
        scene.weather(Weather::slow(delay));
        let answered = world.now() + delay * 2;
        let waiting = world.play(async move { lock.acquire().await });
        world.idle().await;
        let (server, key) = (server.clone(), guard.key().clone());
        world.net.deliver_at(answered, move || {
            server.set_weather(Weather::still());
            server.force_release(&key, None);
        });
        world.pass(MOMENT).await;
        assert!(waiting.is_over(), "the grant was lost between reply and event");
    });
}

/// The store counts from the arrival of a renewal, which is later than its sending and earlier than its reply.
#[test]
fn a_lease_counts_from_what_was_sent() {
    let scene = Scene::new();
    let Scene { world, server } = &scene;
    world.run(async {
        let guard = scene.hold(&scene.mutex("key")).await;
        scene.weather(Weather { steady_renewals: false, ..Weather::slow(TTL / 12) });
        assert!(world.until(TTL, || server.sent("renew") > 0).await);
        let sent = world.now();
        world.pass(TTL / 6 + MOMENT).await;
        scene.weather(Weather::cut(Cut::Requests));
        let HoldState::Held { until } = guard.state() else { panic!("it was renewed") };
        assert!(
            until <= sent + TTL && until > sent + TTL * 9 / 10,
            "{until:?} is not {TTL:?} after {sent:?}"
        );
        world.pass((sent + TTL).since(world.now())).await;
        assert_eq!(guard.state(), HoldState::Ended(End::Lost(Reason::Expired)));
        assert_ne!(server.left(), [""; 0], "the store keeps it for a little longer");
    });
}
