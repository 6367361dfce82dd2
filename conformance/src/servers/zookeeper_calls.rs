//! What a test does to a ZooKeeper server in its own protocol.

use lock_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::waiting::until;
use super::zookeeper::ZooKeeper;

const CLOSE: i32 = -11;

impl ZooKeeper {
    /// Ends a session, which the servers know by this number, as somebody does who takes it over and closes it. Returns once the
    /// server has said so.
    ///
    /// # Errors
    /// There is no such session, or the server does not answer.
    pub async fn end_session(&self, session: i64) -> Result<()> {
        let mut stream = TcpStream::connect(self.plain()).await.map_err(silent)?;
        // Version, what was seen last, the timeout, the session, its password, and whether reading would do.
        let mut connect = Vec::new();
        connect.extend(0_i32.to_be_bytes());
        connect.extend(0_i64.to_be_bytes());
        connect.extend(10_000_i32.to_be_bytes());
        connect.extend(session.to_be_bytes());
        connect.extend(16_i32.to_be_bytes());
        connect.extend(password_of(session));
        connect.push(0);
        say(&mut stream, &connect).await?;
        let answer = hear(&mut stream).await?;
        if answer.get(8..16) != Some(session.to_be_bytes().as_slice()) {
            return Err(Error::invalid(format!("there is no session {session:#x}")));
        }
        say(&mut stream, &[1_i32.to_be_bytes(), CLOSE.to_be_bytes()].concat()).await?;
        hear(&mut stream).await.map(drop)
    }

    /// Connects until it lets nobody in any more. Its room is free again when what is returned is dropped.
    ///
    /// # Errors
    /// It still does after twenty seconds.
    pub async fn fill_its_room(&self) -> Result<Vec<TcpStream>> {
        let mut held = std::sync::Mutex::new(Vec::new());
        until("no room for another connection", async || {
            let mut stream = TcpStream::connect(self.plain()).await.map_err(silent)?;
            // One that is refused is closed at once, and one that is not says nothing.
            stream.write_all(b"").await.map_err(silent)?;
            let is_refused = self.asked("srvr").await.is_err();
            held.lock().map_err(|_| Error::unavailable("a test has failed"))?.push(stream);
            Ok(is_refused.then_some(()))
        })
        .await?;
        Ok(std::mem::take(held.get_mut().map_err(|_| Error::unavailable("a test has failed"))?))
    }
}

/// The servers make it from the session's number, by Java's generator of random numbers.
fn password_of(session: i64) -> [u8; 16] {
    const SECRET: i64 = 0xB341_5C00;
    const MULTIPLIER: i64 = 0x5_DEEC_E66D;
    const MASK: i64 = (1 << 48) - 1;
    let mut seed = (session ^ SECRET ^ MULTIPLIER) & MASK;
    let mut password = [0; 16];
    for word in password.chunks_mut(4) {
        seed = (seed.wrapping_mul(MULTIPLIER) + 0xB) & MASK;
        let number = (seed >> 16) as i32;
        word.copy_from_slice(&number.to_le_bytes());
    }
    password
}

async fn say(stream: &mut TcpStream, words: &[u8]) -> Result<()> {
    let length = i32::try_from(words.len()).unwrap_or(i32::MAX).to_be_bytes();
    stream.write_all(&[&length, words].concat()).await.map_err(silent)
}

async fn hear(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let length = stream.read_u32().await.map_err(silent)?;
    let mut words = vec![0; usize::try_from(length).unwrap_or(0).min(1024)];
    stream.read_exact(&mut words).await.map_err(silent)?;
    Ok(words)
}

fn silent(error: std::io::Error) -> Error {
    Error::unavailable("the server does not answer").caused_by(error)
}
