//! Runs a command beside a Redis that speaks TLS and asks for certificates. Its URL is in `FENCEPOST_URL`; the status is the
//! command's.
//!
//! ```sh
//! cargo run -p lock-conformance --example redis_with_tls -- fencepost run report -- ./report
//! ```

use std::process::ExitCode;

use lock_conformance::servers::{Authority, ClientCertificates, RedisSetup, Tls};
use lock_core::{Error, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| Error::invalid("there is no command to run"))?;
    let authority = Authority::new()?;
    let tls = Tls::new(&authority, authority.server()?).client_certificates(ClientCertificates::Required);
    let server = RedisSetup::new().tls(&tls).start().await?;
    let client = authority.client("the command's")?;
    let url = format!(
        "{}?ca_file={}&cert_file={}&key_file={}",
        server.url(),
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
