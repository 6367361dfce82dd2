//! A counter that only its lock protects: read, increment, write, with room in between for another to get in.

use std::path::Path;

use lock_core::{Error, LockClient, Result};
use tokio::task::JoinSet;

/// Increments the number in a file, many times by many tasks; says how many times, or what was wrong.
///
/// The file holds the number and whoever is inside at the moment: nobody may ever be found there.
pub(crate) async fn count(
    client: &LockClient,
    key: &str,
    file: &Path,
    tasks: usize,
    times: usize,
) -> Result<String> {
    let lock = client.mutex(key)?;
    let mut working = JoinSet::new();
    for task in 0..tasks {
        let (lock, file) = (lock.clone(), file.to_owned());
        working.spawn(async move {
            let me = format!("{}-{task}", std::process::id());
            for _ in 0..times {
                let guard = lock.acquire().await?;
                increment(&file, &me).await?;
                guard.release().await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(worked) = working.join_next().await {
        worked.map_err(|panic| Error::invalid(format!("a task panicked: {panic}")))??;
    }
    Ok(format!("counted {}", tasks * times))
}

async fn increment(file: &Path, me: &str) -> Result<()> {
    let text = read(file)?;
    let (number, inside) = text.split_once(' ').unwrap_or((&text, ""));
    if !inside.is_empty() {
        return Err(Error::invalid(format!("two are inside at once: {me} found {inside}")));
    }
    let number: u64 = number.parse().map_err(|_| Error::invalid(format!("{text:?} is no number")))?;
    write(file, &format!("{number} {me}"))?;
    tokio::task::yield_now().await;
    let text = read(file)?;
    if text != format!("{number} {me}") {
        return Err(Error::invalid(format!("two are inside at once: {me} found {text:?}")));
    }
    write(file, &format!("{} ", number + 1))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Error::invalid(format!("{}: {error}", file.display())))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Error::invalid(format!("{}: {error}", file.display())))
}
