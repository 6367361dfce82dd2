//! [`StoreUrl`]: a store's URL, with several hosts if it has them.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, ErrorKind, Result};

/// A store's URL, split. Its `Debug` and `Display` never show a password.
///
/// ```
/// use lock_core::StoreUrl;
///
/// let url = StoreUrl::parse("etcd://app:s3cret@e1:2379,e2,[::1]:2379/root?ttl=5s")?;
/// assert_eq!(url.scheme(), "etcd");
/// assert_eq!(url.hosts().len(), 3);
/// assert_eq!(url.path(), "/root");
/// assert_eq!(url.to_string(), "etcd://app:***@e1:2379,e2,[::1]:2379/root");
/// # Ok::<(), lock_core::Error>(())
/// ```
///
/// The `url` crate refuses an authority of several hosts with ports; so this splits it itself.
#[derive(Clone)]
pub struct StoreUrl {
    scheme: String,
    has_authority: bool,
    user: Option<String>,
    password: Option<SecretString>,
    hosts: Vec<Host>,
    path: String,
    query: Vec<(String, String)>,
    known: Vec<String>,
}

/// One host of a URL's authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Host {
    /// A name or an address, without brackets.
    pub name: String,
    /// The port, where one is given.
    pub port: Option<u16>,
}

impl StoreUrl {
    /// Splits a URL.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured), without repeating what might be a password.
    pub fn parse(text: &str) -> Result<StoreUrl> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            wrong("a store's URL begins with a scheme, as in file:///var/lib/app/locks or memory:")
        })?;
        let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !scheme_is_valid {
            return Err(wrong(
                "what stands before the first colon of a store's URL is not a scheme (letters, digits, + - .)",
            ));
        }
        if rest.contains('#') {
            return Err(wrong("a store's URL has no #fragment; write %23 for the character"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            None => (None, rest),
        };
        let credentials_are_split =
            authority.is_some_and(|authority| authority.is_empty() || authority.contains('@'));
        let keys = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        if !credentials_are_split && std::iter::once(path).chain(keys).any(|part| part.contains('@')) {
            // What follows may be the rest of a password: it is not to be shown as a path.
            return Err(wrong(
                "an @ stands behind the host: in a user or password write / as %2F, ? as %3F and @ as %40, and begin with \
                 two slashes, as in redis://user:password@host",
            ));
        }
        let mut url = StoreUrl {
            scheme: scheme.to_ascii_lowercase(),
            has_authority: authority.is_some(),
            user: None,
            password: None,
            hosts: Vec::new(),
            path: decode(path)?,
            query: Vec::new(),
            known: Vec::new(),
        };
        url.split_authority(authority.unwrap_or_default())?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key)?;
            if url.query.iter().any(|(other, _)| *other == key) {
                return Err(wrong(format!("the query key {key:?} is given twice")));
            }
            url.query.push((key, decode(&value.replace('+', "%20"))?));
        }
        Ok(url)
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, decoded.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, decoded.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// Replaces the password, for instance by one that was read from a file.
    pub fn set_password(&mut self, password: SecretString) {
        self.password = Some(password);
    }

    /// The hosts, in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The path with its leading slash, decoded; or whatever follows the scheme of a URL without `//`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Takes a query key that the caller knows; its value, if it is given.
    pub fn take(&mut self, key: &str) -> Option<String> {
        if !self.known.iter().any(|known| known == key) {
            self.known.push(key.to_owned());
        }
        let index = self.query.iter().position(|(name, _)| name == key)?;
        Some(self.query.remove(index).1)
    }

    /// Takes a yes or no: `true`, `false`, or the bare key for `true`.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for another value.
    pub fn take_flag(&mut self, key: &str) -> Result<bool> {
        match self.take(key).as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(wrong(format!("{key}= in a store's URL is true or false"))),
        }
    }

    /// Takes a duration such as `10s`, `500ms` or `5m`; a bare number is in seconds.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for another value.
    pub fn take_duration(&mut self, key: &str) -> Result<Option<Duration>> {
        self.take(key)
            .map(|value| {
                let seconds =
                    value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                seconds.map_or_else(|| humantime::parse_duration(&value), Ok).map_err(|error| {
                    wrong(format!("{key}={value:?} in a store's URL is no duration such as 10s or 500ms"))
                        .caused_by(error)
                })
            })
            .transpose()
    }

    /// Takes the path of a file that holds a secret, and reads it; the line's end does not belong to it.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured) for a file that cannot be read.
    pub fn take_secret_file(&mut self, key: &str) -> Result<Option<SecretString>> {
        let read = |path: String| {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                wrong(format!("the {key} {path:?} cannot be read: {error}")).caused_by(error)
            })?;
            Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
        };
        self.take(key).map(read).transpose()
    }

    /// Splits off these query keys, known from now on, into a URL of their own.
    #[must_use]
    pub fn split_off(&mut self, keys: &[&str]) -> StoreUrl {
        let mut part = self.clone();
        part.query.clear();
        for key in keys {
            part.query.extend(self.take(key).map(|value| ((*key).to_owned(), value)));
        }
        part
    }

    /// Takes every query key that is left, for a driver that knows its own.
    pub fn take_rest(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.query)
    }

    /// Refuses whatever query key nobody took.
    ///
    /// # Errors
    /// [`Misconfigured`](ErrorKind::Misconfigured), naming the key and those that are known.
    pub fn finish(&self) -> Result<()> {
        match self.query.first() {
            None => Ok(()),
            Some((key, _)) => {
                let mut known = self.known.clone();
                known.sort_unstable();
                Err(wrong(format!(
                    "unknown query key {key:?} in a {}: URL; it knows {}",
                    self.scheme,
                    known.join(", ")
                )))
            }
        }
    }

    fn split_authority(&mut self, authority: &str) -> Result<()> {
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        if let Some(credentials) = credentials {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            self.user = Some(decode(user)?).filter(|user| !user.is_empty());
            self.password = password.map(decode).transpose()?.map(SecretString::from);
        }
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            self.hosts.push(split_host(host)?);
        }
        Ok(())
    }
}

fn split_host(text: &str) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) =
                rest.split_once(']').ok_or_else(|| wrong("an address in [brackets] is not closed"))?;
            match rest.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None if rest.is_empty() => (name, None),
                None => return Err(wrong("after an address in [brackets] only :port may follow")),
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() {
        return Err(wrong("a host in a store's URL is empty"));
    }
    let port = port.map(str::parse).transpose().map_err(|_| {
        wrong("a port in a store's URL is no number up to 65535; write a colon inside a password as %3A")
    })?;
    Ok(Host { name: decode(name)?, port })
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| wrong("a store's URL does not decode to UTF-8"))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Misconfigured, message)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if self.has_authority {
            f.write_str("//")?;
        }
        if self.user.is_some() || self.password.is_some() {
            f.write_str(self.user.as_deref().unwrap_or_default())?;
            f.write_str(if self.password.is_some() { ":***@" } else { "@" })?;
        }
        for (index, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if index > 0 { "," } else { "" })?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for StoreUrl {
    /// Without the query, whose values may be secrets of a driver.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &StoreUrl) -> bool {
        let secret = |url: &StoreUrl| url.password.as_ref().map(|p| p.expose_secret().to_owned());
        (&self.scheme, &self.user, &self.hosts, &self.path, &self.query)
            == (&other.scheme, &other.user, &other.hosts, &other.path, &other.query)
            && secret(self) == secret(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let mut url = StoreUrl::parse("postgres://u:p%40ss@h1:5432,h2/db%20x?ttl=5s&a=b%26c").unwrap();
        assert_eq!(url.user(), Some("u"));
        assert_eq!(url.password().unwrap().expose_secret(), "p@ss");
        assert_eq!(url.hosts()[1], Host { name: "h2".into(), port: None });
        assert_eq!(url.path(), "/db x");
        assert_eq!(url.take_duration("ttl").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(url.take("a").as_deref(), Some("b&c"));
        url.finish().unwrap();
    }

    #[test]
    fn without_an_authority() {
        assert_eq!(StoreUrl::parse("memory:").unwrap().path(), "");
        assert_eq!(StoreUrl::parse("memory:shared").unwrap().path(), "shared");
        assert_eq!(StoreUrl::parse("file:///var/lib").unwrap().path(), "/var/lib");
    }

    #[test]
    fn a_bare_number_is_in_seconds() {
        for (text, millis) in [("10", 10_000), ("0.5", 500), ("500ms", 500), ("1m", 60_000)] {
            let mut url = StoreUrl::parse(&format!("a:?ttl={text}")).unwrap();
            assert_eq!(url.take_duration("ttl").unwrap(), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["-1", "soon", "inf", "NaN", ""] {
            let error = StoreUrl::parse(&format!("a:?ttl={text}")).unwrap().take_duration("ttl").unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Misconfigured, "{text}");
        }
    }

    #[test]
    fn an_at_is_fine_where_it_can_be_no_password() {
        assert_eq!(StoreUrl::parse("file:///var/a@b").unwrap().path(), "/var/a@b");
        assert_eq!(StoreUrl::parse("a://u:p@h/d@x").unwrap().path(), "/d@x");
        assert_eq!(StoreUrl::parse("a://h/?name=a@b").unwrap().take("name").as_deref(), Some("a@b"));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let mut url = StoreUrl::parse("file:///x?tll=5s").unwrap();
        url.take("ttl");
        let error = url.finish().unwrap_err().to_string();
        assert!(error.contains("\"tll\"") && error.contains("it knows ttl"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_refused_without_showing_a_password() {
        for text in [
            "",
            "x",
            "://h",
            "1a://h",
            "a://u:s3cret@h:port/",
            "a://u:s3cret@[::1/",
            "a://h,/x",
            "a://u:s3c:ret@h:1x",
            "a://h/%ff",
            "a://h?x=1&x=2",
            "a://u:s3cret@h#f",
            "a://u:12/s3cret@h/0",
            "a://u:1?s3cret@h/0",
            "a:u:s3cret@h/0",
        ] {
            let error = StoreUrl::parse(text).expect_err(text).to_string();
            assert!(!error.contains("s3c"), "{error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = StoreUrl::parse("redis://:hunter2@h/0?secret=hunter2").unwrap();
        assert_eq!(format!("{url} {url:?}"), "redis://:***@h/0 StoreUrl(redis://:***@h/0)");
    }
}
