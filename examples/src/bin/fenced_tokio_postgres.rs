//! The same by SQL alone, which any driver in any language can say: `fencepost.fence` for data that lie beside the lock, and
//! `fencepost.check_fence` for a lock of any store.
//!
//! ```sh
//! cargo run -p fencepost-examples --bin fenced_tokio_postgres                          # starts a server of its own
//! DATABASE_URL=postgres://localhost/app cargo run -p fencepost-examples --bin fenced_tokio_postgres
//! ```
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;

use fencepost_examples::Postgres;
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Postgres::of_the_environment().await?;
    let locks = fencepost::connect(server.url()).await?;
    let (mut data, connection) = tokio_postgres::connect(server.url(), NoTls).await?;
    tokio::spawn(connection);
    data.batch_execute("CREATE TABLE IF NOT EXISTS report (day date PRIMARY KEY, lines int)").await?;

    let guard = locks.mutex("reports/today")?.acquire().await?;
    let token = i64::try_from(guard.token().get())?;

    // Beside the lock: the transaction commits while the hold stands, or not at all.
    let transaction = data.transaction().await?;
    transaction.execute("SELECT fencepost.fence($1, $2)", &[&"reports/today", &token]).await?;
    transaction.execute("INSERT INTO report VALUES (now(), 1) ON CONFLICT DO NOTHING", &[]).await?;
    transaction.commit().await?;
    println!("written while the lock stood, token {token}");
    guard.release().await?;

    // A lock of any store: the table remembers the latest token, and rejects what comes behind it.
    let elsewhere = fencepost::connect("memory:").await?;
    let (early, late) = (successive(&elsewhere).await?, successive(&elsewhere).await?);
    for (who, token) in [("the later one", late), ("the earlier one", early)] {
        let transaction = data.transaction().await?;
        let admitted =
            transaction.execute("SELECT fencepost.check_fence('report', 'exclusive', $1)", &[&token]).await;
        match admitted {
            Ok(_) => {
                transaction.execute("UPDATE report SET lines = lines + 1", &[]).await?;
                transaction.commit().await?;
                println!("{who} was admitted: token {token}");
            }
            Err(error) => {
                let stale = error.code().is_some_and(|code| code.code() == "FP002");
                println!("{who} was refused: {}", error.as_db_error().map_or("?", |error| error.message()));
                if !stale || who == "the later one" {
                    return Err(error.into());
                }
            }
        }
    }
    Ok(())
}

/// The token of one hold after another.
async fn successive(locks: &fencepost::LockClient) -> Result<i64, Box<dyn Error>> {
    let guard = locks.mutex("reports/today")?.acquire().await?;
    let token = i64::try_from(guard.token().get())?;
    guard.release().await?;
    Ok(token)
}
