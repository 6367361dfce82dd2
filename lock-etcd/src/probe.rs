//! The probe: versions of the server under which a lock can be lost.

use lock_core::{Finding, Result, Severity};

use crate::link::Link;

/// What the server says of itself. (Whether it was started with `--unsafe-no-fsync` it does not say.)
pub(crate) async fn probe(link: &Link) -> Result<Vec<Finding>> {
    let status = link.status().await?;
    Ok(version(status.version()).into_iter().collect())
}

fn version(text: &str) -> Option<Finding> {
    let numbers: Vec<u32> = text.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let [major, minor, patch, ..] = numbers[..] else {
        return Some(Finding::new(
            Severity::Unknown,
            "server version",
            format!(
                "{text:?} is no version that is known here: whoever operates it has to assert that it is 3.5.14 or later"
            ),
        ));
    };
    let bad = |why: &str| Some(Finding::new(Severity::Unsafe, "server version", format!("{text}: {why}")));
    match (major, minor, patch) {
        (0..3, ..) | (3, 0..4, _) => bad("it has to be 3.4 or later"),
        (3, 5, 0..3) => bad(
            "members may disagree about the data after a crash (etcd issue 13766): update to 3.5.14 or later",
        ),
        (3, 4, 0..31) | (3, 5, 3..13) => bad(
            "a leader that was stuck may revoke leases that were renewed at its successor (etcd issue 15247), and a crash during a \
             compaction may set the revision back, and with it the tokens (etcd issue 17780): update to 3.4.32, 3.5.14 or later",
        ),
        (3, 4, 31) | (3, 5, 13) => bad(
            "a crash during a compaction may set the revision back, and with it the tokens (etcd issue 17780): update to 3.4.32, \
             3.5.14 or later",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_leases_are_named() {
        for unsafe_one in ["3.4.23", "3.4.31", "3.5.0", "3.5.13", "3.3.9"] {
            assert_eq!(
                version(unsafe_one).map(|found| found.severity),
                Some(Severity::Unsafe),
                "{unsafe_one}"
            );
        }
        for safe in ["3.4.32", "3.5.14", "3.6.0", "3.6.0-rc.1"] {
            assert_eq!(version(safe), None, "{safe}");
        }
        assert_eq!(version("next").map(|found| found.severity), Some(Severity::Unknown));
    }
}
