//! Certificates that are renewed under a client that runs.

use std::path::PathBuf;
use std::time::Duration;

use lock_core::{Error, ErrorKind, Lock, LockClient, Result, async_trait};
use tempfile::TempDir;

use super::working::is_renewed;
use super::{TlsStore, query};
use crate::servers::{Authority, Certificate, ClientCertificates, Tls};
use crate::verdict::{Verdict, expect, expect_eq};

const SECOND: Duration = Duration::from_secs(1);

/// A store whose server can be ended, and started again with what has become of its files.
#[async_trait]
pub trait Restarting: TlsStore {
    /// Kills it as `kill -9` does.
    async fn kill(&self, server: &Self::Server) -> Result<()>;

    /// Starts it again at the same address.
    async fn start_again(&self, server: &Self::Server) -> Result<()>;
}

/// A new authority, and certificates of it, in the files of the old ones: on the server, which is started again, and with the
/// client, which is not.
///
/// # Errors
/// What has failed.
pub async fn file_by_file<S: Restarting>(store: &S) -> Verdict {
    let renewal = Renewal::new()?;
    let server = store.start(Some(&renewal.tls()), false).await?;
    let client = client(store, &server, &renewal, 30 * SECOND)?;
    renewal.is_not_needed_by(&client).await?;

    store.kill(&server).await?;
    renewal.server()?;
    store.start_again(&server).await?;
    let lock = client.mutex("k")?;
    refused(&lock, "ca_file").await?;
    // On a line that was made since, it is the file that is wrong.
    let error = refused(&lock, "ca_file").await?;
    expect_eq("kind", (error.kind(), error.is_retryable()), (&ErrorKind::Denied, false))?;

    renewal.known()?;
    refused(&lock, "cert_file").await?;

    renewal.client()?;
    lock.acquire().await?.release().await?;
    Ok(())
}

/// All at once, under a hold: the line that was made with the old ones is given up without anybody being told.
///
/// # Errors
/// What has failed.
pub async fn under_a_hold<S: Restarting>(store: &S) -> Verdict {
    let renewal = Renewal::new()?;
    let server = store.start(Some(&renewal.tls()), false).await?;
    let client = client(store, &server, &renewal, 6 * SECOND)?;
    let held = client.mutex("k")?.acquire().await?;
    store.kill(&server).await?;
    renewal.server()?;
    renewal.known()?;
    renewal.client()?;
    store.start_again(&server).await?;
    client.mutex("other")?.acquire().await?.release().await?;
    is_renewed(&held, 7 * SECOND).await?;
    held.release().await?;
    Ok(())
}

fn client<S: TlsStore>(
    store: &S,
    server: &S::Server,
    renewal: &Renewal,
    ttl: Duration,
) -> Result<LockClient> {
    let url = format!("{}s://{}?{}", store.scheme(), store.address(server), renewal.query());
    LockClient::builder(store.open(&url)?).ttl(ttl).build()
}

/// What an attempt is told as soon as it is told these words. A connection that has just broken says nothing about certificates yet.
async fn refused(lock: &Lock, words: &str) -> Verdict<Error> {
    loop {
        match lock.try_acquire().await {
            Err(error) if error.message().contains(words) => return Ok(error),
            Err(error) => expect(error.is_retryable(), format_args!("an error about {words}"), error)?,
            Ok(_) => expect(false, format_args!("an error about {words}"), "none")?,
        }
    }
}

/// A new authority, and certificates of it, which take the place of the old ones file by file.
#[derive(Debug)]
pub struct Renewal {
    old: Authority,
    new: Authority,
    of_server: Certificate,
    of_client: Certificate,
    /// What the client goes by, in a directory of its own.
    known: PathBuf,
    _directory: TempDir,
}

impl Renewal {
    /// With the old ones in place.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn new() -> Verdict<Renewal> {
        let (old, new) = (Authority::new()?, Authority::new()?);
        let directory = tempfile::tempdir()?;
        let known = directory.path().join("authority.crt");
        std::fs::copy(old.certificate(), &known)?;
        let (of_server, of_client) = (old.server()?, old.client("locks")?);
        Ok(Renewal { old, new, of_server, of_client, known, _directory: directory })
    }

    /// For the server: it asks clients for certificates.
    pub fn tls(&self) -> Tls {
        Tls::new(&self.old, self.of_server.clone()).client_certificates(ClientCertificates::Required)
    }

    /// The query of the client's URL.
    pub fn query(&self) -> String {
        query(&self.known, Some(&self.of_client))
    }

    /// A connection that is open has no use for the files.
    ///
    /// # Errors
    /// What has failed.
    pub async fn is_not_needed_by(&self, client: &LockClient) -> Verdict {
        client.mutex("k")?.acquire().await?.release().await?;
        std::fs::write(&self.known, "no certificate")?;
        client.mutex("k")?.acquire().await?.release().await?;
        std::fs::copy(self.old.certificate(), &self.known)?;
        Ok(())
    }

    /// The server's certificate, and whom it goes by.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn server(&self) -> Verdict {
        std::fs::copy(self.new.certificate(), self.old.certificate())?;
        replace(&self.of_server, &self.new.server()?)
    }

    /// Whom the client goes by.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn known(&self) -> Verdict {
        std::fs::copy(self.new.certificate(), &self.known)?;
        Ok(())
    }

    /// The client's certificate.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client(&self) -> Verdict {
        replace(&self.of_client, &self.new.client("locks")?)
    }
}

fn replace(old: &Certificate, new: &Certificate) -> Verdict {
    std::fs::copy(new.certificate(), old.certificate())?;
    std::fs::copy(new.key(), old.key())?;
    Ok(())
}
