//! [`Impostors`]: servers whose certificates do not hold, for scenario 79.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use lock_core::{Backend, Error, Result};

use super::flaws;
use crate::remote::Impostor;
use crate::servers::{Authority, Certificate, ClientCertificates, Tls};

/// Servers whose certificates do not hold, which run for as long as this is kept.
///
/// A fixture keeps it, answers [`impostors`](crate::Remote::impostors) with those whom its clients [meet](Impostors::meet), and
/// names the [`secrets`](Impostors::secrets) among its own.
#[derive(Debug)]
pub struct Impostors<Server>(Mutex<Started<Server>>);

#[derive(Debug)]
struct Started<Server> {
    servers: Vec<Server>,
    /// The private keys of those who were led to them, line by line: whoever prints a text may print it on one.
    keys: Vec<String>,
}

impl<Server> Impostors<Server> {
    /// Starts one with each [flaw](super::Flaw). They ask clients for certificates, and have to know the store's password: they show
    /// their own before they are told it. A client that is opened goes by the authority, and has the certificate.
    ///
    /// # Errors
    /// A server does not start, or a client cannot be made.
    pub async fn meet<F>(
        &self,
        start: impl Fn(Tls) -> F,
        open: impl Fn(&Server, &Authority, &Certificate) -> Result<Arc<dyn Backend>>,
    ) -> Result<Vec<Impostor>>
    where
        F: Future<Output = Result<Server>>,
    {
        let authority = Authority::new()?;
        let client = authority.client("locks")?;
        let key = std::fs::read_to_string(client.key())
            .map_err(|error| Error::unavailable("a private key cannot be read").caused_by(error))?;
        self.remember(|started| started.keys.extend(lines(&key)));
        let mut impostors = Vec::new();
        for flaw in flaws(&authority)? {
            let tls =
                Tls::new(&authority, flaw.certificate).client_certificates(ClientCertificates::Required);
            let server = start(tls).await?;
            impostors.push(Impostor { flaw: flaw.name, client: open(&server, &authority, &client)? });
            self.remember(|started| started.servers.push(server));
        }
        Ok(impostors)
    }

    /// What nobody may see of what they have met.
    pub fn secrets(&self) -> Vec<String> {
        self.remember(|started| started.keys.clone())
    }

    fn remember<T>(&self, what: impl FnOnce(&mut Started<Server>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<Server> Default for Impostors<Server> {
    fn default() -> Impostors<Server> {
        Impostors(Mutex::new(Started { servers: Vec::new(), keys: Vec::new() }))
    }
}

fn lines(pem: &str) -> impl Iterator<Item = String> {
    pem.lines().filter(|line| !line.is_empty() && !line.starts_with('-')).map(str::to_owned)
}
