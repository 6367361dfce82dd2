//! Through TLS: what works without works the same, and certificates are renewed under a client that runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::proxy::Proxy;
use lock_conformance::servers::{
    Authority, Certificate, ClientCertificates, Etcd, EtcdSetup, Tls, free_port,
};
use lock_core::{
    Backend, Clock, Connector, ErrorKind, Guard, HoldState, LockClient, Result, StoreUrl, SystemClock,
};
use lock_etcd::etcd_client::{Certificate as Pem, ConnectOptions, Identity, TlsOptions};
use lock_etcd::{EtcdConnector, EtcdOptions};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

/// A server that asks clients for certificates, and what a client needs.
struct Scene {
    authority: Authority,
    client: Certificate,
    server: Etcd,
}

impl Scene {
    async fn start() -> Scene {
        let authority = Authority::new().unwrap();
        let tls = Tls::new(&authority, authority.server().unwrap())
            .client_certificates(ClientCertificates::Required);
        let server = EtcdSetup::new().tls(&tls).start().await.unwrap();
        Scene { client: authority.client("locks").unwrap(), authority, server }
    }

    /// The query of a URL.
    fn files(&self) -> String {
        files(self.authority.certificate(), &self.client)
    }

    fn client_at(&self, address: &str) -> LockClient {
        client(&format!("etcds://{address}?{}", self.files()), SECOND)
    }
}

fn files(authority: &Path, client: &Certificate) -> String {
    let (certificate, key) = (client.certificate().display(), client.key().display());
    format!("ca_file={}&cert_file={certificate}&key_file={key}", authority.display())
}

async fn connect(url: &str) -> Result<Arc<dyn Backend>> {
    EtcdConnector::new().connect(&mut StoreUrl::parse(url)?).await
}

/// Connected by its first call.
fn client(url: &str, ttl: Duration) -> LockClient {
    let backend = EtcdConnector::new().open(&mut StoreUrl::parse(url).unwrap()).unwrap();
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
    let server = EtcdSetup::new().tls(&tls).start().await.unwrap();
    // Two of them in one file: as it is while the old one gives way to a new one.
    let both = tempfile::NamedTempFile::new().unwrap();
    let pem = |authority: &Authority| std::fs::read_to_string(authority.certificate()).unwrap();
    std::fs::write(both.path(), pem(&Authority::new().unwrap()) + &pem(&authority)).unwrap();
    for (host, known) in [
        ("127.0.0.1", authority.certificate()),
        ("localhost", authority.certificate()),
        ("127.0.0.1", both.path()),
    ] {
        let url = format!("etcds://{host}:{}?ca_file={}", server.port(), known.display());
        takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn with_a_certificate_a_user_and_a_password() {
    let authority = Authority::new().unwrap();
    let tls =
        Tls::new(&authority, authority.server().unwrap()).client_certificates(ClientCertificates::Required);
    let server = EtcdSetup::new().password("root's").tls(&tls).start().await.unwrap();
    server.account("app", "p@ss", "billing/").await.unwrap();
    let files = files(authority.certificate(), &authority.client("locks").unwrap());
    let backend = connect(&format!("etcds://app:p%40ss@{}/billing?{files}", server.address())).await.unwrap();
    takes_a_lock(backend.clone()).await.unwrap();
    let shown = format!("{backend:?} {:?}", backend.info());
    assert!(!shown.contains("p@ss") && shown.contains("etcds://"), "{shown}");
}

#[tokio::test]
async fn by_an_address_of_ip_version_6() {
    let (authority, here) = (Authority::new().unwrap(), free_port().unwrap());
    let server = EtcdSetup::new()
        .tls(&Tls::new(&authority, authority.server().unwrap()))
        // The last one counts.
        .arguments([format!("--listen-client-urls=https://[::1]:{},unix://etcd.sock:0", here.number())])
        .start()
        .await
        .unwrap();
    let url = format!("etcds://[::1]:{}?ca_file={}", here.number(), authority.certificate().display());
    takes_a_lock(connect(&url).await.unwrap()).await.unwrap();
    drop(server);
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
        SystemClock::new().sleep(SECOND / 500).await;
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
        clock.sleep(SECOND / 20).await;
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
    let server = EtcdSetup::new().tls(&tls).start().await.unwrap();
    let client = client(&format!("etcds://{}?{}", server.address(), files(&known, &of_client)), 30 * SECOND);
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    // A connection that is open has no use for them.
    std::fs::write(&known, "no certificate").unwrap();
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
    std::fs::copy(old.certificate(), &known).unwrap();

    server.kill().await.unwrap();
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    replace(&of_server, &new.server().unwrap());
    server.start_again().await.unwrap();
    let lock = client.mutex("k").unwrap();
    let refused = async |words: &str| {
        loop {
            let error = lock.try_acquire().await.unwrap_err();
            // A connection that has just broken says nothing about certificates yet.
            if error.message().contains(words) {
                return error;
            }
            assert!(error.is_retryable(), "{error}");
        }
    };
    refused("ca_file").await;
    // On a line that was made since, it is the file that is wrong.
    let error = refused("ca_file").await;
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");

    std::fs::copy(new.certificate(), &known).unwrap();
    refused("cert_file").await;

    replace(&of_client, &new.client("locks").unwrap());
    client.mutex("k").unwrap().acquire().await.unwrap().release().await.unwrap();
}

/// All at once, under a hold: the line that was made with the old ones is given up without anybody being told.
#[tokio::test]
async fn a_hold_goes_on_with_renewed_certificates() {
    let (old, new) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (of_server, of_client) = (old.server().unwrap(), old.client("locks").unwrap());
    let tls = Tls::new(&old, of_server.clone()).client_certificates(ClientCertificates::Required);
    let server = EtcdSetup::new().tls(&tls).start().await.unwrap();
    let url = format!("etcds://{}?{}", server.address(), files(old.certificate(), &of_client));
    let client = client(&url, 6 * SECOND);
    let held = client.mutex("k").unwrap().acquire().await.unwrap();
    server.kill().await.unwrap();
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    replace(&of_server, &new.server().unwrap());
    replace(&of_client, &new.client("locks").unwrap());
    server.start_again().await.unwrap();
    client.mutex("other").unwrap().acquire().await.unwrap().release().await.unwrap();
    is_renewed(&held, 7 * SECOND).await;
    held.release().await.unwrap();
}

fn replace(old: &Certificate, new: &Certificate) {
    std::fs::copy(new.certificate(), old.certificate()).unwrap();
    std::fs::copy(new.key(), old.key()).unwrap();
}

/// What the application has given to the driver counts, as long as the options name no files.
#[tokio::test]
async fn the_certificates_of_an_applications_own_options_are_kept() {
    let scene = Scene::start().await;
    let read = |path: &Path| std::fs::read(path).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Pem::from_pem(read(scene.authority.certificate())))
        .identity(Identity::from_pem(read(scene.client.certificate()), read(scene.client.key())));
    let driver = ConnectOptions::new().with_tls(tls);
    let backend = |options| lock_etcd::backend([scene.server.url()], driver.clone(), options).unwrap();
    takes_a_lock(backend(EtcdOptions::new())).await.unwrap();

    let stranger = Authority::new().unwrap();
    let error = takes_a_lock(backend(EtcdOptions::new().ca_file(stranger.certificate()))).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Denied, "{error}");
}
