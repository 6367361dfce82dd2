//! What a client does and sees, each within a time.

use std::fmt::Debug;
use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use lock_conformance::proxy::Proxy;
use lock_core::{BootTime, Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No wait is longer, and only a broken proxy makes one that long.
const LIMIT: Duration = Duration::from_secs(20);

/// For what must not come.
const WHILE: Duration = Duration::from_millis(60);

pub(crate) async fn connect(proxy: &Proxy) -> TcpStream {
    connect_to(&proxy.address()).await
}

pub(crate) async fn connect_to(address: &str) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) async fn ask(client: &mut TcpStream, message: &[u8]) {
    let (mut from, mut to) = client.split();
    let mut reply = vec![0; message.len()];
    let both = async { tokio::join!(to.write_all(message), from.read_exact(&mut reply)) };
    let (written, read) = within("a reply", both).await;
    written.unwrap();
    read.unwrap();
    assert!(reply == message, "another reply");
}

pub(crate) async fn read(client: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut reply = vec![0; length];
    within("a reply", client.read_exact(&mut reply)).await.unwrap();
    reply
}

pub(crate) async fn silence(client: &mut TcpStream) {
    let mut byte = [0];
    tokio::select! {
        biased;
        heard = client.read(&mut byte) => panic!("{heard:?} instead of silence"),
        () = SystemClock::new().sleep(WHILE) => {}
    }
}

pub(crate) async fn assert_reset(client: &mut TcpStream) {
    let mut byte = [0];
    let read = within("a reset", client.read(&mut byte)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Some of these bytes may have been lost with the reset; there were no others.
pub(crate) async fn assert_reset_after(client: &mut TcpStream, bytes: &[u8]) {
    let mut heard = Vec::new();
    let read = within("a reset", client.read_to_end(&mut heard)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(bytes.starts_with(&heard), "{heard:?}");
}

/// Ended in either way.
pub(crate) async fn assert_over(client: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the end", client.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

pub(crate) async fn within<T>(what: impl Debug, coming: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        it = coming => it,
        () = SystemClock::new().sleep(LIMIT) => panic!("{what:?} did not come within {LIMIT:?}"),
    }
}

pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    within(what, async {
        while !so() {
            SystemClock::new().sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) async fn pause() {
    SystemClock::new().sleep(WHILE).await;
}

pub(crate) fn now() -> BootTime {
    SystemClock::new().boot()
}
