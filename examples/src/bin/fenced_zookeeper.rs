//! Data in ZooKeeper that only the holder writes: a writer that was paused cannot overwrite its successor's work.
//!
//! ```sh
//! cargo run -p fencepost-examples --bin fenced_zookeeper                               # starts a server of its own
//! ZOOKEEPER_URL=zookeeper://localhost cargo run -p fencepost-examples --bin fenced_zookeeper
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use fencepost::zookeeper::stands;
use fencepost::zookeeper::zookeeper_client::{Acls, CheckWriteError, Client, CreateMode};
use fencepost_examples::ZooKeeper;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = ZooKeeper::of_the_environment().await?;
    let client = fencepost::connect(server.url()).await?;
    let data = Client::connect(&server.servers()?).await?;
    for account in ["/accounts/41", "/accounts/42"] {
        data.mkdir(account, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
    }
    let lock = client.mutex("accounts/42")?;

    let paused = lock.acquire().await?;
    // It stops here, for longer than its lease. Ending its hold by force stands for that.
    client.force_release("accounts/42", None).await?;

    let successor = lock.acquire().await?;
    let mut transfer = data.new_check_writer(stands(&successor)?, None)?;
    transfer.add_set_data("/accounts/41", b"0", None)?;
    transfer.add_set_data("/accounts/42", b"100", None)?;
    transfer.commit().await?;
    println!("the successor wrote while its claim stood");

    let mut reset = data.new_check_writer(stands(&paused)?, None)?;
    reset.add_set_data("/accounts/42", b"0", None)?;
    match reset.commit().await {
        Err(CheckWriteError::CheckFailed { .. }) => {
            println!("the paused writer's multi was not committed: its claim is gone");
        }
        other => return Err(format!("the late write was not refused: {other:?}").into()),
    }
    let (balance, _) = data.get_data("/accounts/42").await?;
    println!("the account has {}", String::from_utf8_lossy(&balance));
    successor.release().await?;
    Ok(())
}
