//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::proxy::Proxy;
use lock_conformance::servers::{Authority, Certificate, ClientCertificates, Redis, RedisSetup, Tls};
use lock_core::{
    Backend, Clock, Connector, ErrorKind, Guard, HoldState, LockClient, Result, StoreUrl, SystemClock,
};
use lock_redis::redis::{self, ClientTlsConfig, TlsCertificates};
use lock_redis::{RedisConnector, RedisOptions};
use tokio::task::JoinSet;

use crate::common::{SECOND, sleep, text};

/// A server that asks clients for certificates, and what a client needs.
struct Scene {
    authority: Authority,
    client: Certificate,
    server: Redis,
}

impl Scene {
    async fn start() -> Scene {
        let authority = Authority::new().unwrap();
        let tls = Tls::new(&authority, authority.server().unwrap())
            .client_certificates(ClientCertificates::Required);
        let server = RedisSetup::new().tls(&tls).start().await.unwrap();
        Scene { client: authority.client("locks").unwrap(), authority, server }
    }

    /// The query of a URL.
    fn files(&self) -> String {
        files(self.authority.certificate(), &self.client)
    }

    fn client_at(&self, address: &str) -> LockClient {
        client(&format!("rediss://{address}?{}", self.files()), SECOND)
    }
}

fn files(authority: &Path, client: &Certificate) -> String {
    let (certificate, key) = (client.certificate().display(), client.key().display());
    format!("ca_file={}&cert_file={certificate}&key_file={key}", authority.display())
}

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    RedisConnector::new().connect(&mut StoreUrl::parse(url)?).await
}

/// Connected by its first call.
fn client(url: &str, ttl: Duration) -> LockClient {
    let backend = RedisConnector::new().open(&mut StoreUrl::parse(url).unwrap()).unwrap();
    LockClient::builder(backend).ttl(ttl).build().unwrap()
}

async fn takes_a_lock(backend: Arc<dyn Backend>) -> Result<()> {
    let client = LockClient::builder(backend).build()?;
    client.mutex("k")?.acquire().await?.release().await.map(|_| ())
}

#[tokio::test]
async fn with_the_authority_of_the_server_alone() {
    let authority = Authority::new().unwrap();
    let tls = Tls::new(&authority, authority.server().unwrap());
    let server = RedisSetup::new().tls(&tls).start().await.unwrap();
    // Two of them in one file: as it is while the old one gives way to a new one.
    let both = tempfile::NamedTempFile::new().unwrap();
    let pem = |authority: &Authority| std::fs::read_to_string(authority.certificate()).unwrap();
    std::fs::write(both.path(), pem(&Authority::new().unwrap()) + &pem(&authority)).unwrap();
    for (host, known) in [
        ("127.0.0.1", authority.certificate()),
        ("localhost", authority.certificate()),
        ("127.0.0.1", both.path()),
    ] {
        let url = format!("rediss://{host}:{}?ca_file={}", server.port(), known.display());
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn with_a_certificate_a_user_a_password_a_database_and_a_name() {
    let scene = Scene::start().await;
    text(&scene.server, &["ACL", "SETUSER", "app", "on", ">p@ss", "~*", "&*", "+@all"]).await;
    let url =
        format!("rediss://app:p%40ss@{}/3?client_name=billing&{}", scene.server.address(), scene.files());
    let backend = connect(&url).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    let clients = text(&scene.server, &["CLIENT", "LIST"]).await;
    let client = clients.lines().find(|line| line.contains(" name=billing ")).unwrap();
    assert!(client.contains(" user=app ") && client.contains(" db=3 "), "{client}");
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss") && shown.contains("rediss://"), "{shown}");
}

#[tokio::test]
async fn a_waiter_is_woken_a_hold_renewed_and_both_survive_a_connection_that_is_reset() {
    let scene = Scene::start().await;
    let proxy = Proxy::to(scene.server.address()).await.unwrap();
    let (holder, waiter) = (scene.client_at(&proxy.address()), scene.client_at(&proxy.address()));
    let held = holder.mutex("k").unwrap().acquire().await.unwrap();
    let lock = waiter.mutex("k").unwrap();
    let mut waiting = JoinSet::from_iter([async move { lock.acquire().await }]);
    while holder.inspect("k").await.unwrap().queue.is_empty() {
        sleep(SECOND / 500).await;
    }
    for _ in 0..2 {
        proxy.reset_all();
        is_renewed(&held, SECOND * 2).await;
    }
    let clock = SystemClock::new();
    let released = clock.boot();
    held.release().await.unwrap();
    let next = waiting.join_next().await.unwrap().unwrap().unwrap();
    let took = clock.boot().since(released);
    assert!(took < SECOND / 2, "{took:?}");
    next.release().await.unwrap();
}

/// For so long, which is longer than it lasts unless it is renewed.
async fn is_renewed(held: &Guard, time: Duration) {
    let clock = SystemClock::new();
    let end = clock.boot() + time;
    while clock.boot() < end {
        assert!(!matches!(held.state(), HoldState::Ended(_)), "{:?}", held.state());
        sleep(SECOND / 20).await;
    }
}

/// A new authority, and certificates of it, in the files of the old ones: on the server, which is started again, and with the
/// client, which is not.
#[tokio::test]
async fn certificates_are_renewed_under_a_client_that_runs() {
    let (old, new) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (of_server, of_client) = (old.server().unwrap(), old.client("locks").unwrap());
    let known = tempfile::tempdir().unwrap();
    let known = known.path().join("authority.crt");
    std::fs::copy(old.certificate(), &known).unwrap();
    let tls = Tls::new(&old, of_server.clone()).client_certificates(ClientCertificates::Required);
    let server = RedisSetup::new().persistent().tls(&tls).start().await.unwrap();
    let client = client(&format!("rediss://{}?{}", server.address(), files(&known, &of_client)), 30 * SECOND);
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    // A connection that is open has no use for them.
    std::fs::write(&known, "no certificate").unwrap();
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    std::fs::copy(old.certificate(), &known).unwrap();

    server.kill().await.unwrap();
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    replace(&of_server, &new.server().unwrap());
    server.start_again().await.unwrap();
    let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");

    std::fs::copy(new.certificate(), &known).unwrap();
    let error = client.mutex("k").unwrap().acquire().await.unwrap_err();
    assert!(error.message().contains("cert_file"), "{error}");

    replace(&of_client, &new.client("locks").unwrap());
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

fn replace(old: &Certificate, new: &Certificate) {
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    std::fs::copy(new.key(), old.key()).unwrap();
}

/// What the application has given to its client of the driver counts, as long as the options name no files.
#[tokio::test]
async fn the_certificates_of_an_applications_own_client_are_kept() {
    let scene = Scene::start().await;
    let read = |path: &Path| std::fs::read(path).unwrap();
    let certificates = TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: read(scene.client.certificate()),
            client_key: read(scene.client.key()),
        }),
        root_cert: Some(read(scene.authority.certificate())),
    };
    let driver = redis::Client::build_with_tls(scene.server.url(), certificates).unwrap();
    takes_a_lock(lock_redis::backend(&driver, RedisOptions::new()).unwrap()).await.unwrap();

    let stranger = Authority::new().unwrap();
    let options = RedisOptions::new().ca_file(stranger.certificate());
    let error = takes_a_lock(lock_redis::backend(&driver, options).unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
}
