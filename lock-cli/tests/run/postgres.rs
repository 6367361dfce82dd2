//! A lock in Postgres: held by a server of its own; and the statements that make its schema.

use lock_conformance::servers::{Postgres, PostgresSetup};
use tokio::runtime::Runtime;

use crate::lab::{Done, Lab};
use crate::servers::{run, runs_exclude_each_other};

/// As the probe wants it: nothing is warned of.
fn start() -> (Runtime, Postgres) {
    let runtime = Runtime::new().unwrap();
    let postgres = runtime.block_on(PostgresSetup::new().durable().start()).unwrap();
    (runtime, postgres)
}

fn schema(lab: &Lab, words: &[&str]) -> Done {
    Done::from(lab.fencepost().arg("schema").args(words).output().unwrap())
}

#[test]
fn runs_exclude_each_other_and_tokens_rise() {
    let (lab, (_runtime, postgres)) = (Lab::new(), start());
    says(&runs_exclude_each_other(&lab, &postgres.url()), 75, "held by the-holder");
}

#[test]
fn the_schema_that_is_printed_is_the_one_that_is_needed() {
    let (lab, (runtime, postgres)) = (Lab::new(), start());
    for name in ["fencepost", "other_locks"] {
        let url = format!("{}?migrate=never&schema={name}", postgres.url());
        says(&run_once(&lab, &url), 78, "fencepost schema postgres");
        let printed = schema(&lab, &["postgres", "--schema", name]);
        assert_eq!(printed.code(), 0, "{printed:?}");
        runtime.block_on(postgres.run(&printed.out)).unwrap();
        assert_eq!(run_once(&lab, &url).code(), 0);
    }
}

/// Beside the warning that the password can be seen.
fn says(done: &Done, code: i32, words: &str) {
    assert_eq!(done.code(), code, "{done:?}");
    assert!(done.err.contains(words), "{done:?}");
}

fn run_once(lab: &Lab, url: &str) -> Done {
    Done::from(run(lab, url, &[], "true").output().unwrap())
}

#[test]
fn a_schema_that_cannot_be_is_a_mistake() {
    let lab = Lab::new();
    says(&schema(&lab, &["postgres", "--schema", "a-b"]), 64, "a schema is called by");
    says(&schema(&lab, &["mysql"]), 64, "postgres");
}
