//! [`Claimant`]: the proof of a grant, for writes to etcd that commit only while it stands.

use etcd_client::Compare;

use crate::claim::is_made_at;

/// A grant's own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    pub(crate) name: String,
    pub(crate) revision: i64,
}

/// A compare that holds for as long as the guard's claim stands: with it, a transaction of the caller's own commits only then.
///
/// # Errors
/// A guard of another store.
pub fn stands(guard: &lock_core::Guard) -> lock_core::Result<Compare> {
    let claimant: &Claimant = guard.grant().proof()?;
    Ok(is_made_at(&claimant.name, claimant.revision))
}
