//! Data in Redis behind a fence: a writer that was paused cannot overwrite its successor's work.
//!
//! ```sh
//! cargo run -p fencepost-examples --bin fenced_redis                                    # starts a server of its own
//! REDIS_URL=redis://localhost cargo run -p fencepost-examples --bin fenced_redis
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use fencepost::redis::{FencedWrites, Refused, redis};
use fencepost_examples::Redis;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Redis::of_the_environment().await?;
    let client = fencepost::connect(server.url()).await?;
    let mut data = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let lock = client.mutex("accounts/42")?;
    let account = FencedWrites::new("{account:42}:fence");

    let paused = lock.acquire().await?;
    // It stops here, for longer than its lease. Ending its hold by force stands for that.
    client.force_release("accounts/42", None).await?;

    let successor = lock.acquire().await?;
    let deposit = redis::cmd("INCRBY").arg("{account:42}:balance").arg(100).take();
    account.write(&mut data, &successor, &["{account:42}:balance"], &deposit).await?;
    println!("the successor wrote under token {}", successor.token());

    let late = redis::cmd("SET").arg("{account:42}:balance").arg(0).take();
    match account.write(&mut data, &paused, &["{account:42}:balance"], &late).await {
        Err(Refused::Stale { token, admitted }) => {
            println!("the paused writer was refused: {token} after {admitted}");
        }
        other => return Err(format!("the late write was not refused: {other:?}").into()),
    }
    successor.release().await?;
    Ok(())
}
