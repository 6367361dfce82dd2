//! Several processes on one directory, killed and stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails has to stop")]

mod common;

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Client, LONG, Place, Process, granted, listen, mutex, queued, say, within};
use lock_core::{Backend, Claim, Claimed, Clock, ErrorKind, Event, Mode, Permit, SystemClock, Term, Ticket};
use lock_file::{FileOptions, FileStore};
use rustix::process::Signal;

/// What the other tests start; by itself it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some((task, backend)) = common::task() else { return };
    match task.split_once(' ').unwrap_or((&task, "")) {
        ("hold", ttl) => {
            let ttl = Duration::from_millis(ttl.parse().unwrap());
            let client = Client::open(&backend, ttl).await;
            say(client.take("k", 1).await);
            // Renews when told to, and says what came of it.
            loop {
                match listen().as_str() {
                    "renew" => match client.session.renew(&[]).await {
                        Ok(_) => say("renewed"),
                        Err(error) => say(matches!(error.kind(), ErrorKind::SessionLost(_))),
                    },
                    _ => return,
                }
            }
        }
        ("wait", _) => {
            let mut client = Client::open(&backend, LONG).await;
            queued(client.claim("k", 1, true).await);
            say("queued");
            let token = client.acquire("k", 1).await;
            say(token);
            listen();
            client.release("k", 1).await;
        }
        ("detach", _) => {
            let client = Client::open(&backend, LONG).await;
            let claim = mutex("k", 1).term(Term::Fixed(Duration::from_secs(60)));
            say(granted(client.session.claim(&claim).await.unwrap()));
        }
        ("share", words) => {
            let client = Client::open(&backend, LONG).await;
            let (mode, permit) = parse_permit(words);
            let claim = Claim::new(mutex("k", 1).key, Ticket(1), mode, permit);
            say(matches!(client.session.claim(&claim).await.unwrap(), Claimed::Granted { .. }));
            listen();
            client.release("k", 1).await;
        }
        ("churn", path) => churn(&backend, Path::new(path)).await,
        ("count", path) => count(&backend, Path::new(path)).await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_killed_process_is_succeeded_at_once() {
    let place = Place::new();
    let mut holder = Process::start(&place, "hold 60000");
    let before: u64 = holder.hear().parse().unwrap();
    let mut client = Client::open(&place.backend(), LONG).await;
    queued(client.claim("k", 1, true).await);
    let clock = SystemClock::new();
    let killed = clock.boot();
    holder.signal(Signal::KILL);
    let token = within("succession", client.acquire("k", 1)).await;
    assert!(clock.boot().since(killed) < Duration::from_secs(2), "its lease ran for another minute");
    assert!(token.get() > before);
}

#[tokio::test]
async fn a_killed_process_frees_its_locks_for_who_comes_later() {
    let place = Place::new();
    let mut holder = Process::start(&place, "hold 60000");
    holder.hear();
    holder.signal(Signal::KILL);
    holder.wait();
    Client::open(&place.backend(), LONG).await.take("k", 1).await;
}

#[tokio::test]
async fn a_stopped_process_is_succeeded_at_its_deadline_and_then_hears_of_it() {
    let place = Place::new();
    let ttl = Duration::from_millis(600);
    let mut client = Client::open(&place.backend(), LONG).await;
    let mut holder = Process::start(&place, "hold 600");
    holder.hear();
    let clock = SystemClock::new();
    holder.tell("renew");
    let renewing = clock.boot();
    assert_eq!(holder.hear(), "renewed");
    let renewed = clock.boot();
    holder.signal(Signal::STOP);
    within("succession", client.acquire("k", 1)).await;
    let taken = clock.boot();
    assert!(taken.since(renewing) >= ttl, "before its lease was over");
    assert!(taken.since(renewed) < ttl + Duration::from_secs(1), "{:?}", taken.since(renewed));
    holder.tell("renew");
    holder.signal(Signal::CONT);
    assert_eq!(holder.hear(), "true", "its session is lost");
}

#[tokio::test]
async fn waiters_of_other_processes_are_served_in_order_by_push() {
    let place = Place::new();
    let backend = place.backend();
    let first = Client::open(&backend, LONG).await;
    first.take("k", 1).await;
    let mut waiters = Vec::new();
    for _ in 0..3 {
        let mut waiter = Process::start(&place, "wait");
        assert_eq!(waiter.hear(), "queued");
        waiters.push(waiter);
    }
    // The one in the middle dies; the others do not notice.
    waiters[1].signal(Signal::KILL);
    waiters.remove(1).wait();
    first.release("k", 1).await;
    let mut last = 0;
    for mut waiter in waiters {
        let token: u64 = waiter.hear().parse().unwrap();
        assert!(token > last);
        last = token;
        assert!(matches!(first.claim("k", 2, false).await, Claimed::Busy(_)));
        waiter.tell("go");
        assert!(waiter.wait());
    }
    assert!(first.take("k", 3).await.get() > last);
}

fn parse_permit(words: &str) -> (Mode, Permit) {
    match words {
        "reader" => (Mode::Shared, Permit::READER),
        "writer" => (Mode::Exclusive, Permit::WRITER),
        weight => (Mode::Shared, Permit::new(weight.parse().unwrap(), 3).unwrap()),
    }
}

/// What a process is told that asks for the key and does not wait. It keeps what it got.
fn share(place: &Place, words: &str) -> (bool, Process) {
    let mut process = Process::start(place, &format!("share {words}"));
    (process.hear() == "true", process)
}

#[tokio::test]
async fn readers_of_other_processes_share_and_a_writer_excludes() {
    let place = Place::new();
    let (first, second) = (share(&place, "reader"), share(&place, "reader"));
    assert!(first.0 && second.0);
    assert!(!share(&place, "writer").0);
    // One reads no more, and the other is killed.
    let mut first = first.1;
    first.tell("go");
    assert!(first.wait());
    assert!(!share(&place, "writer").0, "one is left");
    second.1.signal(Signal::KILL);
    second.1.wait();
    let (granted, writer) = share(&place, "writer");
    assert!(granted);
    assert!(!share(&place, "reader").0 && !share(&place, "writer").0);
    writer.signal(Signal::KILL);
    writer.wait();
    assert!(share(&place, "reader").0);
}

#[tokio::test]
async fn a_semaphore_counts_over_processes() {
    let place = Place::new();
    let (one, two) = (share(&place, "1"), share(&place, "2"));
    assert!(one.0 && two.0);
    assert!(!share(&place, "1").0, "3 of 3 are taken");
    one.1.signal(Signal::KILL);
    one.1.wait();
    assert!(!share(&place, "2").0, "1 of 3 is free");
    let (granted, _third) = share(&place, "1");
    assert!(granted);
}

#[tokio::test]
async fn a_fixed_hold_outlives_its_process_and_is_ended_by_its_token() {
    let place = Place::new();
    let mut owner = Process::start(&place, "detach");
    let token: u64 = owner.hear().parse().unwrap();
    owner.signal(Signal::KILL);
    owner.wait();
    let backend = place.backend();
    let client = Client::open(&backend, LONG).await;
    assert!(matches!(client.claim("k", 1, false).await, Claimed::Busy(_)));
    let state = backend.inspect(&mutex("k", 1).key).await.unwrap();
    assert!(state.holders[0].fixed && state.holders[0].token.get() == token);
    assert_eq!(backend.force_release(&mutex("k", 1).key, token.try_into().ok()).await.unwrap(), 1);
    client.take("k", 2).await;
}

/// Reads, adds one and writes again, under the lock; notes each token in the order of the grants.
async fn count(backend: &Arc<dyn Backend>, path: &Path) {
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (backend, path) = (backend.clone(), path.to_owned());
        tasks.push(tokio::runtime::Handle::current().spawn(async move {
            let mut client = Client::open(&backend, LONG).await;
            for ticket in 1..=100 {
                let token = client.acquire("counter", ticket).await;
                let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                let (number, last) = text.split_once(' ').unwrap();
                let (number, last): (u64, u64) = (number.parse().unwrap(), last.parse().unwrap());
                assert!(token.get() > last, "tokens rise in the order of the grants");
                // Somebody else has a chance to do the same in between.
                tokio::task::yield_now().await;
                file.seek(SeekFrom::Start(0)).unwrap();
                write!(file, "{} {token}", number + 1).unwrap();
                client.release("counter", ticket).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    say("done");
}

#[tokio::test]
async fn counters_of_four_processes_add_up() {
    let place = Place::new();
    let counter = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(counter.path(), "0 0").unwrap();
    let task = format!("count {}", counter.path().display());
    let mut processes: Vec<_> = (0..4).map(|_| Process::start(&place, &task)).collect();
    for process in &mut processes {
        assert_eq!(process.hear(), "done");
    }
    let text = std::fs::read_to_string(counter.path()).unwrap();
    assert_eq!(text.split_once(' ').unwrap().0, "1600");
}

/// Takes and gives back, on a key that all share and on keys that come and go, and notes each token of the shared one.
async fn churn(backend: &Arc<dyn Backend>, path: &Path) {
    let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    let mut client = Client::open(backend, LONG).await;
    say("ready");
    for ticket in (1..).step_by(2) {
        let token = client.acquire("shared", ticket).await;
        log.write_all(format!("{:016}\n", token.get()).as_bytes()).unwrap();
        client.release("shared", ticket).await;
        let other = format!("{}", ticket % 50);
        client.acquire(&other, ticket + 1).await;
        client.release(&other, ticket + 1).await;
        if ticket % 20 == 1 {
            client.session.renew(&[]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn processes_that_are_killed_anywhere_leave_a_store_that_works() {
    let place = Place::new();
    let log = tempfile::NamedTempFile::new().unwrap();
    let task = format!("churn {}", log.path().display());
    let mut processes: Vec<_> = (0..3).map(|_| Process::start(&place, &task)).collect();
    for process in &mut processes {
        assert_eq!(process.hear(), "ready");
    }
    let clock = SystemClock::new();
    for kill in 0..40_u64 {
        // Anywhere in a cycle.
        clock.sleep(Duration::from_micros(3_000 + kill * 7_919 % 5_000)).await;
        let victim = processes.remove(0);
        victim.signal(Signal::KILL);
        victim.wait();
        let mut next = Process::start(&place, &task);
        assert_eq!(next.hear(), "ready");
        processes.push(next);
    }
    drop(processes);
    let text = std::fs::read_to_string(log.path()).unwrap();
    let tokens: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(tokens.len() > 100, "{}", tokens.len());
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "in the order in which they were written");
    let client = Client::open(&place.backend(), LONG).await;
    assert!(client.take("shared", 1).await.get() > tokens[tokens.len() - 1]);
    for ticket in 2..52 {
        client.take(&format!("{}", ticket - 2), ticket).await;
    }
}

#[tokio::test]
async fn a_child_with_the_descriptor_keeps_the_session_alive() {
    let place = Place::new();
    let store = FileStore::open(place.path(), FileOptions::new()).unwrap();
    let records = lock_core::records::Records::new(store);
    let (send, _events) = tokio::sync::mpsc::unbounded_channel();
    let sink = lock_core::EventSink::new(move |event: Event| drop(send.send(event)));
    let options = lock_core::SessionOptions::new(
        lock_core::SessionId::from_u128(5),
        lock_core::Domain(0),
        LONG,
        lock_core::HolderInfo::new(1),
    );
    let session = records.open(&options, sink).await.unwrap().session;
    granted(session.claim(&mutex("k", 1)).await.unwrap());
    let pipe = records.store().liveness_descriptors().pop().unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::from(pipe)).spawn().unwrap();
    // As if this process had ended: its own descriptors are closed.
    drop(session);
    tokio::task::yield_now().await;
    assert!(records.store().liveness_descriptors().is_empty());
    let mut client = Client::open(&place.backend(), LONG).await;
    queued(client.claim("k", 1, true).await);
    SystemClock::new().sleep(Duration::from_millis(20)).await;
    queued(client.claim("k", 1, true).await);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(client.next_event().await, Event::Recheck(Ticket(1))));
    granted(client.claim("k", 1, true).await);
}
