//! What a test does to a ZooKeeper server in its own protocol.

use std::sync::atomic::{AtomicBool, Ordering};

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
        let was_there = AtomicBool::new(false);
        // The client whose session it is takes it back as soon as it hears of this. So both requests go together; and if that was
        // not fast enough, again.
        let close = framed(&[1_i32.to_be_bytes(), CLOSE.to_be_bytes()].concat());
        until("a session has been ended", async || {
            let (mut stream, found) = self.session(session, password_of(session), &close).await?;
            if found == session {
                was_there.store(true, Ordering::SeqCst);
                hear(&mut stream).await?;
            }
            Ok(Some(()))
        })
        .await?;
        match was_there.into_inner() {
            true => Ok(()),
            false => Err(Error::invalid(format!("there is no session {session:#x}"))),
        }
    }

    /// Begins a session, and returns its number. Nobody keeps it.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn begin_session(&self) -> Result<i64> {
        self.session(0, [0; 16], &[]).await.map(|(_, session)| session)
    }

    /// The session in which the server takes who knows its password; zero, where there is none. What is asked further goes with it.
    async fn session(&self, session: i64, password: [u8; 16], further: &[u8]) -> Result<(TcpStream, i64)> {
        let mut stream = TcpStream::connect(self.plain()).await.map_err(silent)?;
        // Version, what was seen last, the timeout, the session, its password, and whether reading would do.
        let connect: [&[u8]; 7] = [
            &0_i32.to_be_bytes(),
            &0_i64.to_be_bytes(),
            &10_000_i32.to_be_bytes(),
            &session.to_be_bytes(),
            &16_i32.to_be_bytes(),
            &password,
            &[0],
        ];
        let words = [&framed(&connect.concat()), further].concat();
        stream.write_all(&words).await.map_err(silent)?;
        let answer = hear(&mut stream).await?;
        let found = answer.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        let found = found.ok_or_else(|| Error::unavailable("the server says something else"))?;
        Ok((stream, found))
    }

    /// Connects until it lets nobody in any more. Its room is free again when what is returned is dropped.
    ///
    /// # Errors
    /// It still does after twenty seconds.
    pub async fn fill_its_room(&self) -> Result<Vec<TcpStream>> {
        let mut held = std::sync::Mutex::new(Vec::new());
        until("no room for another connection", async || {
            // It may be closed before this side knows that it is open.
            let Ok(stream) = TcpStream::connect(self.plain()).await else { return Ok(Some(())) };
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
        seed = (seed.wrapping_mul(MULTIPLIER).wrapping_add(0xB)) & MASK;
        let number = (seed >> 16) as i32;
        word.copy_from_slice(&number.to_le_bytes());
    }
    password
}

fn framed(words: &[u8]) -> Vec<u8> {
    let length = i32::try_from(words.len()).unwrap_or(i32::MAX).to_be_bytes();
    [&length, words].concat()
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
