//! [`Reply`]: as much of Redis's protocol as a test needs to look at a server by itself, without any driver.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use lock_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

/// What a server answers. Bytes that are no text are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is nothing.
    Nil,
    /// A status, or a string.
    Text(String),
    /// An integer.
    Number(i64),
    /// A refusal, with its code: `NOAUTH Authentication required.`
    Error(String),
    /// An array.
    List(Vec<Reply>),
}

/// A connection to a server.
pub(super) struct Connection(BufReader<Box<dyn Stream>>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        Ok(Connection(BufReader::new(Box::new(stream))))
    }

    pub(super) async fn open_socket(path: &Path) -> Result<Connection> {
        let stream = UnixStream::connect(path).await.map_err(broken)?;
        Ok(Connection(BufReader::new(Box::new(stream))))
    }

    pub(super) async fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.write_all(request.as_bytes()).await.map_err(broken)?;
        self.reply().await
    }

    /// Boxed: a list has replies in it.
    fn reply(&mut self) -> Pin<Box<dyn Future<Output = Result<Reply>> + Send + '_>> {
        Box::pin(async {
            let line = self.line().await?;
            let mut characters = line.chars();
            let kind = characters.next();
            let rest = characters.as_str();
            Ok(match kind {
                Some('+') => Reply::Text(rest.to_owned()),
                Some('-') => Reply::Error(rest.to_owned()),
                Some(':') => Reply::Number(number(rest)?),
                Some('$') => match u64::try_from(number(rest)?) {
                    Ok(length) => Reply::Text(self.text(length).await?),
                    Err(_) => Reply::Nil,
                },
                Some('*') => match u64::try_from(number(rest)?) {
                    Ok(length) => {
                        let mut list = Vec::new();
                        for _ in 0..length {
                            list.push(self.reply().await?);
                        }
                        Reply::List(list)
                    }
                    Err(_) => Reply::Nil,
                },
                _ => return Err(nonsense(&line)),
            })
        })
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.map_err(broken)?;
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return Err(Error::unavailable("the server closed the connection instead of answering"));
        };
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    async fn text(&mut self, length: u64) -> Result<String> {
        let mut bytes = Vec::new();
        (&mut self.0).take(length + 2).read_to_end(&mut bytes).await.map_err(broken)?;
        match bytes.strip_suffix(b"\r\n") {
            Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            None => Err(nonsense("a string that is cut short")),
        }
    }
}

fn number(text: &str) -> Result<i64> {
    text.parse().map_err(|_| nonsense(text))
}

fn nonsense(text: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("not a reply of Redis: {text:?}"))
}

fn broken(error: std::io::Error) -> Error {
    Error::unavailable("the connection failed").caused_by(error)
}
