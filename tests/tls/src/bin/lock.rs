//! Nobody chooses a library for TLS: the one that is compiled in has to do.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    fencepost_tls::take_a_lock().await
}
