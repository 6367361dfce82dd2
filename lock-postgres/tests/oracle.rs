//! The functions and the lock table: random commands come to the same, on a real server whose clock stands still between them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::oracle::{compare_with_the_table, timed};
use lock_conformance::servers::{PostgresSetup, WallClock};
use lock_postgres::PostgresOptions;
use lock_postgres::sqlx::postgres::PgConnectOptions;

#[test]
fn the_functions_answer_as_the_table() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let wall = WallClock::new().unwrap();
    let server = runtime.block_on(PostgresSetup::new().wall_clock(&wall).start()).unwrap();
    let driver: PgConnectOptions = server.url().parse().unwrap();
    let cases = std::env::var("ORACLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    let played = AtomicUsize::new(0);
    let compared = compare_with_the_table(cases, |clock| {
        // Each case finds an empty store.
        let options = PostgresOptions::new()
            .schema(format!("case_{}", played.fetch_add(1, Ordering::SeqCst)))
            .connect_timeout(Duration::from_secs(20))
            .idle_after(Duration::from_secs(3600));
        let (driver, wall) = (driver.clone(), wall.clone());
        Ok(move || Ok(timed(lock_postgres::backend(driver.clone(), options.clone())?, &clock, &wall)))
    });
    assert_eq!(compared, Ok(()));
}
