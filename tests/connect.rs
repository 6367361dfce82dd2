//! From URLs to clients.

#![cfg(feature = "memory")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fencepost::backend::{Backend, Event, EventSink, Opened, Query, SessionOptions};
use fencepost::memory::MemoryBackend;
use fencepost::{
    BackendInfo, Capabilities, Connector, ErrorKind, FencingToken, Finding, LockKey, LockState, Page,
    Registry, Result, Severity, StoreUrl, connect,
};

async fn refused(url: &str) -> (ErrorKind, String) {
    let error = connect(url).await.unwrap_err();
    (error.kind().clone(), error.to_string())
}

#[tokio::test]
async fn memory_is_the_clients_own_unless_it_is_named_within_one_registry() {
    let (one, two) = (connect("memory:").await.unwrap(), connect("memory:").await.unwrap());
    let _held = one.mutex("k").unwrap().acquire().await.unwrap();
    assert!(two.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());

    let registry = Registry::new();
    let (one, two) =
        (registry.connect("memory:x").await.unwrap(), registry.connect("memory:x").await.unwrap());
    let other = Registry::new().connect("memory:x").await.unwrap();
    let _held = one.mutex("k").unwrap().acquire().await.unwrap();
    assert!(two.mutex("k").unwrap().try_acquire().await.unwrap().is_err());
    assert!(other.mutex("k").unwrap().try_acquire().await.unwrap().is_ok());
}

#[tokio::test]
async fn the_common_keys_do_what_they_say() {
    let registry = Registry::new();
    let client =
        registry.connect("memory:x?ttl=3s&prefix=billing&name=worker&call_timeout=1s").await.unwrap();
    assert_eq!(client.ttl(), Duration::from_secs(3));
    let _held = client.mutex("k").unwrap().acquire().await.unwrap();
    let state = client.inspect("k").await.unwrap();
    assert_eq!(state.holders[0].info.as_ref().and_then(|info| info.name()), Some("worker"));
    let plain = registry.connect("memory:x").await.unwrap();
    assert!(plain.mutex("k").unwrap().try_acquire().await.unwrap().is_ok(), "another prefix, another lock");
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_named() {
    for (url, word) in [
        ("cometbft://h", "the cometbft: store is planned, and not in this version"),
        ("nats://h", "no store is called nats:"),
        ("memory:?tll=5s", "unknown query key \"tll\""),
        ("memory:?tll=5s", "it knows call_timeout, connect_timeout"),
        ("memory:?ttl=soon", "ttl=\"soon\""),
        ("memory:?prefix=a%20b", "a prefix is"),
        ("memory:?strict=maybe", "strict= in a store's URL is true or false"),
        ("memory://host", "a memory store has no host"),
        ("no-url", "begins with a scheme"),
    ] {
        let (kind, message) = refused(url).await;
        assert_eq!(kind, ErrorKind::Misconfigured, "{url}");
        assert!(message.contains(word), "{url}: {message}");
    }
    assert_eq!(refused("memory:?ttl=1ms").await.0, ErrorKind::InvalidInput);
    let missing = Registry::empty().connect("memory:").await.unwrap_err().to_string();
    assert!(
        missing.contains("this build has no memory: store (it has none); switch on the feature \"memory\""),
        "{missing}"
    );
}

#[tokio::test]
async fn a_password_is_never_shown() {
    for url in ["nats://u:hunter2@h/0", "redis://:hunter2@h", "memory://u:hunter2@h"] {
        let error = connect(url).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[cfg(all(feature = "file", target_os = "linux"))]
#[tokio::test]
async fn a_directory_is_shared_by_whoever_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/locks", dir.path().display());
    let (one, two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let held = one.mutex("k").unwrap().acquire().await.unwrap();
    let busy = two.mutex("k").unwrap().try_acquire().await.unwrap().unwrap_err();
    assert_eq!(busy.holder.map(|holder| holder.pid()), Some(std::process::id()));
    let first = held.token();
    held.release().await.unwrap();
    assert!(two.mutex("k").unwrap().acquire().await.unwrap().token() > first);
}

/// A store of somebody else's.
#[derive(Clone, Debug)]
struct Theirs {
    memory: Arc<MemoryBackend>,
    findings: Vec<Finding>,
    silent: bool,
}

#[async_trait::async_trait]
impl Connector for Theirs {
    fn schemes(&self) -> &[&'static str] {
        &["theirs", "memory"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        assert_eq!(url.take("colour").as_deref(), Some("green"));
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl Backend for Theirs {
    fn info(&self) -> BackendInfo {
        BackendInfo::new("theirs", "theirs:", Capabilities::new())
    }

    async fn open(&self, options: &SessionOptions, sink: EventSink) -> Result<Opened> {
        if self.silent {
            pending::<()>().await;
        }
        sink.send(Event::Gap);
        self.memory.open(options, sink).await
    }

    async fn probe(&self) -> Result<Vec<Finding>> {
        Ok(self.findings.clone())
    }

    async fn inspect(&self, key: &LockKey) -> Result<LockState> {
        self.memory.inspect(key).await
    }

    async fn list(&self, query: &Query) -> Result<Page> {
        self.memory.list(query).await
    }

    async fn force_release(&self, key: &LockKey, only: Option<FencingToken>) -> Result<usize> {
        self.memory.force_release(key, only).await
    }
}

fn theirs() -> Theirs {
    Theirs { memory: MemoryBackend::new(), findings: Vec::new(), silent: false }
}

#[tokio::test]
async fn stores_of_others_join_a_registry_and_go_first() {
    let registry = Registry::new().with(theirs());
    for url in ["theirs:?colour=green", "memory:?colour=green"] {
        let client = registry.connect(url).await.unwrap();
        assert_eq!(client.info().scheme, "theirs");
        let _held = client.mutex("k").unwrap().try_acquire().await.unwrap();
    }
    let error = registry.connect("theirs:?colour=green&size=2").await.unwrap_err();
    assert!(error.to_string().contains("\"size\""), "{error}");
}

#[tokio::test]
async fn strict_refuses_what_is_unsafe_and_not_what_is_unknown() {
    let unknown = Finding::new(Severity::Unknown, "eviction", "may not be read");
    let unsafe_setting = Finding::new(Severity::Unsafe, "fsync", "off: a crash loses locks");
    let url = |strict: &str| format!("theirs:?colour=green{strict}");
    let found = Registry::empty().with(Theirs { findings: vec![unknown.clone()], ..theirs() });
    assert!(found.connect(&url("&strict=true")).await.is_ok());
    let found = Registry::empty().with(Theirs { findings: vec![unknown, unsafe_setting], ..theirs() });
    assert!(found.connect(&url("")).await.is_ok());
    let error = found.connect(&url("&strict=true")).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsafe);
    assert!(error.to_string().contains("fsync"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn connecting_is_bounded() {
    let registry = Registry::new().with(Theirs { silent: true, ..theirs() });
    let error = registry.connect("theirs:?colour=green&connect_timeout=2s").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    assert!(error.to_string().contains("is the store running"), "{error}");
}

#[tokio::test]
async fn a_password_file_is_read_and_a_missing_one_named() {
    let (kind, message) = refused("memory:?password_file=/nowhere/at/all").await;
    assert_eq!(kind, ErrorKind::Misconfigured);
    assert!(message.contains("/nowhere/at/all"), "{message}");
}
