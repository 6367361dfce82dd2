//! A lock across the steps of a pipeline: each step is a process of its own, and none of them lives throughout.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use fencepost::{AcquireOptions, FencingToken, Note, Registry, Wait};
use tempfile::TempDir;

/// What the first step leaves for the later ones, as a file or a variable of the pipeline.
struct Handed {
    key: String,
    token: u64,
}

async fn first_step(store: &str) -> fencepost::Result<Handed> {
    let client = Registry::new().connect(store).await?;
    let options = AcquireOptions::new()
        .wait(Wait::AtMost(Duration::from_secs(600)))
        .note(Note::new("deployment 217, started by the pipeline")?);
    // An hour: longer than any deployment may take. Nothing renews it.
    let held = client.mutex("deploy")?.acquire_detached(Duration::from_secs(3600), &options).await?;
    client.shutdown(Duration::from_secs(5)).await;
    Ok(Handed { key: held.key.as_str().to_owned(), token: held.token.get() })
}

async fn last_step(store: &str, handed: &Handed) -> fencepost::Result<bool> {
    let client = Registry::new().connect(store).await?;
    client.release_detached(&handed.key, FencingToken::new(handed.token)?).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let place = TempDir::new()?;
    let store = format!("file://{}/locks", place.path().display());

    let handed = first_step(&store).await?;
    println!("first step: holds {:?} under token {}, and ends", handed.key, handed.token);

    let somebody = Registry::new().connect(&store).await?;
    let state = somebody.inspect("deploy").await?;
    if let Some(note) = state.holders.first().and_then(|holder| holder.note.as_ref()) {
        println!("somebody who looks: held, {:?}", note.as_str());
    }
    println!("last step: released is {}", last_step(&store, &handed).await?);
    println!("once more: released is {}", last_step(&store, &handed).await?);
    Ok(())
}
