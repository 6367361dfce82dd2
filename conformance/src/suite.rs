//! [`Suite`]: every scenario against one store, as a test program.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use lock_core::{Backend, Result};

use crate::case::Case;
use crate::child::{self, Join};
use crate::fixture::Fixture;
use crate::promises::{Promise, Promises};
use crate::runtime::runtime;
use crate::scenarios::CASES;
use crate::scene::Scene;
use crate::verdict::{Failure, Verdict};

type Coming<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;
type Start = Arc<dyn Fn() -> Coming<Box<dyn Fixture>> + Send + Sync>;

/// Scenarios wait more than they work.
const THREADS: usize = 8;

/// Scenarios that measure time closely hold it alone.
static QUIET: RwLock<()> = RwLock::new(());

enum Quiet {
    Alone(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
    Beside(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
}

/// Every scenario against one store.
///
/// ```no_run
/// use std::sync::Arc;
/// use lock_conformance::{Fixture, Promises, Suite};
/// use lock_core::{Backend, MemoryBackend, Result};
///
/// struct Memory(Arc<MemoryBackend>);
///
/// #[async_trait::async_trait]
/// impl Fixture for Memory {
///     async fn backend(&self) -> Result<Arc<dyn Backend>> {
///         Ok(self.0.clone())
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     Suite::new("memory", || async { Ok(Memory(MemoryBackend::new())) })
///         .promises(Promises::all().not_applicable(2, "lives in one process"))
///         .main()
/// }
/// ```
///
/// The target needs `harness = false` in its `Cargo.toml`. It understands what test programs understand: a filter,
/// `--exact`, `--list`, `--test-threads`. `CONFORMANCE_SEED=n` replays what was random.
#[derive(Clone)]
pub struct Suite {
    store: &'static str,
    promises: Promises,
    ttl: Duration,
    threads: usize,
    start: Start,
    join: Option<Join>,
}

impl Suite {
    /// The TTL under which scenarios are played unless the store needs another.
    pub const TTL: Duration = Duration::from_secs(1);

    /// A suite for the store of this name; `start` makes an empty one for each scenario.
    pub fn new<F, S>(store: &'static str, start: impl Fn() -> S + Send + Sync + 'static) -> Suite
    where
        F: Fixture,
        S: Future<Output = Result<F>> + Send + 'static,
    {
        let start: Start = Arc::new(move || {
            let starting = start();
            Box::pin(async move { Ok(Box::new(starting.await?) as Box<dyn Fixture>) })
        });
        Suite { store, promises: Promises::all(), ttl: Suite::TTL, threads: THREADS, start, join: None }
    }

    /// What the store promises; everything unless this says otherwise.
    #[must_use]
    pub fn promises(mut self, promises: Promises) -> Suite {
        self.promises = promises;
        self
    }

    /// The TTL under which scenarios are played; for stores that refuse one second.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Suite {
        self.ttl = ttl;
        self
    }

    /// How many scenarios are played at once, unless the command line says; for stores that keep a machine busy by themselves.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Suite {
        self.threads = threads;
        self
    }

    /// How a child process reaches the store that [`Fixture::address`] named: this program is started again for it.
    #[must_use]
    pub fn children<S>(mut self, join: impl Fn(String) -> S + Send + Sync + 'static) -> Suite
    where
        S: Future<Output = Result<Arc<dyn Backend>>> + Send + 'static,
    {
        self.join = Some(Arc::new(move |address| Box::pin(join(address))));
        self
    }

    /// Plays whatever the command line asks for. The status is 0 only if nothing failed.
    pub fn main(self) -> ExitCode {
        if let Some(order) = child::Order::given() {
            return child::serve(order, self.join.as_ref());
        }
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(self.threads);
        libtest_mimic::run(&arguments, self.trials()).exit_code()
    }

    /// Plays the scenario of this name (`group::name`), whatever the store promises about it.
    ///
    /// # Errors
    /// Why it failed.
    pub fn play(&self, title: &str) -> Verdict {
        let case = CASES.iter().flat_map(|group| group.iter()).find(|case| case.title() == title);
        let case =
            case.ok_or_else(|| Failure::new("a scenario of this name", format!("none is called {title}")))?;
        self.perform(case)
    }

    fn trials(&self) -> Vec<Trial> {
        let trial = |case: &'static Case| {
            let suite = self.clone();
            let title = format!("{}::{}", self.store, case.title());
            let name = title.clone();
            Trial::ignorable_test(title, move || match suite.promises.about(case.number) {
                Promise::NotApplicable(why) => Ok(Completion::ignored_with(why)),
                Promise::Promised | Promise::Weaker(_) => match suite.perform(case) {
                    Ok(()) => Ok(Completion::Completed),
                    Err(failure) => {
                        Err(Failed::from(format!("{failure}\nto run just that: {}", command(&name))))
                    }
                },
            })
        };
        CASES.iter().flat_map(|group| group.iter()).map(trial).collect()
    }

    /// Plays a scenario on a thread and a runtime of its own, within its time.
    fn perform(&self, case: &'static Case) -> Verdict {
        let _quiet = if case.alone {
            Quiet::Alone(QUIET.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Quiet::Beside(QUIET.read().unwrap_or_else(PoisonError::into_inner))
        };
        let (tell, told) = mpsc::channel();
        let suite = self.clone();
        std::thread::spawn(move || {
            let verdict = catch_unwind(AssertUnwindSafe(|| {
                let runtime = runtime()?;
                let verdict = runtime.block_on(suite.play_on_stage(case));
                runtime.shutdown_timeout(Duration::from_secs(1));
                verdict
            }));
            let _ = tell.send(verdict.unwrap_or_else(|panic| {
                Err(Failure::new("no panic", format_args!("a panic: {}", words(&*panic))))
            }));
        });
        let limit = case.limit(self.ttl);
        told.recv_timeout(limit).unwrap_or_else(|_| {
            Err(Failure::new("an end", format_args!("it was still running after {limit:?}")))
        })
    }

    async fn play_on_stage(&self, case: &Case) -> Verdict {
        let fixture = (self.start)().await?;
        let promise = self.promises.about(case.number).clone();
        let scene = Scene::new(fixture, self.ttl, promise, case.title()).await?;
        let seed = scene.seed();
        let used = scene.promise_was_read();
        let weaker = scene.is_promised_less();
        (case.play)(scene).await.map_err(|failure| failure.seeded(seed))?;
        if weaker && !used.load(Ordering::SeqCst) {
            return Err(Failure::new(
                "a scenario that asserts what a weaker store does",
                "it asserts the same of every store: promise it whole, or say why it cannot happen",
            ));
        }
        Ok(())
    }
}

/// The scenarios that there are: number and name (`group::name`).
pub fn scenarios() -> impl Iterator<Item = (u32, String)> {
    CASES.iter().flat_map(|group| group.iter()).map(|case| (case.number, case.title()))
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Suite({})", self.store)
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

/// How cargo plays one trial of this program.
fn command(trial: &str) -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".to_owned());
    let program = std::env::current_exe().ok();
    let stem = program.as_ref().and_then(|path| path.file_stem()?.to_str());
    // Without the hash that cargo puts behind it.
    let target = stem.map_or("conformance", |stem| stem.rsplit_once('-').map_or(stem, |(target, _)| target));
    format!("cargo test -p {package} --test {target} -- --exact {trial}")
}
