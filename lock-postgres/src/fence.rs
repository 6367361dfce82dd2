//! [`fence`]: a transaction that commits only while a hold stands.

use lock_core::{Error, LockGuard, Reason, Result};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::failure::{code, failed};
use crate::session::Fenced;

/// Makes sure that a hold stands, and that it does until the end of this transaction: what the transaction writes and the lock
/// commit together, or neither does.
///
/// ```no_run
/// # async fn example(guard: &dyn lock_core::LockGuard, pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// lock_postgres::fence(&mut transaction, guard).await?;
/// sqlx::query("UPDATE account SET balance = balance - 10 WHERE id = 7").execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// Nobody else is granted the lock before the transaction has ended, also where the lease is over meanwhile: keep it short, and
/// commit it before the lock is released. The transaction is one of the database that keeps the lock, in isolation level READ
/// COMMITTED. In SQL, and so for any driver: `SELECT fencepost.fence('key', token)`.
///
/// # Errors
/// [`SessionLost`](lock_core::ErrorKind::SessionLost) where the hold does not stand any more, and nothing must be written on its behalf;
/// [`WrongBackend`](lock_core::ErrorKind::WrongBackend) for a guard of another store; [`InvalidInput`](lock_core::ErrorKind::InvalidInput)
/// outside a transaction; what the server says otherwise. After an error the
/// transaction can only be rolled back.
///
/// # Cancel Safety
/// A fence whose future was dropped may stand or not: roll the transaction back.
pub async fn fence(transaction: &mut PgConnection, guard: &dyn LockGuard) -> Result<()> {
    let Fenced { statement, key, token } = guard.grant().proof()?;
    if !transaction.is_in_transaction() {
        return Err(Error::invalid(
            "the connection is in no transaction: a fence there would be over with its own statement. Begin one, fence, write, commit",
        )
        .on(guard.key()));
    }
    let token = i64::try_from(token.get()).unwrap_or(i64::MAX);
    let fenced =
        sqlx::query(AssertSqlSafe(statement.clone())).bind(key).bind(token).execute(transaction).await;
    match fenced {
        Ok(_) => Ok(()),
        Err(error) => Err(match code(&error).as_deref() {
            Some("FP001") => Error::session_lost(Reason::Forgotten).caused_by(error),
            _ => failed(error),
        }
        .on(guard.key())),
    }
}
