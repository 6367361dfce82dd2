//! [`Claimant`]: the proof of a grant, and [`stands`], for writes to etcd that commit only while it stands.

use etcd_client::{Compare, CompareOp};
use lock_core::{Guard, Result};

/// A grant's own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    pub(crate) name: String,
    pub(crate) revision: i64,
}

/// What a transaction of the caller's own compares, so that it commits only while the guard's claim stands.
///
/// ```no_run
/// # async fn example(guard: &lock_core::Guard, mut kv: lock_etcd::etcd_client::KvClient)
/// #     -> Result<(), Box<dyn std::error::Error>> {
/// use lock_etcd::etcd_client::{Txn, TxnOp};
///
/// let transfer = Txn::new()
///     .when([lock_etcd::stands(guard)?])
///     .and_then([TxnOp::put("accounts/41", "0", None), TxnOp::put("accounts/42", "100", None)]);
/// if !kv.txn(transfer).await?.succeeded() {
///     // The lock is over, and nothing was written.
/// }
/// # Ok(())
/// # }
/// ```
///
/// The claim's key lies under the lock's root, and was created at a revision that no other key ever has: that is compared. It
/// is gone once the hold is released, ended by force or over with its lease, and a successor is granted the lock only after
/// that. So the transaction is exactly as strong as the lock, whatever this process believes or how late the request arrives;
/// nobody keeps a mark for it, and whoever writes later is not asked for one. Beside it, other compares say what they always say.
///
/// The data have to be in the same cluster as the lock, and the driver's client without a namespace of its own: elsewhere there
/// is no such key, and nothing commits. An account has to be allowed to read under the lock's root. For data in another
/// cluster, and for writes on behalf of a guard that is elsewhere, there is [`FencedWrites`](crate::FencedWrites).
///
/// # Errors
/// [`WrongBackend`](lock_core::ErrorKind::WrongBackend) for a guard of another store.
pub fn stands(guard: &Guard) -> Result<Compare> {
    let claimant: &Claimant = guard.grant().proof()?;
    Ok(Compare::create_revision(claimant.name.as_str(), CompareOp::Equal, claimant.revision))
}
