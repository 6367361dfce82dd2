//! Data in Postgres that commit with their lock: a writer that was paused commits nothing.
//!
//! ```sh
//! cargo run -p fencepost-examples --bin fenced_sqlx                                    # starts a server of its own
//! DATABASE_URL=postgres://localhost/app cargo run -p fencepost-examples --bin fenced_sqlx
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use fencepost::LockGuard;
use fencepost::postgres::fence;
use fencepost::postgres::sqlx::{Connection, PgConnection, query};
use fencepost_examples::Postgres;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Postgres::of_the_environment().await?;
    let client = fencepost::connect(server.url()).await?;
    let mut data = PgConnection::connect(server.url()).await?;
    query("CREATE TABLE IF NOT EXISTS account (id int PRIMARY KEY, balance int)").execute(&mut data).await?;
    let lock = client.mutex("accounts/42")?;

    let paused = lock.acquire().await?;
    // It stops here, for longer than its lease. Ending its hold by force stands for that.
    client.force_release("accounts/42", None).await?;

    let successor = lock.acquire().await?;
    set_balance(&mut data, &successor, 100).await?;
    println!("the successor wrote under token {}", successor.token());

    match set_balance(&mut data, &paused, 0).await {
        Err(refusal) => println!("the paused writer was refused: {refusal}"),
        Ok(()) => return Err("the late write was committed".into()),
    }
    successor.release().await?;
    Ok(())
}

/// Commits only while the hold stands, and nobody else is granted the lock before it has.
async fn set_balance(
    data: &mut PgConnection,
    guard: &dyn LockGuard,
    balance: i32,
) -> Result<(), Box<dyn Error>> {
    let mut transaction = data.begin().await?;
    fence(&mut transaction, guard).await?;
    query("INSERT INTO account VALUES (42, $1) ON CONFLICT (id) DO UPDATE SET balance = $1")
        .bind(balance)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
