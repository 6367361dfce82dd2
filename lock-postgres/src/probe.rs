//! The probe: settings of the server under which a lock can be lost.

use lock_core::{Finding, Result, Severity};
use sqlx::Row;

use crate::failure::failed;
use crate::line::query;
use crate::store::Store;

/// What the server says of itself.
pub(crate) async fn probe(store: &Store) -> Result<Vec<Finding>> {
    let rows = store.query(query!(store.dial.schema.settings)).await?;
    let mut findings = Vec::new();
    for row in &rows {
        let (name, value): (String, Option<String>) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        findings.extend(judge(&name, value.as_deref()));
    }
    Ok(findings)
}

fn judge(name: &str, value: Option<&str>) -> Option<Finding> {
    let message = match (name, value) {
        (_, None) => {
            return Some(Finding::new(
                Severity::Unknown,
                name,
                "this role may not see it: somebody has to look",
            ));
        }
        ("fsync", Some("off")) => {
            "it is off: when the machine loses power, the database may be damaged and grants forgotten: set it to on"
        }
        ("full_page_writes", Some("off")) => {
            "it is off: when the machine loses power, the database may be damaged: set it to on"
        }
        ("synchronous_commit", Some("off")) => {
            "it is off for this role: grants that were acknowledged may be forgotten when the server crashes: set it to on"
        }
        ("asynchronous standbys", Some(count)) if count != "0" => {
            "there are standbys that may lack the latest grants: one that is promoted may grant a lock that is held. Name them in \
             synchronous_standby_names, or rely on fencing tokens"
        }
        ("persistence", Some("u" | "t")) => {
            "the tables are unlogged: a crash of the server empties them: ALTER TABLE … SET LOGGED"
        }
        _ => return None,
    };
    Some(Finding::new(Severity::Unsafe, name, message))
}
