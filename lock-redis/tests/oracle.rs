//! The scripts and the lock table: random commands come to the same, on a real server whose clock stands still between them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::oracle::{compare_with_the_table, timed};
use lock_conformance::servers::{RedisSetup, WallClock};
use lock_redis::{RedisOptions, redis};

#[test]
fn the_scripts_answer_as_the_table() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wall = WallClock::new().unwrap();
    let server = runtime.block_on(async {
        let setup = wall
            .environment()
            .into_iter()
            .fold(RedisSetup::new(), |setup, (key, value)| setup.environment(key, value));
        setup.start().await.unwrap()
    });
    let driver = redis::Client::open(server.url()).unwrap();
    let cases = std::env::var("ORACLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128);
    let played = AtomicUsize::new(0);
    let compared = compare_with_the_table(cases, |clock| {
        // Each case finds an empty store.
        let namespace = format!("case-{}", played.fetch_add(1, Ordering::SeqCst));
        let (driver, wall) = (driver.clone(), wall.clone());
        Ok(move || {
            let options = RedisOptions::new().namespace(&namespace).idle_after(Duration::from_millis(5));
            let backend = lock_redis::backend(&driver, options)?;
            Ok(timed(backend, &clock, &wall))
        })
    });
    assert_eq!(compared, Ok(()));
}
