//! From `--on`, `FENCEPOST_URL` or nothing to a client.

use std::env::var_os;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use fencepost::backend::{Backend, Connector};
use fencepost::file::FileConnector;
use fencepost::{LockClient, Registry, Result, StoreUrl};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::exit::{CONFIG, DIRECTORY, Failure};
use crate::findings::Findings;
use crate::say::Voice;

/// The variable that names the store.
pub(crate) const URL: &str = "FENCEPOST_URL";

/// A store that was reached.
pub(crate) struct Store {
    pub(crate) client: LockClient,
    directories: Directories,
}

impl Store {
    /// Connects to the store of these options.
    pub(crate) async fn connect(asked: Asked<'_>, voice: Voice) -> Result<Store, Failure> {
        let url = asked.url(voice)?;
        if url.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("memory")) {
            let text = "a memory: store lives in one process, and no other would be kept out: say --on file:///PATH for \
                        the processes of one machine; nothing was run";
            return Err(Failure::new(CONFIG, text));
        }
        let directories = Directories::default();
        // Only until it is connected: later warnings are for programs that hold many locks. There is but one thread.
        let _said = tracing::subscriber::set_default(Findings(voice));
        let client = Registry::new().with(directories.clone()).connect(&url).await.map_err(|error| {
            let failure = Failure::of(&error, directories.found.load(Ordering::Relaxed));
            // One that is only busy, or a process without descriptors left, is no bad directory.
            let unusable = directories.unusable.load(Ordering::Relaxed) && !error.is_retryable();
            if unusable { Failure { code: DIRECTORY, ..failure } } else { failure }
        })?;
        Ok(Store { client, directories })
    }

    /// What keeps the sessions of this process alive for as long as it is open anywhere, where the store has such a
    /// thing.
    pub(crate) fn alive(&self) -> Vec<OwnedFd> {
        self.directories.files.liveness_descriptors()
    }

    /// Whether the store is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.client.info().scheme == "file"
    }
}

/// What the command line says of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) on: Option<&'a str>,
    pub(crate) ttl: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    /// What the holder is called if nothing else gives it a name.
    pub(crate) usual_name: &'a str,
}

impl Asked<'_> {
    fn url(self, voice: Voice) -> Result<String, Failure> {
        let mut url = match (self.on, var_os(URL).filter(|url| !url.is_empty())) {
            (Some(url), _) => {
                warn_of_password(url, voice);
                url.to_owned()
            }
            (None, Some(url)) => url
                .into_string()
                .map_err(|_| Failure::new(CONFIG, format!("{URL} is not UTF-8; nothing was run")))?,
            (None, None) => usual()?,
        };
        if let Some(ttl) = self.ttl {
            url = with(&url, "ttl", ttl);
        }
        match self.name {
            Some(name) => url = with(&url, "name", name),
            None if pairs(&url).all(|(key, _)| key != "name") => url = with(&url, "name", self.usual_name),
            None => {}
        }
        Ok(url)
    }
}

/// Every user sees every process's command line.
fn warn_of_password(url: &str, voice: Voice) {
    if shows_password(url) {
        voice.warn(format!(
            "the password in --on can be read by every user of this machine (ps shows it): put the URL into {URL}, or \
             the password into a file and say ?password_file=PATH"
        ));
    }
}

/// Also in a URL that cannot be used, and wherever a store would refuse it: it is shown all the same.
fn shows_password(url: &str) -> bool {
    let in_query =
        pairs(url).any(|(key, pair)| key.eq_ignore_ascii_case("password") && pair.len() > key.len() + 1);
    let before_host = || {
        let (user, _) = url.split_once("://")?.1.rsplit_once('@')?;
        user.split_once(':').map(|(_, password)| !password.is_empty())
    };
    in_query
        || match StoreUrl::parse(url) {
            Ok(url) => url.password().is_some(),
            Err(_) => before_host().unwrap_or(false),
        }
}

/// The store of this user on this machine.
fn usual() -> Result<String, Failure> {
    let state = var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let path = state
        .or_else(|| home().map(|home| home.join(".local/state")))
        .map(|path| path.join("fencepost/locks"));
    let path = path.as_deref().and_then(|path| path.to_str()).ok_or_else(|| {
        let text = format!(
            "there is no store: HOME is not set, so this user has no directory of locks; say --on URL or set {URL}; \
             nothing was run"
        );
        Failure::new(CONFIG, text)
    })?;
    const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');
    Ok(format!("file://{}", utf8_percent_encode(path, NOT_IN_A_PATH)))
}

/// A URL with this query key instead of the one that it may have.
fn with(url: &str, key: &str, value: &str) -> String {
    const NOT_IN_A_VALUE: &AsciiSet = &CONTROLS.add(b'%').add(b'&').add(b'#').add(b'+').add(b' ').add(b'=');
    let base = url.split_once('?').map_or(url, |(base, _)| base);
    let others = pairs(url).filter(|(other, _)| *other != key).map(|(_, pair)| pair);
    let pair = format!("{key}={}", utf8_percent_encode(value, NOT_IN_A_VALUE));
    let query: Vec<_> = others.chain([&*pair]).collect();
    format!("{base}?{}", query.join("&"))
}

/// The keys of a URL's query, each with its whole pair.
fn pairs(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| (pair.split_once('=').map_or(pair, |(key, _)| key), pair))
}

/// Connects to directories, and remembers whether one could not be used: a URL that cannot be has another exit status.
#[derive(Clone, Debug, Default)]
struct Directories {
    files: FileConnector,
    /// One was opened: what fails after that is the directory's, too.
    found: Arc<AtomicBool>,
    unusable: Arc<AtomicBool>,
}

#[async_trait]
impl Connector for Directories {
    fn schemes(&self) -> &[&'static str] {
        &["file"]
    }

    async fn connect(&self, url: &mut StoreUrl) -> Result<Arc<dyn Backend>> {
        let connected = self.files.connect(url).await;
        // What is wrong with the directory names it; what is wrong with the URL does not get as far.
        let unusable = connected.as_ref().is_err_and(|error| error.endpoint().is_some());
        self.unusable.store(unusable, Ordering::Relaxed);
        self.found.store(connected.is_ok(), Ordering::Relaxed);
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_seen_wherever_it_stands() {
        for url in
            ["redis://u:secret@h", "redis://:secret@h", "redis://u:se/cr[et@h:x", "redis://h?password=secret"]
        {
            assert!(shows_password(url), "{url}");
        }
        for url in
            ["redis://u@h", "redis://h?password_file=/run/secret", "file:///a:b@c", "redis://h?password="]
        {
            assert!(!shows_password(url), "{url}");
        }
    }

    #[test]
    fn a_query_key_is_added_or_replaced() {
        assert_eq!(with("file:///x", "ttl", "5s"), "file:///x?ttl=5s");
        assert_eq!(with("file:///x?ttl=9s&strict", "ttl", "5s"), "file:///x?strict&ttl=5s");
        assert_eq!(with("file:///x", "name", "a b&c"), "file:///x?name=a%20b%26c");
    }
}
