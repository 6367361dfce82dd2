//! The probe: who may end a lock, and what the servers say of themselves.

use std::time::Duration;

use lock_core::{Finding, Result, Severity, SystemClock, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acl, Error as Driver, Permission};

use crate::dial::Dial;
use crate::failure::failed;
use crate::link::Link;
use crate::names::Names;
use crate::options::Access;

/// For what a server says of itself.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) async fn probe(link: &Link, names: &Names) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = access(link, names).await?.into_iter().collect();
    findings.extend(tick(link.dial()).await?);
    for endpoint in link.dial().endpoints() {
        findings.extend(match said(link.dial(), endpoint).await {
            Some(said) => version(endpoint, &said),
            None => Some(Finding::new(
                Severity::Unknown,
                "server version",
                format!("{endpoint} does not say it (srvr): whoever operates it has to assert that it is 3.6 or later"),
            )),
        });
    }
    Ok(findings)
}

/// Whoever may delete nodes may end every lock.
async fn access(link: &Link, names: &Names) -> Result<Option<Finding>> {
    let open = |what: String| {
        let message = format!(
            "{what} is open to everybody who reaches the servers, who can end every lock: use an account, and set the nodes that are \
             there to it (setAcl -R)"
        );
        Some(Finding::new(Severity::Unsafe, "access", message))
    };
    if link.dial().options().access_in_force() == Access::World {
        return Ok(open("what is created".to_owned()));
    }
    for path in names.directories().into_iter().filter(|path| path.starts_with(names.root())) {
        let looked = path.clone();
        let acls = link
            .ask(|client| async move {
                match client.get_acl(&looked).await {
                    Ok((acls, _)) => Ok(acls),
                    // It is made with the first session, or shows nobody to whom it is open.
                    Err(Driver::NoNode | Driver::NoAuth) => Ok(Vec::new()),
                    Err(error) => Err(failed(error)),
                }
            })
            .await?;
        if acls.iter().any(is_open) {
            return Ok(open(path));
        }
    }
    Ok(None)
}

fn is_open(acl: &Acl) -> bool {
    let changes = [Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    acl.scheme() == "world" && changes.iter().any(|change| acl.permission().has(*change))
}

/// The shortest session that servers grant is two of their ticks, unless that is set otherwise.
async fn tick(dial: &Dial) -> Result<Option<Finding>> {
    let tick = dial.options().tick;
    let granted = dial.client(tick * 2).await?.0.session_timeout();
    Ok((granted > tick * 2).then(|| {
        let message = format!(
            "the shortest session that the servers grant is {granted:?}, so their tickTime may be {:?} and not {tick:?}: say it by \
             tick=, or they may end a session while its holder still counts on it",
            granted / 2
        );
        Finding::new(Severity::Unknown, "tickTime", message)
    }))
}

/// What a server answers to `srvr`, which it does to everybody unless it is set otherwise.
async fn said(dial: &Dial, endpoint: &str) -> Option<String> {
    // A port for TLS takes no plain words.
    if dial.options().tls {
        return None;
    }
    let asking = async {
        let mut stream = TcpStream::connect(endpoint).await?;
        stream.write_all(b"srvr").await?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    within(&SystemClock::new(), PATIENCE, asking).await?.ok()
}

fn version(endpoint: &str, said: &str) -> Option<Finding> {
    let of = |severity, why: String| Some(Finding::new(severity, "server version", why));
    let Some(text) = said.lines().find_map(|line| line.strip_prefix("Zookeeper version: ")) else {
        return of(
            Severity::Unknown,
            format!(
                "{endpoint} does not say it (srvr): whoever operates it has to assert that it is 3.6 or later"
            ),
        );
    };
    let numbers: Vec<u32> = text.split(['.', '-', ',']).map_while(|part| part.parse().ok()).collect();
    match numbers[..] {
        [major, minor, ..] if (major, minor) < (3, 6) => {
            of(Severity::Unsafe, format!("{endpoint}: {text}: it has to be 3.6 or later"))
        }
        [3, 9, 3, ..] => of(
            Severity::Unsafe,
            format!(
                "{endpoint}: {text}: what was acknowledged may be lost when a server that was behind comes to lead \
                 (ZOOKEEPER-4925): update to 3.9.4 or later"
            ),
        ),
        [3, ..8, ..] | [3, 8, ..5, ..] | [3, 9, 0 | 1, ..] => of(
            Severity::Unsafe,
            format!(
                "{endpoint}: {text}: what was acknowledged may be lost when a server joins the others (ZOOKEEPER-4785): update to \
                 3.8.5, 3.9.4 or later"
            ),
        ),
        [_, _, ..] => None,
        _ => of(Severity::Unknown, format!("{endpoint}: {text:?} is no version that is known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_too_old_are_named() {
        let found = |text: &str| version("z1", text).map(|found| found.severity);
        for old in ["3.5.9-83df", "3.4.14-1", "3.7.2-x", "3.8.0-5a02", "3.8.4-x", "3.9.1-x", "3.9.3-x"] {
            let said = format!("Zookeeper version: {old}, built on x");
            assert_eq!(found(&said), Some(Severity::Unsafe), "{old}");
        }
        for good in ["3.8.5-5a02", "3.8.6-x", "3.9.4-c", "3.10.0-x", "4.0.0-x"] {
            let said = format!("Zookeeper version: {good}, built on y\nMode: standalone");
            assert_eq!(found(&said), None, "{good}");
        }
        for unknown in ["srvr is not executed because it is not in the whitelist.", "Zookeeper version: next"]
        {
            assert_eq!(found(unknown), Some(Severity::Unknown), "{unknown}");
        }
    }
}
