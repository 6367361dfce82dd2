//! The probe: who may end a lock, and what the servers say of themselves.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Finding, Result, Severity, SystemClock, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zookeeper_client::{Acl, Error as Driver, Permission};

use crate::dial::Dial;
use crate::failure::failed;
use crate::link::Link;
use crate::names::Names;
use crate::options::Access;

/// More than servers grant.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// For what a server says of itself.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) async fn probe(link: &Link, names: &Names) -> Result<Vec<Finding>> {
    let dial = link.dial();
    let asked = dial.endpoints().iter().map(|endpoint| {
        let (dial, endpoint) = (Arc::clone(dial), endpoint.clone());
        async move { Server::ask(&dial, endpoint).await }
    });
    let servers = JoinSet::from_iter(asked);
    let mut findings: Vec<Finding> = access(link, names).await.into_iter().collect();
    let mut servers = servers.join_all().await;
    servers.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
    findings.extend(sessions(dial.options().tick, &servers));
    findings.extend(servers.iter().filter_map(|server| match &server.said {
        Some(said) => version(&server.endpoint, said),
        None => Some(unsaid(&server.endpoint)),
    }));
    Ok(findings)
}

/// What is known of one server.
struct Server {
    endpoint: String,
    said: Option<String>,
    /// The shortest and the longest session that it grants.
    granted: Option<[Duration; 2]>,
}

impl Server {
    async fn ask(dial: &Dial, endpoint: String) -> Server {
        let said = said(dial, &endpoint).await;
        let shortest = dial.granted_by(&endpoint, Duration::ZERO).await;
        let longest = dial.granted_by(&endpoint, LONGEST).await;
        Server {
            endpoint,
            said,
            granted: shortest.zip(longest).map(|(shortest, longest)| [shortest, longest]),
        }
    }
}

/// Whoever may delete nodes may end every lock.
async fn access(link: &Link, names: &Names) -> Option<Finding> {
    let open = |what: String| {
        let message = format!(
            "{what} is open to everybody who reaches the servers, who can end every lock: use an account, and set the nodes that are \
             there to it (setAcl -R)"
        );
        Some(Finding::new(Severity::Unsafe, "access", message))
    };
    if link.dial().options().access_in_force() == Access::World {
        return open("what is created".to_owned());
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
            .await;
        match acls {
            Ok(acls) if acls.iter().any(is_open) => return open(path),
            Ok(_) => {}
            Err(error) => {
                let message = format!("who may do what with {path} cannot be read ({error})");
                return Some(Finding::new(Severity::Unknown, "access", message));
            }
        }
    }
    None
}

fn is_open(acl: &Acl) -> bool {
    let changes = [Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    acl.scheme() == "world" && changes.iter().any(|change| acl.permission().has(*change))
}

/// The shortest session that a server grants is two of its ticks, and the longest twenty, unless that is set otherwise. A session
/// that moves to another server lives by what that one grants, and nobody is told.
fn sessions(tick: Duration, servers: &[Server]) -> Vec<Finding> {
    let of = |severity, setting: &str, message: String| Finding::new(severity, setting, message);
    let granted: Vec<_> = servers.iter().filter_map(|server| Some((server, server.granted?))).collect();
    let unread = servers.iter().filter(|server| server.granted.is_none()).map(|server| {
        let message = format!(
            "{} begins no session within {PATIENCE:?}: which ones it grants is not known",
            server.endpoint
        );
        of(Severity::Unknown, "session timeouts", message)
    });
    let mut findings: Vec<_> = unread.collect();
    if let Some((server, [shortest, _])) = granted.iter().find(|(_, [shortest, _])| *shortest > tick * 2) {
        findings.push(of(
            Severity::Unknown,
            "tickTime",
            format!(
                "the shortest session that {} grants is {shortest:?}, so its tickTime may be {:?} and not {tick:?}: say it by tick=, or \
                 a session may be ended while its holder still counts on it",
                server.endpoint,
                *shortest / 2
            ),
        ));
    }
    if let Some(((one, this), (other, that))) =
        granted.first().and_then(|first| Some((first, granted.iter().find(|(_, that)| *that != first.1)?)))
    {
        findings.push(of(
            Severity::Unsafe,
            "session timeouts",
            format!(
                "{} grants sessions of {:?} to {:?}, and {} of {:?} to {:?}: a session that moves from one to the other may be ended \
                 while its holder still counts on it; give them the same tickTime, minSessionTimeout and maxSessionTimeout",
                one.endpoint, this[0], this[1], other.endpoint, that[0], that[1]
            ),
        ));
    }
    findings
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

fn unsaid(endpoint: &str) -> Finding {
    let message = format!(
        "{endpoint} does not say it (srvr): whoever operates it has to assert that it is 3.8.5 or later, and not 3.9.0, 3.9.1 or 3.9.3"
    );
    Finding::new(Severity::Unknown, "server version", message)
}

fn version(endpoint: &str, said: &str) -> Option<Finding> {
    let of = |severity, why: String| Some(Finding::new(severity, "server version", why));
    let Some(text) = said.lines().find_map(|line| line.strip_prefix("Zookeeper version: ")) else {
        return Some(unsaid(endpoint));
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

    #[test]
    fn servers_that_grant_something_else_are_named() {
        let second = Duration::from_secs(1);
        let server = |name: &str, shortest: u32, longest: u32| Server {
            endpoint: name.to_owned(),
            said: None,
            granted: Some([second * shortest, second * longest]),
        };
        let found = |tick, servers: &[Server]| -> Vec<_> {
            sessions(second * tick, servers)
                .into_iter()
                .map(|found| (found.severity, found.setting))
                .collect()
        };
        assert_eq!(found(2, &[server("z1", 4, 40), server("z2", 4, 40)]), []);
        let (told, differ) =
            ((Severity::Unknown, "tickTime".to_owned()), (Severity::Unsafe, "session timeouts".to_owned()));
        let unread = Server { granted: None, ..server("z3", 0, 0) };
        let unknown = (Severity::Unknown, "session timeouts".to_owned());
        assert_eq!(found(2, &[server("z1", 4, 40), unread]), std::slice::from_ref(&unknown));
        assert_eq!(found(1, &[server("z1", 4, 40)]), std::slice::from_ref(&told));
        assert_eq!(found(2, &[server("z1", 4, 40), server("z2", 4, 20)]), std::slice::from_ref(&differ));
        assert_eq!(found(2, &[server("z1", 4, 40), server("z2", 6, 60)]), [told, differ]);
    }
}
