//! The probe: settings of the server under which a lock can be lost.

use std::collections::HashMap;

use lock_core::{Error, ErrorKind, Finding, Result, Severity};
use redis::{Cmd, Value};

use crate::link::Link;
use crate::reply;
use crate::store::Store;

/// What the server says of itself. Managed ones refuse CONFIG and parts of INFO: then somebody has to assert it.
pub(crate) async fn probe(store: &Store) -> Result<Vec<Finding>> {
    let nodes = store.primaries().await?;
    let mut findings: Vec<Finding> = Vec::new();
    for node in &nodes {
        let found = match settings_of(&node.commands).await {
            // One of several that is not there just now keeps nobody from using the others.
            Err(error) if nodes.len() > 1 => vec![unknown(
                "node",
                &format!("what the settings of {} are ({})", node.commands.endpoint(), error.message()),
            )],
            found => found?,
        };
        for finding in found {
            // Nodes usually are alike; one of them that is not is as bad as all.
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
}

async fn settings_of(link: &Link) -> Result<Vec<Finding>> {
    let mut settings = settings(link).await?;
    let mut setting = |name: &str| settings.remove(name);
    let facts = Facts {
        policy: setting("maxmemory-policy"),
        append_only: setting("appendonly"),
        append_fsync: setting("appendfsync"),
        fsync_pauses: setting("no-appendfsync-on-rewrite"),
        required_replicas: setting("min-replicas-to-write"),
        replication: info(link, "replication").await?,
    };
    let mut findings = Vec::new();
    findings.extend(eviction(&facts));
    findings.extend(persistence(&facts));
    findings.extend(role(&facts));
    findings.extend(replicas(&facts));
    Ok(findings)
}

/// What may not be read is `None`.
struct Facts {
    policy: Option<String>,
    append_only: Option<String>,
    append_fsync: Option<String>,
    fsync_pauses: Option<String>,
    required_replicas: Option<String>,
    replication: Option<String>,
}

fn eviction(facts: &Facts) -> Option<Finding> {
    const SETTING: &str = "maxmemory-policy";
    match facts.policy.as_deref() {
        Some("noeviction") => None,
        Some(policy) => Some(found(
            SETTING,
            format!(
                "{policy:?} deletes keys, and so locks that are held, when memory is short: set it to noeviction"
            ),
        )),
        None => {
            Some(unknown(SETTING, "that it is noeviction: any other policy may delete a lock that is held"))
        }
    }
}

fn persistence(facts: &Facts) -> Option<Finding> {
    const ASSERT: &str =
        "that the append-only file is on, and what appendfsync is: without it a restart forgets every lock";
    match (facts.append_only.as_deref(), facts.append_fsync.as_deref()) {
        (Some("yes"), Some("always")) if facts.fsync_pauses.as_deref() == Some("yes") => Some(found(
            "no-appendfsync-on-rewrite",
            "while the append-only file is rewritten nothing waits for the disk, and a power loss forgets what was acknowledged \
             meanwhile: set it to no"
                .to_owned(),
        )),
        (Some("yes"), Some("always")) => None,
        (Some("yes"), Some(policy)) => Some(found(
            "appendfsync",
            format!(
                "with {policy:?} a machine that loses power forgets the locks of its last second or more (a process that is \
                 killed does not): set it to always, or let the fencing token decide"
            ),
        )),
        (Some("yes"), None) => Some(unknown("appendfsync", ASSERT)),
        (Some(_), _) => Some(found(
            "appendonly",
            "without the append-only file a server that starts again has forgotten the locks that were held, and grants them \
             anew while their holders still count on them (tokens rise): set it to yes"
                .to_owned(),
        )),
        (None, _) => Some(unknown("appendonly", ASSERT)),
    }
}

fn role(facts: &Facts) -> Option<Finding> {
    match field(facts.replication.as_deref()?, "role")? {
        "master" => None,
        role => Some(found(
            "role",
            format!(
                "the server is a {role}: its copy is late, and it takes no writes; connect to the primary"
            ),
        )),
    }
}

fn replicas(facts: &Facts) -> Option<Finding> {
    let count = facts.replication.as_deref().and_then(|replication| field(replication, "connected_slaves"));
    let Some(count) = count.and_then(|count| count.parse::<u64>().ok()) else {
        return Some(unknown(
            "replication",
            "that no replica is promoted by itself, or that a lock lost by it is caught by the fencing token",
        ));
    };
    let bound = match facts.required_replicas.as_deref() {
        Some("0") => "min-replicas-to-write is 0, so a primary that is cut off goes on granting".to_owned(),
        Some(number) => {
            format!("min-replicas-to-write is {number}, which shortens the time but does not close it")
        }
        None => "min-replicas-to-write may not be read".to_owned(),
    };
    (count > 0).then(|| {
        found(
            "replication",
            format!(
                "{count} replicas copy with a delay: one that is promoted may lack the latest grants and grant again \
                 ({bound}). The token rises then as long as clocks agree: let it decide"
            ),
        )
    })
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// Those that may be read, by one question: every client that connects asks it.
async fn settings(link: &Link) -> Result<HashMap<String, String>> {
    const NAMES: [&str; 5] = [
        "maxmemory-policy",
        "appendonly",
        "appendfsync",
        "no-appendfsync-on-rewrite",
        "min-replicas-to-write",
    ];
    let mut command = Cmd::new();
    command.arg("CONFIG").arg("GET").arg(&NAMES[..]);
    let Some(Value::Map(pairs)) = unless_refused(link.call(&command).await)? else {
        return Ok(HashMap::new());
    };
    let texts = pairs.iter().filter_map(|(name, value)| reply::text(name).zip(reply::text(value)));
    Ok(texts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

async fn info(link: &Link, section: &str) -> Result<Option<String>> {
    let mut command = Cmd::new();
    command.arg("INFO").arg(section);
    Ok(match unless_refused(link.call(&command).await)? {
        Some(Value::VerbatimString { text, .. }) => Some(text),
        other => other.as_ref().and_then(reply::text).map(str::to_owned),
    })
}

/// A server that is not there is an error; one that refuses to say has said so.
fn unless_refused(answer: Result<Value>) -> Result<Option<Value>> {
    let is_silent = |error: &Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut);
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_silent(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

fn found(setting: &str, message: String) -> Finding {
    Finding::new(Severity::Unsafe, setting, message)
}

fn unknown(setting: &str, assert: &str) -> Finding {
    Finding::new(
        Severity::Unknown,
        setting,
        format!(
            "this account may not read it, or the server does not say: whoever operates it has to assert {assert}"
        ),
    )
}
