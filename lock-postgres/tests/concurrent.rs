//! The functions under many connections at once: random operations of sessions without an engine, and their history, judged.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::history::{Entry, Judgement, Recorder, sweep};
use lock_conformance::servers::Postgres;
use lock_core::{
    Backend, Certainty, Claim, Claimed, Domain, Event, EventSink, HolderInfo, LockKey, Mode, Permit, Session,
    SessionId, SessionOptions, SystemClock, Term, Ticket, within,
};
use lock_postgres::PostgresOptions;
use lock_postgres::sqlx::postgres::PgConnectOptions;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Each has two connections of its own.
const CLIENTS: u64 = 12;
const TASKS: u64 = 3;
const OPERATIONS: u64 = 60;
const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// Those who wait for news, by ticket.
type Waiting = Arc<Mutex<HashMap<Ticket, mpsc::UnboundedSender<News>>>>;

enum News {
    Granted(u64),
    Recheck,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_operations_of_many_connections_make_a_history_that_can_have_been() {
    let server = Postgres::start().await.unwrap();
    let driver: PgConnectOptions = server.url().parse().unwrap();
    let recorder = Arc::new(Recorder::new());
    let mut working = JoinSet::new();
    for client in 0..CLIENTS {
        let backend =
            lock_postgres::backend(driver.clone(), PostgresOptions::new().connect_timeout(PATIENCE)).unwrap();
        let recorder = recorder.clone();
        working.spawn(async move {
            // Some end in the middle, and leave to the others what they hold.
            for life in 0..3 {
                live(&backend, &recorder, client, life).await;
            }
        });
    }
    while let Some(worked) = working.join_next().await {
        worked.unwrap();
    }
    let operations = recorder.operations();
    let judgement = sweep(&operations);
    assert_eq!(judgement, Judgement::Passed, "{}", recorder.to_json_lines());
    // Everybody has given back what he held, or has ended.
    let left = "SELECT count(*) FROM fencepost.lock l WHERE l.waiting > 0 OR l.holders <> '{}'";
    assert_eq!(server.run(left).await.unwrap().trim(), "0");
    let waiters = "SELECT count(*) FROM fencepost.waiter";
    assert_eq!(server.run(waiters).await.unwrap().trim(), "0");
}

async fn live(backend: &Arc<dyn Backend>, recorder: &Arc<Recorder>, client: u64, life: u64) {
    let waiting = Waiting::default();
    let told = waiting.clone();
    let sink = EventSink::new(move |event| {
        let (ticket, news) = match event {
            Event::Granted { ticket, token, .. } => (ticket, News::Granted(token.get())),
            Event::Recheck(ticket) => (ticket, News::Recheck),
            _ => return,
        };
        if let Some(waiting) = told.lock().unwrap().get(&ticket) {
            let _ = waiting.send(news);
        }
    });
    let options = SessionOptions::new(SessionId::random().unwrap(), Domain(0), TTL, HolderInfo::new(1));
    let session = backend.open(&options, sink).await.unwrap().session;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (session, recorder, waiting) = (session.clone(), recorder.clone(), waiting.clone());
        tasks.spawn(async move {
            let who = client * TASKS + task;
            let mut random = fastrand::Rng::with_seed(who * 31 + life);
            for number in 0..OPERATIONS {
                operate(&*session, &recorder, &waiting, (who, life, number), &mut random).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    session.close().await.unwrap();
}

async fn operate(
    session: &dyn Session,
    recorder: &Recorder,
    waiting: &Waiting,
    (who, life, number): (u64, u64, u64),
    random: &mut fastrand::Rng,
) {
    let (key, mode, permit) = match random.u8(..4) {
        0 => ("mutex", Mode::Exclusive, Permit::MUTEX),
        1 => ("catalogue", Mode::Shared, Permit::READER),
        2 => ("catalogue", Mode::Exclusive, Permit::WRITER),
        _ => {
            let weight = random.u32(1..=3);
            ("permits", Mode::Permits { held: weight, of: 3 }, Permit::new(weight, 3).unwrap())
        }
    };
    let ticket = Ticket((who * 10 + life) * OPERATIONS + number + 1);
    let at_least = if random.u8(..8) == 0 { Duration::from_millis(3) } else { Duration::ZERO };
    let claim = Claim::new(LockKey::new(key).unwrap(), ticket, mode, permit)
        .waiting(random.bool())
        .term(Term::Session { at_least });
    let entry = recorder.invoke(who, key, permit.weight(), permit.capacity());
    let (told, mut news) = mpsc::unbounded_channel();
    waiting.lock().unwrap().insert(ticket, told);
    // Sent twice it is the same claim.
    if random.u8(..4) == 0 {
        session.claim(&claim).await.unwrap();
    }
    let gives_up = random.u8(..5) == 0;
    let granted = within(&SystemClock::new(), PATIENCE, granted(session, &claim, &mut news, gives_up)).await;
    let token = granted.expect("a grant that nobody has told of");
    waiting.lock().unwrap().remove(&ticket);
    held(recorder, entry, token).await;
    let certainty = if random.bool() { Certainty::Settled } else { Certainty::MaybeInFlight };
    let _ = session.release(&claim.reference(), certainty).await.unwrap();
}

/// As an engine does it: whoever is to ask again does.
async fn granted(
    session: &dyn Session,
    claim: &Claim,
    news: &mut mpsc::UnboundedReceiver<News>,
    gives_up: bool,
) -> Option<u64> {
    loop {
        let recheck_in = match session.claim(claim).await.unwrap() {
            Claimed::Granted { token, .. } => return Some(token.get()),
            Claimed::Queued { recheck_in, .. } if !gives_up => recheck_in,
            _ => return None,
        };
        match within(&SystemClock::new(), recheck_in.unwrap_or(PATIENCE), news.recv()).await {
            Some(Some(News::Granted(token))) => return Some(token),
            Some(Some(News::Recheck)) | None => {}
            Some(None) => return None,
        }
    }
}

/// For a moment.
async fn held(recorder: &Recorder, entry: Entry, token: Option<u64>) {
    match token {
        Some(token) => {
            recorder.returned(entry, token);
            tokio::task::yield_now().await;
            recorder.gives_back(entry);
        }
        None => recorder.failed(entry),
    }
}
