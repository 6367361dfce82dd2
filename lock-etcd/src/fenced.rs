//! [`FencedWrites`]: writes to etcd that a stale token does not pass.

use etcd_client::{Compare, CompareOp, Error as Driver, KvClient, Txn, TxnOp, TxnOpResponse, TxnResponse};
use lock_core::{Error, ErrorKind, FencingToken, Guard, Mode, Refused, Result};

use crate::failure::{failed, unexpected};

/// A resource in etcd that checks tokens: one fence, and the writes behind it.
///
/// ```no_run
/// # async fn example(guard: &lock_core::Guard, mut kv: lock_etcd::etcd_client::KvClient)
/// #     -> Result<(), lock_etcd::Refused> {
/// use lock_etcd::FencedWrites;
/// use lock_etcd::etcd_client::TxnOp;
///
/// let accounts = FencedWrites::new("accounts/fence");
/// accounts.write(&mut kv, guard, [TxnOp::put("accounts/42", "100", None)]).await?;
/// # Ok(())
/// # }
/// ```
///
/// The fence is two keys, `NAME/highest` and `NAME/exclusive`, each with `token` and sixteen digits as its value. They and the
/// writes change in one transaction, in the cluster of the data, whichever store granted the lock. An account has to be allowed
/// to read and write both. They never expire: deleting them admits everybody. Whoever writes without them is not checked.
///
/// Of the 128 operations that etcd allows in a transaction (`--max-txn-ops`) the fence takes eight. No operation of the caller's
/// may write its keys, nor two of them one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedWrites {
    highest: String,
    exclusive: String,
}

impl FencedWrites {
    /// Writes behind the fence of this name.
    pub fn new(fence: impl AsRef<str>) -> FencedWrites {
        let fence = fence.as_ref();
        FencedWrites { highest: format!("{fence}/highest"), exclusive: format!("{fence}/exclusive") }
    }

    /// Does all of these, unless the guard's token is stale: then none. Answers come in the order of the operations.
    ///
    /// Without any it is an admission alone, after which no predecessor writes any more.
    ///
    /// # Errors
    /// [`Refused::Stale`]; or [`Refused::Failed`], after which [`took_effect`](Error::took_effect) says whether the write may have
    /// happened. It may have where no answer came. What etcd refuses it does not do, neither in part:
    /// [`InvalidInput`](ErrorKind::InvalidInput) where it refuses the operations, in its words.
    /// [`Damaged`](ErrorKind::Damaged) where something else lies under the fence's keys; nothing is changed then.
    ///
    /// # Cancel Safety
    /// Dropped, the write may still happen.
    pub async fn write(
        &self,
        kv: &mut KvClient,
        guard: &Guard,
        operations: impl Into<Vec<TxnOp>>,
    ) -> Result<Vec<TxnOpResponse>, Refused> {
        self.write_as(kv, guard.mode(), guard.token(), operations).await
    }

    /// Does all of these, unless this token is stale: for tokens that travelled.
    ///
    /// # Errors
    /// As [`write`](FencedWrites::write).
    ///
    /// # Cancel Safety
    /// Dropped, the write may still happen.
    pub async fn write_as(
        &self,
        kv: &mut KvClient,
        mode: Mode,
        token: FencingToken,
        operations: impl Into<Vec<TxnOp>>,
    ) -> Result<Vec<TxnOpResponse>, Refused> {
        let objections = self.objections(mode, token.get());
        let mut all = self.marks(mode, token.get());
        let marks = all.len();
        all.extend(operations.into());
        let answer =
            kv.txn(unless(&objections, all)).await.map_err(|error| Refused::Failed(explained(error)))?;
        let mut answers = match judged(answer, &objections).map_err(Refused::Failed)? {
            Judged::Written(answers) => answers,
            Judged::Against { admitted } => return Err(Refused::Stale { token, admitted }),
        };
        if answers.len() < marks {
            return Err(Refused::Failed(unexpected("a fenced write")));
        }
        Ok(answers.split_off(marks))
    }

    /// What speaks against a write: a later token, or what does not even look like a mark. Each of them is false for a key that is not there, so that
    /// a first write needs nothing of its own.
    fn objections(&self, mode: Mode, token: u64) -> Vec<Objection<'_>> {
        let above = |key, number| Objection { key, order: CompareOp::Greater, value: mark(number) };
        let below_all = |key| Objection { key, order: CompareOp::Less, value: mark(0) };
        let (highest, exclusive) = (self.highest.as_str(), self.exclusive.as_str());
        let (first, second) = match mode {
            // The second is for a fence that lost its first key: its own are in this order.
            Mode::Exclusive => (above(highest, token), above(exclusive, token)),
            // A token is 1 at least. One equal to the exclusive mark was an exclusive grant's.
            _ => (above(exclusive, token.saturating_sub(1)), above(highest, FencingToken::MAX.get())),
        };
        vec![first, second, below_all(highest), below_all(exclusive)]
    }

    /// The operations by which the token is remembered. In either mode etcd takes both keys for written, so that it refuses
    /// operations of the caller's that write them.
    fn marks(&self, mode: Mode, token: u64) -> Vec<TxnOp> {
        let put = |key: &str, number| TxnOp::put(key, mark(number), None);
        if mode == Mode::Exclusive {
            return vec![put(&self.highest, token), put(&self.exclusive, token)];
        }
        let is_higher = Compare::value(self.highest.as_str(), CompareOp::Greater, mark(token));
        let is_missing = Compare::create_revision(self.exclusive.as_str(), CompareOp::Equal, 0);
        vec![
            TxnOp::txn(Txn::new().when([is_higher]).or_else([put(&self.highest, token)])),
            TxnOp::txn(Txn::new().when([is_missing]).and_then([put(&self.exclusive, 0)])),
        ]
    }
}

/// A comparison that is to be false.
struct Objection<'a> {
    key: &'a str,
    order: CompareOp,
    value: String,
}

/// etcd knows "and" and "otherwise", and no "or": what is to be done when none of several is true stands behind each one's
/// "otherwise", one inside the other. The one that was true has its key read.
fn unless(objections: &[Objection<'_>], operations: Vec<TxnOp>) -> Txn {
    let Some((first, rest)) = objections.split_first() else { return Txn::new().and_then(operations) };
    let otherwise = if rest.is_empty() { operations } else { vec![TxnOp::txn(unless(rest, operations))] };
    Txn::new()
        .when([Compare::value(first.key, first.order, first.value.as_str())])
        .and_then([TxnOp::get(first.key, None)])
        .or_else(otherwise)
}

enum Judged {
    Written(Vec<TxnOpResponse>),
    Against { admitted: u64 },
}

/// Follows the answer to where the transaction went.
fn judged(mut answer: TxnResponse, objections: &[Objection<'_>]) -> Result<Judged> {
    for (index, objection) in objections.iter().enumerate() {
        let mut answers = answer.op_responses();
        if answer.succeeded() {
            let Some(TxnOpResponse::Get(got)) = answers.first() else { break };
            let value = got.kvs().first().map(etcd_client::KeyValue::value);
            let admitted = value.and_then(marked).ok_or_else(|| damaged(objection.key))?;
            return Ok(Judged::Against { admitted });
        }
        if index + 1 == objections.len() {
            return Ok(Judged::Written(answers));
        }
        let Some(TxnOpResponse::Txn(next)) = answers.pop() else { break };
        answer = next;
    }
    Err(unexpected("a fenced write"))
}

const WORD: &str = "token ";
/// Enough for the largest token.
const DIGITS: usize = 16;

/// The mark for a token: etcd compares values byte by byte, so all are of one length. Its word tells it from other values.
fn mark(token: u64) -> String {
    format!("{WORD}{token:0DIGITS$}")
}

fn marked(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?.strip_prefix(WORD)?;
    let is_whole = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|token| is_whole && *token <= FencingToken::MAX.get())
}

fn damaged(key: &str) -> Error {
    Error::new(
        ErrorKind::Damaged,
        format!(
            "what lies under {key:?} is no mark of a fence: give the fence a name that nothing else writes under"
        ),
    )
}

/// What the server says of the caller's operations is the caller's; the rest is said as for any other call.
fn explained(error: Driver) -> Error {
    let Driver::GRpcStatus(status) = &error else { return failed(error) };
    let said = status.message();
    let advice = if said.contains("duplicate key given in txn request") {
        "two operations write one key, or one of them a key of the fence's"
    } else if said.contains("too many operations in txn request") {
        "write less at once, or raise --max-txn-ops"
    } else if said.contains("request is too large") {
        "write less at once, or raise --max-request-bytes"
    } else if said.contains("requested lease not found") {
        "an operation names a lease that is over"
    } else if is_of_an_argument(status.code() as i32)
        && said.starts_with("etcdserver:")
        && !said.contains("auth")
    {
        "one of the operations cannot be"
    } else {
        return failed(error);
    };
    Error::invalid(format!("{error}; {advice}")).caused_by(error)
}

/// `InvalidArgument`, `NotFound` or `OutOfRange`. etcd looks at all operations before it does the first.
fn is_of_an_argument(code: i32) -> bool {
    matches!(code, 3 | 5 | 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_in_the_order_of_their_tokens_and_read_back() {
        let tokens = [0, 1, 9, 10, 99, 100, 1 << 40, FencingToken::MAX.get()];
        for (lower, higher) in tokens.iter().zip(&tokens[1..]) {
            assert!(mark(*lower) < mark(*higher), "{lower} {higher}");
        }
        for token in tokens {
            assert_eq!(marked(mark(token).as_bytes()), Some(token));
        }
        for wrong in [
            "",
            "7",
            "token 7",
            "token +000000000000007",
            "token 00000000000000007",
            "token 9999999999999999",
        ] {
            assert_eq!(marked(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
