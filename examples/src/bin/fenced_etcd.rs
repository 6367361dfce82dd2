//! Data in etcd behind a fence: a writer that was paused cannot overwrite its successor's work.
//!
//! ```sh
//! cargo run -p fencepost-examples --bin fenced_etcd                                    # starts a server of its own
//! ETCD_URL=etcd://localhost cargo run -p fencepost-examples --bin fenced_etcd
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use fencepost::etcd::etcd_client::{Client, Txn, TxnOp};
use fencepost::etcd::{FencedWrites, Refused, stands};
use fencepost_examples::Etcd;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Etcd::of_the_environment().await?;
    let client = fencepost::connect(server.url()).await?;
    let mut data = Client::connect(server.endpoints()?, None).await?.kv_client();
    let lock = client.mutex("accounts/42")?;

    let paused = lock.acquire().await?;
    // It stops here, for longer than its lease. Ending its hold by force stands for that.
    client.force_release("accounts/42", None).await?;

    let successor = lock.acquire().await?;

    // The data are beside the lock: a transaction that commits only while its claim stands.
    let transfer =
        [TxnOp::put("accounts/41/balance", "0", None), TxnOp::put("accounts/42/balance", "100", None)];
    let written = data.txn(Txn::new().when([stands(&successor)?]).and_then(transfer)).await?;
    if !written.succeeded() {
        return Err("the successor lost its lock".into());
    }
    println!("the successor wrote while its claim stood");

    let reset = [TxnOp::put("accounts/42/balance", "0", None)];
    let late = data.txn(Txn::new().when([stands(&paused)?]).and_then(reset.clone())).await?;
    if late.succeeded() {
        return Err("the late transaction was committed".into());
    }
    println!("the paused writer's transaction was not committed: its claim is gone");

    // The data may be in another cluster, and the lock in any store: a fence beside them.
    let account = FencedWrites::new("accounts/42/fence");
    let deposit = [TxnOp::put("accounts/42/balance", "200", None)];
    account.write(&mut data, &successor, deposit).await?;
    println!("the successor wrote under token {}", successor.token());

    match account.write(&mut data, &paused, reset).await {
        Err(Refused::Stale { token, admitted }) => {
            println!("the paused writer was refused: {token} after {admitted}");
        }
        other => return Err(format!("the late write was not refused: {other:?}").into()),
    }
    successor.release().await?;
    Ok(())
}
