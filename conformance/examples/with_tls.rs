//! Runs a command beside a server that speaks TLS and asks for certificates: `redis`, `etcd` or `zookeeper`. Its URL is in
//! `FENCEPOST_URL`; the status is the command's.
//!
//! ```sh
//! cargo run -p lock-conformance --example with_tls -- redis fencepost run report -- ./report
//! ```

use std::any::Any;
use std::process::ExitCode;

use lock_conformance::servers::{Authority, ClientCertificates, EtcdSetup, RedisSetup, Tls, ZooKeeperSetup};
use lock_core::{Error, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let (Some(store), Some(program)) = (words.next(), words.next()) else {
        return Err(Error::invalid("name a store, redis, etcd or zookeeper, and the command to run"));
    };
    let authority = Authority::new()?;
    let tls = Tls::new(&authority, authority.server()?).client_certificates(ClientCertificates::Required);
    let (_server, url) = start(&store.to_string_lossy(), &tls).await?;
    let client = authority.client("the command's")?;
    let url = format!(
        "{url}?ca_file={}&cert_file={}&key_file={}",
        authority.certificate().display(),
        client.certificate().display(),
        client.key().display()
    );
    let mut command = tokio::process::Command::new(&program);
    let status = command.args(words).env("FENCEPOST_URL", url).status().await.map_err(|error| {
        Error::unavailable(format!("{} cannot be run", program.to_string_lossy())).caused_by(error)
    })?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A server, and its URL without the files.
async fn start(store: &str, tls: &Tls) -> Result<(Box<dyn Any>, String)> {
    match store {
        "redis" => {
            let server = RedisSetup::new().tls(tls).start().await?;
            let url = server.url();
            Ok((Box::new(server), url))
        }
        "etcd" => {
            let server = EtcdSetup::new().tls(tls).start().await?;
            let url = format!("etcds://{}", server.address());
            Ok((Box::new(server), url))
        }
        "zookeeper" => {
            let server = ZooKeeperSetup::new().tls(tls).start().await?;
            let url = format!("zookeepers://{}", server.address());
            Ok((Box::new(server), url))
        }
        other => {
            Err(Error::invalid(format!("there is no store {other} with TLS here: redis, etcd or zookeeper")))
        }
    }
}
