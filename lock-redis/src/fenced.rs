//! [`FencedWrites`]: writes to Redis that a stale token does not pass.

use lock_core::{Error, FencingToken, Guard, Mode, Refused, Result};
use redis::aio::ConnectionLike;
use redis::{Cmd, Value};

use crate::failure::{failed, unexpected};
use crate::{reply, scripts};

/// The script by which [`FencedWrites`] writes, for use from any language.
///
/// `KEYS`: the fence, then every key of the command. `ARGV`: `exclusive` or `shared`, the token, then the command, word by
/// word. It returns `{1, reply}`, or `{0, token}` with the later token that was admitted before.
pub const FENCED_WRITE: &str = include_str!("scripts/fenced.lua");

/// More would not fit on a script's stack.
const LONGEST_COMMAND: usize = 7_000;

/// A resource in Redis that checks tokens: one fence, and the writes behind it.
///
/// ```no_run
/// # async fn example(guard: &lock_core::Guard, mut connection: lock_redis::redis::aio::MultiplexedConnection)
/// #     -> Result<(), lock_redis::Refused> {
/// use lock_redis::{FencedWrites, redis};
///
/// let accounts = FencedWrites::new("{accounts}:fence");
/// accounts
///     .write(&mut connection, guard, &["{accounts}:42"], redis::cmd("SET").arg("{accounts}:42").arg(100))
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// A command has at most 7,000 words. Its reply comes as a script sees it: whole numbers above 2^53 are rounded, maps are flat
/// lists.
///
/// The fence is a hash under a key of the caller's choice; it and the write change in one step, on the same server as the data,
/// whichever store granted the lock. In a cluster all keys need one hash tag. It never expires: deleting it admits everybody.
/// Whoever writes without it is not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedWrites {
    fence: String,
}

impl FencedWrites {
    /// Writes behind the fence of this name.
    pub fn new(fence: impl Into<String>) -> FencedWrites {
        FencedWrites { fence: fence.into() }
    }

    /// Runs one command, unless the guard's token is stale.
    ///
    /// `keys` are those of the command, as Redis wants them declared.
    ///
    /// # Errors
    /// [`Refused::Stale`], or [`Refused::Failed`] as the driver and the server say.
    ///
    /// # Cancel Safety
    /// Dropped, the write may still happen.
    pub async fn write(
        &self,
        connection: &mut impl ConnectionLike,
        guard: &Guard,
        keys: &[&str],
        command: &Cmd,
    ) -> Result<Value, Refused> {
        self.write_as(connection, guard.mode(), guard.token(), keys, command).await
    }

    /// Runs one command, unless this token is stale: for tokens that travelled.
    ///
    /// # Errors
    /// As [`write`](FencedWrites::write).
    ///
    /// # Cancel Safety
    /// Dropped, the write may still happen.
    pub async fn write_as(
        &self,
        connection: &mut impl ConnectionLike,
        mode: Mode,
        token: FencingToken,
        keys: &[&str],
        command: &Cmd,
    ) -> Result<Value, Refused> {
        let mut words = Vec::new();
        for word in command.args_iter() {
            match word {
                redis::Arg::Simple(bytes) => words.push(bytes),
                _ => return Err(Refused::Failed(Error::invalid("a fenced command has no cursor"))),
            }
        }
        if words.is_empty() || words.len() > LONGEST_COMMAND {
            let count = words.len();
            return Err(Refused::Failed(Error::invalid(format!(
                "a fenced command has 1 to {LONGEST_COMMAND} words, this one has {count}"
            ))));
        }
        let arguments = |call: &mut Cmd| {
            let kind = if mode == Mode::Exclusive { "exclusive" } else { "shared" };
            call.arg(keys.len() + 1).arg(&self.fence).arg(keys).arg(kind).arg(token.get());
            words.iter().for_each(|word| {
                call.arg(*word);
            });
        };
        let mut answer = send(connection, &scripts::FENCED.by_hash(arguments)).await;
        if answer.as_ref().is_err_and(|error| error.kind() == redis::ServerErrorKind::NoScript.into()) {
            answer = send(connection, &scripts::FENCED.by_code(arguments)).await;
        }
        let answer = answer.map_err(|error| Refused::Failed(failed(error)))?;
        let wrong = || Refused::Failed(unexpected("a fenced write", &answer));
        let Value::Array(parts) = &answer else { return Err(wrong()) };
        match parts.first() {
            // A reply of nil ends the array.
            Some(Value::Int(1)) => Ok(parts.get(1).cloned().unwrap_or(Value::Nil)),
            Some(Value::Int(0)) => {
                let admitted = parts.get(1).and_then(reply::number).ok_or_else(wrong)?;
                Err(Refused::Stale { token, admitted })
            }
            _ => Err(wrong()),
        }
    }
}

async fn send(connection: &mut impl ConnectionLike, command: &Cmd) -> redis::RedisResult<Value> {
    connection.req_packed_command(command).await?.extract_error()
}
