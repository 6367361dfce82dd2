//! [`Dial`]: where servers are, and how a line to one of them is made.

use std::fmt;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use lock_core::{Error, ErrorKind, ExposeSecret, Result, SystemClock, within};
use lock_tls::choose_provider;

use crate::failure::{is_hung_up, refused};
use crate::handshake;
use crate::options::{EtcdOptions, KEEP_ALIVE};
use crate::tls;

/// Where servers are, and how a line to one of them is made.
pub(crate) struct Dial {
    /// `host:port`, one at least.
    endpoints: Vec<String>,
    with_tls: bool,
    /// The application's own, if it has brought some.
    driver: Option<ConnectOptions>,
    options: EtcdOptions,
}

impl Dial {
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) without an endpoint, or for what does not go together; files for TLS that
    /// cannot be used.
    pub(crate) fn new(endpoints: Vec<String>, with_tls: bool, options: EtcdOptions) -> Result<Dial> {
        options.files.suit(with_tls, "etcds")?;
        if endpoints.is_empty() {
            return Err(wrong("there is no endpoint: name one server of etcd at least"));
        }
        let dial = Dial { endpoints, with_tls, driver: None, options };
        // Whatever is wrong with the files is said now.
        dial.settings("")?;
        Ok(dial)
    }

    /// To endpoints as etcd writes them, `http://host:2379`.
    pub(crate) fn like(urls: Vec<String>, driver: ConnectOptions, options: EtcdOptions) -> Result<Dial> {
        let mut endpoints = Vec::new();
        let (mut plain, mut with_tls) = (false, options.is_with_tls());
        let asks_for_tls = with_tls;
        for url in urls {
            let (scheme, rest) = url.split_once("://").unwrap_or_default();
            match scheme {
                "http" => plain = true,
                "https" => with_tls = true,
                // Not repeated: there may be a password in it.
                _ => return Err(wrong("an endpoint of etcd begins with http:// or https://")),
            }
            let endpoint = rest.trim_end_matches('/');
            if endpoint.is_empty() || endpoint.contains(['/', '?', '#', '@', ',']) {
                return Err(wrong(
                    "an endpoint of etcd is a host and a port, as in http://e1:2379, with nothing before or behind them",
                ));
            }
            endpoints.push(endpoint.to_owned());
        }
        if plain && with_tls {
            return Err(wrong(if asks_for_tls {
                "TLS is asked for, and an endpoint is without: it has to begin with https://"
            } else {
                "some endpoints begin with http:// and others with https://: it is one or the other"
            }));
        }
        if with_tls {
            choose_provider();
        }
        Ok(Dial { driver: Some(driver), ..Dial::new(endpoints, with_tls, options)? })
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.with_tls { "etcds" } else { "etcd" }
    }

    /// For how long a server may be silent at first: a share of the time for each endpoint, so that one that hangs leaves some for another.
    fn share(&self) -> Duration {
        self.options.connect_timeout / u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX).max(1)
    }

    /// The driver's client for one of the endpoints, which has answered. Files are read for each, so that they may be renewed.
    pub(crate) async fn line(&self, endpoint: &str) -> Result<Client, Failed> {
        let settings = self.settings(endpoint).map_err(|error| Failed::Here(Box::new(error)))?;
        let scheme = if self.with_tls { "https" } else { "http" };
        let limit = self.share();
        // With a user the driver asks for a token by itself, and else for nothing: an answer is asked for here.
        let connecting = async {
            let client = Client::connect([format!("{scheme}://{endpoint}")], Some(settings)).await?;
            client.maintenance_client().status().await?;
            Ok(client)
        };
        match within(&SystemClock::new(), limit, connecting).await {
            Some(Ok(client)) => Ok(client),
            Some(Err(error)) => Err(match self.refusal(endpoint, &error).await {
                Some(refusal) => Failed::Refused(refusal.caused_by(error)),
                None => Failed::There(error),
            }),
            None => Err(Failed::Silent(silent(limit))),
        }
    }

    /// Why the server has ended a new connection, where the driver knows no more than that it did.
    async fn refusal(&self, endpoint: &str, error: &etcd_client::Error) -> Option<Error> {
        if !self.knows_tls() || !is_hung_up(error) {
            return None;
        }
        handshake::refusal_of(endpoint, host(endpoint), &self.options.files).await.map(refused)
    }

    /// Whether what concerns TLS is in these options, and not in an application's own.
    fn knows_tls(&self) -> bool {
        self.with_tls && (self.driver.is_none() || self.options.is_with_tls())
    }

    fn settings(&self, endpoint: &str) -> Result<ConnectOptions> {
        let options = &self.options;
        let mut settings = self
            .driver
            .clone()
            .unwrap_or_default()
            .with_connect_timeout(options.connect_timeout)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &options.user {
            settings = settings.with_user(name, password.expose_secret());
        }
        // What an application's own options bring with them stays, unless these say something of their own.
        if self.knows_tls() {
            let mut tls = tls::options(&options.files)?;
            // The driver would look for the brackets of an address in the certificate.
            if endpoint.starts_with('[') {
                tls = tls.domain_name(host(endpoint));
            }
            settings = settings.with_tls(tls);
        }
        Ok(settings)
    }
}

impl fmt::Debug for Dial {
    /// Without the driver's settings: there is a password in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.endpoints.join(","))
    }
}

/// Why there is no line.
pub(crate) enum Failed {
    /// Nothing was sent.
    Here(Box<Error>),
    /// What the driver says.
    There(etcd_client::Error),
    /// Nobody has said anything.
    Silent(Error),
    /// What the server says, which the driver has missed.
    Refused(Error),
}

/// Nobody has said anything for so long.
fn silent(limit: Duration) -> Error {
    Error::unavailable(format!(
        "no answer within {limit:?}; is it up, can it be reached from here, and does it speak TLS where the URL says so?"
    ))
}

/// Of `host:port`, or `[address]:port`.
fn host(endpoint: &str) -> &str {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}
