//! [`stands`]: the node of a grant, for writes to ZooKeeper that commit only while it is there.

use lock_core::{Guard, Result};

/// A grant's own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    pub(crate) path: String,
}

/// The path of the guard's claim, for a `check` in a multi of the caller's own, which then commits only while that claim stands.
///
/// ```no_run
/// # async fn example(guard: &lock_core::Guard, zk: lock_zookeeper::zookeeper_client::Client)
/// #     -> Result<(), Box<dyn std::error::Error>> {
/// use lock_zookeeper::zookeeper_client::CheckWriteError;
///
/// let mut transfer = zk.new_check_writer(lock_zookeeper::stands(guard)?, None)?;
/// transfer.add_set_data("/accounts/41", b"0", None)?;
/// transfer.add_set_data("/accounts/42", b"100", None)?;
/// match transfer.commit().await {
///     Err(CheckWriteError::CheckFailed { .. }) => { /* The lock is over, and nothing was written. */ }
///     written => drop(written?),
/// }
/// # Ok(())
/// # }
/// ```
///
/// The node is one that no other claim ever has the name of. It is gone once the hold is released, ended by force or over with
/// its session, and a successor is granted the lock only after that. So the multi is exactly as strong as the lock, whatever this
/// process believes or how late the request arrives; nobody keeps a mark for it, and whoever writes later is not asked for one.
///
/// The data have to be in the same ensemble as the lock, and the client without a chroot: elsewhere there is no such node, and
/// nothing commits. Its account has to be allowed to read under the lock's root.
///
/// # Errors
/// [`WrongBackend`](lock_core::ErrorKind::WrongBackend) for a guard of another store.
pub fn stands(guard: &Guard) -> Result<&str> {
    let claimant: &Claimant = guard.grant().proof()?;
    Ok(&claimant.path)
}
