//! Who may do what: accounts by `digest` and by SASL, nodes that are their creator's alone, and what strict mode refuses.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::servers::{ZooKeeper, ZooKeeperSetup};
use lock_core::{
    Backend, Connector, End, Error, ErrorKind, HoldState, LockClient, Reason, Result, Severity, StoreUrl,
};
use lock_zookeeper::zookeeper_client::{Acls, Client, CreateMode, Error as Driver};
use lock_zookeeper::{ZooKeeperConnector, ZooKeeperOptions};

async fn connect(server: &ZooKeeper, login: &str, query: &str) -> Result<Arc<dyn Backend>> {
    let options = ZooKeeperOptions::new().tick(server.tick());
    let mut url = StoreUrl::parse(&format!("zookeeper://{login}{}{query}", server.address()))?;
    ZooKeeperConnector::with_options(options).connect(&mut url).await
}

async fn takes_a_lock(backend: Result<Arc<dyn Backend>>) -> Result<()> {
    let client = LockClient::builder(backend?).ttl(Duration::from_secs(5)).build()?;
    client.mutex("k")?.acquire().await?.release().await.map(|_| ())
}

fn is_denied(error: &Error) {
    assert_eq!((error.kind(), error.is_retryable()), (&ErrorKind::Denied, false), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter"), "{error:?}");
}

#[tokio::test]
async fn nodes_are_their_creators_alone() {
    let server = ZooKeeper::start().await.unwrap();
    takes_a_lock(connect(&server, "app:hunter2@", "").await).await.unwrap();
    // The servers know no accounts of this kind: everybody else is somebody else.
    for login in ["app:hunter3@", "other:hunter2@", ""] {
        is_denied(&takes_a_lock(connect(&server, login, "").await).await.unwrap_err());
    }
    let anybody = Client::connect(&server.address()).await.unwrap();
    for path in ["/fencepost", "/fencepost/locks", "/fencepost/locks/k", "/fencepost/sessions"] {
        assert_eq!(anybody.list_children(path).await.unwrap_err(), Driver::NoAuth, "{path}");
    }
}

#[tokio::test]
async fn whoever_wants_them_open_says_so() {
    let server = ZooKeeper::start().await.unwrap();
    takes_a_lock(connect(&server, "app:hunter2@", "?access=world").await).await.unwrap();
    takes_a_lock(connect(&server, "", "").await).await.unwrap();
    let error = takes_a_lock(connect(&server, "", "/closed?access=creator").await).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Misconfigured, "{error}");
    assert!(error.message().contains("need an account"), "{error}");
}

#[tokio::test]
async fn an_account_that_the_servers_know() {
    let setup = ZooKeeperSetup::new().user("app", "hunter2").setting("sessionRequireClientSASLAuth", "true");
    let server = setup.start().await.unwrap();
    takes_a_lock(connect(&server, "app:hunter2@", "?sasl=true").await).await.unwrap();
    for (login, query) in
        [("app:hunter3@", "?sasl=true"), ("nobody:hunter2@", "?sasl=true"), ("app:hunter2@", "")]
    {
        is_denied(&takes_a_lock(connect(&server, login, query).await).await.unwrap_err());
    }
    let again = connect(&server, "app:hunter2@", "?sasl=true").await.unwrap();
    assert!(!format!("{again:?}").contains("hunter2"));
    let found = again.probe().await.unwrap();
    assert!(found.iter().all(|finding| finding.setting != "access"), "{found:?}");
}

/// The driver comes again with its account, also in the same session; but not where servers let nobody in without one, as it says
/// something else before.
#[tokio::test]
async fn a_session_with_an_account_outlives_its_connection_unless_servers_enforce_accounts() {
    for (sasl, enforced) in [(false, false), (true, false), (true, true)] {
        let mut setup = ZooKeeperSetup::new().user("app", "hunter2");
        if enforced {
            setup = setup.setting("sessionRequireClientSASLAuth", "true");
        }
        let server = setup.start().await.unwrap();
        let backend = connect(&server, "app:hunter2@", &format!("?sasl={sasl}")).await.unwrap();
        let client = LockClient::builder(backend).ttl(Duration::from_secs(20)).build().unwrap();
        let held = client.mutex("k").unwrap().acquire().await.unwrap();
        assert!(server.disconnect().unwrap() > 0);
        if enforced {
            assert_eq!(held.ending().await, End::Lost(Reason::SessionEnded));
        } else {
            let (HoldState::Held { until } | HoldState::AtRisk { until }) = held.state() else {
                panic!("{:?}", held.state());
            };
            assert!(held.extended(until).await.is_held(), "sasl={sasl}");
            held.release().await.unwrap();
        }
    }
}

/// Open by what is created, or by what is there.
#[tokio::test]
async fn what_everybody_may_delete_is_unsafe() {
    let server = ZooKeeper::start().await.unwrap();
    let admin = Client::connect(&server.address()).await.unwrap();
    admin.create("/open", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    for (login, query, what) in [
        ("", "", Some("what is created is open")),
        ("app:hunter2@", "/mine", None),
        ("app:hunter2@", "/open", Some("/open is open")),
        ("app:hunter2@", "?access=world", Some("what is created is open")),
    ] {
        let backend = connect(&server, login, query).await.unwrap();
        if query == "/mine" {
            takes_a_lock(Ok(backend.clone())).await.unwrap();
        }
        let found = backend.probe().await.unwrap();
        let access: Vec<_> = found.iter().filter(|finding| finding.setting == "access").collect();
        let said = access.first().map(|finding| (finding.severity, finding.message.clone()));
        match what {
            None => assert_eq!(said, None, "{query}"),
            Some(words) => {
                let (severity, message) = said.unwrap();
                assert_eq!(severity, Severity::Unsafe);
                assert!(message.contains(words), "{query}: {message}");
            }
        }
    }
}
