//! The probe: settings of the server under which a lock can be lost.

use lock_core::{Finding, Result, Severity};
use redis::{Cmd, Value};

use crate::link::Link;
use crate::reply;

/// What the server says of itself. Managed ones refuse CONFIG and parts of INFO: then somebody has to assert it.
pub(crate) async fn probe(link: &Link) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.extend(eviction(link).await);
    findings.extend(persistence(link).await);
    findings.extend(replicas(link).await);
    findings.extend(version(link).await);
    Ok(findings)
}

async fn eviction(link: &Link) -> Option<Finding> {
    const SETTING: &str = "maxmemory-policy";
    match setting(link, SETTING).await.as_deref() {
        Some("noeviction") => None,
        Some(policy) => Some(Finding::new(
            Severity::Unsafe,
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

async fn persistence(link: &Link) -> Vec<Finding> {
    const ASSERT: &str =
        "that the append-only file is on, and what appendfsync is: without it a restart forgets every lock";
    let Some(append_only) = setting(link, "appendonly").await else {
        return vec![unknown("appendonly", ASSERT)];
    };
    if append_only != "yes" {
        return vec![Finding::new(
            Severity::Unsafe,
            "appendonly",
            "without the append-only file a server that starts again has forgotten the locks that were held, and grants them \
             anew while their holders still count on them (tokens rise): set it to yes",
        )];
    }
    match setting(link, "appendfsync").await.as_deref() {
        Some("always") => vec![],
        Some(policy) => vec![Finding::new(
            Severity::Unsafe,
            "appendfsync",
            format!(
                "with {policy:?} a machine that loses power forgets the locks of its last second or more (a process that is \
                 killed does not): set it to always, or let the fencing token decide"
            ),
        )],
        None => vec![unknown("appendfsync", ASSERT)],
    }
}

async fn replicas(link: &Link) -> Vec<Finding> {
    const ASSERT: &str =
        "that no replica is promoted by itself, or that a lock lost by it is caught by the fencing token";
    let Some(replication) = info(link, "replication").await else {
        return vec![unknown("replication", ASSERT)];
    };
    let mut findings = Vec::new();
    let field = |name: &str| replication.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match field("role").map(str::trim) {
        Some("master") => {}
        Some(role) => findings.push(Finding::new(
            Severity::Unsafe,
            "role",
            format!(
                "the server is a {role}: its copy is late, and it takes no writes; connect to the primary"
            ),
        )),
        None => findings.push(unknown("role", ASSERT)),
    }
    match field("connected_slaves").and_then(|count| count.trim().parse::<u64>().ok()) {
        Some(0) => {}
        None => findings.push(unknown("connected_slaves", ASSERT)),
        Some(count) => {
            let required = setting(link, "min-replicas-to-write").await;
            let bound = match required.as_deref() {
                Some("0") => {
                    "min-replicas-to-write is 0, so a primary that is cut off goes on granting".to_owned()
                }
                Some(number) => format!(
                    "min-replicas-to-write is {number}, which shortens the time but does not close it"
                ),
                None => "min-replicas-to-write may not be read".to_owned(),
            };
            findings.push(Finding::new(
                Severity::Unsafe,
                "replication",
                format!(
                    "{count} replicas copy with a delay: one that is promoted may lack the latest grants and grant again \
                     ({bound}). The token rises then as long as clocks agree: let it decide"
                ),
            ));
        }
    }
    findings
}

async fn version(link: &Link) -> Option<Finding> {
    let server = info(link, "server").await;
    let version = server
        .as_deref()
        .and_then(|server| server.lines().find_map(|line| line.strip_prefix("redis_version:")));
    match version.map(|version| {
        (version.trim(), version.split('.').next().and_then(|major| major.parse::<u32>().ok()))
    }) {
        Some((_, Some(7..))) => None,
        Some((version, _)) => Some(Finding::new(
            Severity::Unsafe,
            "redis_version",
            format!("{version} is older than 7.0, which the scripts are written for"),
        )),
        None => Some(unknown("redis_version", "that it is Redis 7.0 or later")),
    }
}

/// `None` where it may not be read.
async fn setting(link: &Link, name: &str) -> Option<String> {
    let mut command = Cmd::new();
    command.arg("CONFIG").arg("GET").arg(name);
    match link.call(&command).await.ok()? {
        Value::Map(pairs) => pairs.first().and_then(|(_, value)| reply::text(value)).map(str::to_owned),
        Value::Array(words) => words.get(1).and_then(reply::text).map(str::to_owned),
        _ => None,
    }
}

async fn info(link: &Link, section: &str) -> Option<String> {
    let mut command = Cmd::new();
    command.arg("INFO").arg(section);
    match link.call(&command).await.ok()? {
        Value::VerbatimString { text, .. } => Some(text),
        other => reply::text(&other).map(str::to_owned),
    }
    .filter(|text| !text.trim().is_empty())
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
