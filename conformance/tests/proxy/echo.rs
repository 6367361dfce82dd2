//! [`Echo`]: a server that says whatever it hears, and counts.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::until;

/// A server that says whatever it hears.
pub(crate) struct Echo {
    heard: Arc<Heard>,
    address: String,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Echo {
    pub(crate) async fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let heard = Arc::new(Heard::default());
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(listen(listener, heard.clone()));
        Echo { heard, address, task: Mutex::new(Some(task)) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How many have connected.
    pub(crate) fn accepted(&self) -> usize {
        self.heard.accepted.load(Ordering::SeqCst)
    }

    /// How many are connected.
    pub(crate) fn open(&self) -> usize {
        self.heard.open.load(Ordering::SeqCst)
    }

    /// How many bytes have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.heard.received.load(Ordering::SeqCst)
    }

    /// How many connections have ended by a reset.
    pub(crate) fn resets(&self) -> usize {
        self.heard.resets.load(Ordering::SeqCst)
    }

    /// As a killed process does: its connections end.
    pub(crate) async fn die(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
        until("the server is dead", || self.open() == 0).await;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }
}

#[derive(Default)]
struct Heard {
    accepted: AtomicUsize,
    open: AtomicUsize,
    received: AtomicU64,
    resets: AtomicUsize,
}

async fn listen(listener: TcpListener, heard: Arc<Heard>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                heard.accepted.fetch_add(1, Ordering::SeqCst);
                heard.open.fetch_add(1, Ordering::SeqCst);
                connections.spawn(echo(stream, Counted(heard.clone())));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Counted(Arc<Heard>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn echo(mut stream: TcpStream, heard: Counted) {
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return,
            Ok(length) => {
                heard.0.received.fetch_add(length as u64, Ordering::SeqCst);
                if stream.write_all(&buffer[..length]).await.is_ok() {
                    continue;
                }
            }
            Err(_) => {}
        }
        heard.0.resets.fetch_add(1, Ordering::SeqCst);
        return;
    }
}
