//! [`ask`]: as much of etcd's HTTP gateway as a test needs to look at a server by itself, without any driver.
//!
//! It goes over the server's Unix socket, which speaks neither TLS nor hears of a network that is cut, and in JSON, where
//! keys and values are Base64 and 64-bit numbers are strings.

use std::path::Path;

use lock_core::{Error, ErrorKind, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Calls one method: `/v3/kv/range`.
///
/// # Errors
/// No answer, or a refusal; its message is etcd's.
pub(super) async fn ask(socket: &Path, method: &str, request: &Value, token: Option<&str>) -> Result<Value> {
    let request = request.to_string();
    let authorization = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    // Of version 1.0: the answer comes in one piece, and ends with the connection.
    let head = format!(
        "POST {method} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\n{authorization}\
         Content-Length: {}\r\n\r\n",
        request.len(),
    );
    let mut stream = UnixStream::connect(socket).await.map_err(broken)?;
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(broken)?;
    let answer = String::from_utf8_lossy(&answer);
    let garbled = || Error::new(ErrorKind::Protocol, format!("not etcd's gateway: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(garbled)?;
    let status = head.split(' ').nth(1).ok_or_else(garbled)?;
    let body: Value = serde_json::from_str(body).map_err(|error| garbled().caused_by(error))?;
    if status == "200" { Ok(body) } else { Err(refusal(&body)) }
}

/// A field of 64 bits; etcd leaves out what is 0.
pub(super) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// As bytes stand in JSON.
pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    for three in bytes.as_ref().chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text
}

/// The bytes that stand in JSON. Nothing is an empty value.
pub(super) fn decoded(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap_or_default().bytes();
    let digits: Vec<_> = digits.filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = (0..4).fold(0, |bits, at| bits << 6 | four.get(at).copied().unwrap_or(0));
        let [.., first, second, third] = bits.to_be_bytes();
        bytes.extend([first, second, third].iter().take(four.len().saturating_sub(1)));
    }
    bytes
}

/// The end of the keys that begin like this: it is not among them.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // As etcd calls the end of all keys.
    vec![0]
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// By the number that gRPC has for it.
fn refusal(body: &Value) -> Error {
    let message = body["error"].as_str().unwrap_or("a refusal without a word").to_owned();
    let kind = match body["code"].as_u64() {
        Some(3) if message.contains("authentication failed") => ErrorKind::Denied,
        Some(3 | 5 | 6 | 9 | 11) => ErrorKind::InvalidInput,
        Some(4) => ErrorKind::TimedOut,
        Some(7 | 16) => ErrorKind::Denied,
        Some(8) => ErrorKind::Exhausted,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, message)
}

fn broken(error: std::io::Error) -> Error {
    Error::unavailable("no connection to the server").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back() {
        for (bytes, text) in [
            (b"".as_slice(), ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\x00", "//79AA=="),
        ] {
            assert_eq!(encoded(bytes), text);
            assert_eq!(decoded(&Value::from(text)), bytes);
        }
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(end_of(b"ab"), b"ac");
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b"\xff"), b"\0");
        assert_eq!(end_of(b""), b"\0");
    }
}
