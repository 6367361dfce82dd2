//! Locks in etcd, held to their promises: each scenario on a server of its own.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use lock_conformance::servers::{Etcd, EtcdSetup};
use lock_conformance::tls::{Impostors, query};
use lock_conformance::{CONNECT_TIMEOUT, Fixture, Impairment, Impostor, Promises, Remote, Suite};
use lock_core::{Backend, Connector, Error, LockKey, Result, SessionId, StoreUrl, async_trait};
use lock_etcd::{EtcdConnector, EtcdOptions};

const PASSWORD: &str = "the-password-of-the-suite";
const QUOTA: u64 = 16 * 1024 * 1024;

struct Alone {
    etcd: Etcd,
    accounts: Mutex<HashSet<String>>,
    impostors: Impostors<Etcd>,
}

impl Alone {
    async fn start() -> Result<Alone> {
        Ok(Alone {
            etcd: EtcdSetup::new().password(PASSWORD).quota(QUOTA).start().await?,
            accounts: Mutex::default(),
            impostors: Impostors::default(),
        })
    }

    async fn account(&self, user: &str, root: &str) -> Result<Arc<dyn Backend>> {
        let is_new = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned());
        if is_new {
            self.etcd.account(user, PASSWORD, format!("{root}/")).await?;
        }
        join(url(&self.etcd.address(), user, PASSWORD)).await
    }
}

#[async_trait]
impl Fixture for Alone {
    async fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend_through(&self.endpoint()).await
    }

    fn address(&self) -> Option<String> {
        Some(url(&self.endpoint(), "root", PASSWORD))
    }

    async fn forget(&self, key: &LockKey) -> Result<()> {
        let lock = format!("fencepost/l/{}/", key.encoded());
        let end = format!("{}0", lock.trim_end_matches('/'));
        let range = serde_json::json!({ "key": base64(&lock), "range_end": base64(&end) });
        self.etcd.call("/v3/kv/deleterange", &range).await.map(|_| ())
    }

    /// Without what goes with its session.
    async fn size(&self) -> Result<Option<usize>> {
        let mut size = 0;
        for part in ["l", "s"] {
            size += self.etcd.keys(format!("fencepost/{part}/")).await?;
        }
        Ok(usize::try_from(size).ok())
    }

    async fn restart(&self) -> Result<()> {
        self.etcd.kill().await?;
        self.etcd.start_again().await
    }

    fn remote(&self) -> Option<&dyn Remote> {
        Some(self)
    }
}

#[async_trait]
impl Remote for Alone {
    fn endpoint(&self) -> String {
        self.etcd.address()
    }

    async fn backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        join(url(address, "root", PASSWORD)).await
    }

    fn lazy_backend_through(&self, address: &str) -> Result<Arc<dyn Backend>> {
        open(&url(address, "root", PASSWORD))
    }

    async fn kill(&self) -> Result<()> {
        self.etcd.kill().await
    }

    async fn start_again(&self) -> Result<()> {
        self.etcd.start_again().await
    }

    async fn start_again_empty(&self) -> Result<()> {
        self.etcd.start_again_empty().await
    }

    async fn stop(&self) -> Result<()> {
        self.etcd.stop().await
    }

    async fn go_on(&self) -> Result<()> {
        self.etcd.go_on()
    }

    async fn disconnect(&self) -> Result<()> {
        self.etcd.disconnect().map(|_| ())
    }

    async fn end_session(&self, session: SessionId) -> Result<()> {
        let lease = (session.as_u128() as u64 & (i64::MAX as u64)).max(1);
        self.etcd.revoke(i64::try_from(lease).unwrap_or(1)).await
    }

    fn impairments(&self) -> Vec<Impairment> {
        vec![Impairment { name: "no space", passes: true }]
    }

    async fn impair(&self, how: &str) -> Result<()> {
        match how {
            "no space" => self.etcd.fill().await,
            other => Err(Error::invalid(format!("no impairment of etcd: {other}"))),
        }
    }

    async fn mend(&self) -> Result<()> {
        self.etcd.make_room().await
    }

    fn secrets(&self) -> Vec<String> {
        [vec![PASSWORD.to_owned()], self.impostors.secrets()].concat()
    }

    async fn stranger(&self) -> Result<Arc<dyn Backend>> {
        join(url(&self.endpoint(), "root", "not-the-password")).await
    }

    async fn impostors(&self) -> Result<Vec<Impostor>> {
        let start = async |tls| EtcdSetup::new().password(PASSWORD).tls(&tls).start().await;
        self.impostors
            .meet(start, |server, authority, client| {
                let files = query(authority.certificate(), Some(client));
                open(&format!("etcds://root:{PASSWORD}@{}?{files}", server.address()))
            })
            .await
    }

    async fn least_privileged(&self) -> Result<Arc<dyn Backend>> {
        self.account("locks", "fencepost").await
    }

    async fn foreign(&self) -> Result<Arc<dyn Backend>> {
        self.account("neighbour", "neighbour").await
    }
}

async fn join(url: String) -> Result<Arc<dyn Backend>> {
    EtcdConnector::with_options(options()).connect(&mut StoreUrl::parse(&url)?).await
}

fn open(url: &str) -> Result<Arc<dyn Backend>> {
    EtcdConnector::with_options(options()).open(&mut StoreUrl::parse(url)?)
}

fn options() -> EtcdOptions {
    EtcdOptions::new().connect_timeout(CONNECT_TIMEOUT)
}

fn url(address: &str, user: &str, password: &str) -> String {
    format!("etcd://{user}:{password}@{address}")
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

fn main() -> ExitCode {
    Suite::new("etcd", Alone::start).promises(Promises::of_this_project("etcd")).children(join).main()
}
