//! Who holds a lock, for people: [`HolderInfo`] and [`Note`]. Never for decisions.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, Result};

/// Who a session belongs to. For people who look for the holder, never for decisions.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HolderInfo(Arc<Fields>);

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Fields {
    name: Option<String>,
    host: Option<String>,
    pid: u32,
    pod: Option<String>,
    namespace: Option<String>,
    node: Option<String>,
}

impl HolderInfo {
    /// The longest that each text may be, in bytes; longer ones are cut.
    pub const MAX_LEN: usize = 128;

    /// This process: host name, process id, and `POD_NAME`, `POD_NAMESPACE`, `NODE_NAME` where they are set.
    pub fn of_this_process(name: Option<&str>) -> HolderInfo {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        HolderInfo::new(std::process::id())
            .with_name(name.map(str::to_owned))
            .with_host(host_name())
            .with_pod(variable("POD_NAME"), variable("POD_NAMESPACE"), variable("NODE_NAME"))
    }

    /// A process by its id alone.
    pub fn new(pid: u32) -> HolderInfo {
        HolderInfo(Arc::new(Fields { pid, ..Fields::default() }))
    }

    /// With a name that the application chose.
    #[must_use]
    pub fn with_name(mut self, name: Option<String>) -> HolderInfo {
        Arc::make_mut(&mut self.0).name = name.map(cut);
        self
    }

    /// With a host name.
    #[must_use]
    pub fn with_host(mut self, host: Option<String>) -> HolderInfo {
        Arc::make_mut(&mut self.0).host = host.map(cut);
        self
    }

    /// With a Kubernetes pod, its namespace and its node.
    #[must_use]
    pub fn with_pod(
        mut self,
        pod: Option<String>,
        namespace: Option<String>,
        node: Option<String>,
    ) -> HolderInfo {
        let fields = Arc::make_mut(&mut self.0);
        (fields.pod, fields.namespace, fields.node) = (pod.map(cut), namespace.map(cut), node.map(cut));
        self
    }

    /// One text of ASCII letters, digits, `%` and `,`: for stores that keep texts.
    ///
    /// ```
    /// use lock_core::HolderInfo;
    ///
    /// let info = HolderInfo::new(42).with_name(Some("nightly, report".into()));
    /// assert_eq!(HolderInfo::decode(&info.encoded()), Some(info));
    /// ```
    pub fn encoded(&self) -> String {
        let fields = &*self.0;
        let mut out = fields.pid.to_string();
        for text in [&fields.name, &fields.host, &fields.pod, &fields.namespace, &fields.node] {
            out.push(',');
            out.extend(utf8_percent_encode(text.as_deref().unwrap_or_default(), NON_ALPHANUMERIC));
        }
        out
    }

    /// What [`encoded`](HolderInfo::encoded) made; `None` for anything else.
    pub fn decode(encoded: &str) -> Option<HolderInfo> {
        let mut parts = encoded.split(',');
        let pid = parts.next()?.parse().ok()?;
        let mut text = || {
            let decoded = percent_decode_str(parts.next()?).decode_utf8().ok()?;
            Some((!decoded.is_empty()).then(|| decoded.into_owned()))
        };
        let info =
            HolderInfo::new(pid).with_name(text()?).with_host(text()?).with_pod(text()?, text()?, text()?);
        parts.next().is_none().then_some(info)
    }

    /// The name that the application chose.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The host's name.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// The process id on that host.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The Kubernetes pod.
    pub fn pod(&self) -> Option<&str> {
        self.0.pod.as_deref()
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> Option<&str> {
        self.0.namespace.as_deref()
    }

    /// The node on which the pod runs.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }
}

impl fmt::Display for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.pod().or(self.host()).unwrap_or("unknown host");
        match self.name() {
            // Escaped: another process chose these texts, and they end up in logs.
            Some(name) => write!(f, "{} ({} pid {})", name.escape_debug(), place.escape_debug(), self.pid()),
            None => write!(f, "{} pid {}", place.escape_debug(), self.pid()),
        }
    }
}

impl fmt::Debug for HolderInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HolderInfo({self})")
    }
}

/// A few words that a claim leaves for whoever looks: at most 256 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Note(Arc<str>);

impl Note {
    /// The longest note, in bytes.
    pub const MAX_LEN: usize = 256;

    /// A note from its text.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when it is longer than [`Note::MAX_LEN`] bytes.
    pub fn new(text: impl AsRef<str>) -> Result<Note> {
        let text = text.as_ref();
        if text.len() > Self::MAX_LEN {
            return Err(Error::invalid(format!(
                "a note has at most {} bytes, this one has {}",
                Self::MAX_LEN,
                text.len()
            )));
        }
        Ok(Note(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({:?})", &*self.0)
    }
}

fn cut(mut text: String) -> String {
    if text.len() > HolderInfo::MAX_LEN {
        let end = (0..=HolderInfo::MAX_LEN).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(unix)]
fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

#[cfg(not(unix))]
fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let info = HolderInfo::new(1).with_name(Some("ä".repeat(100)));
        assert_eq!(info.name().map(str::len), Some(128));
        let info = HolderInfo::new(1).with_name(Some(format!("x{}", "ä".repeat(100))));
        assert_eq!(info.name().map(str::len), Some(127));
    }

    #[test]
    fn a_hostile_name_is_shown_escaped() {
        let info = HolderInfo::new(7).with_name(Some("a\nb".into())).with_host(Some("h".into()));
        assert_eq!(info.to_string(), "a\\nb (h pid 7)");
    }

    #[test]
    fn an_encoding_is_decoded_and_nothing_else_is() {
        let pod = |text: &str| Some(text.to_owned());
        let full = HolderInfo::new(7).with_name(pod("a,b;c d%\n")).with_host(pod("häuser")).with_pod(
            pod("p"),
            None,
            pod("n"),
        );
        for info in [full, HolderInfo::new(1)] {
            let encoded = info.encoded();
            assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"%,".contains(&b)), "{encoded}");
            assert_eq!(HolderInfo::decode(&encoded), Some(info));
        }
        for wrong in ["", "7", "x,,,,,", "7,,,,", "7,,,,,,", "7,%FF,,,,"] {
            assert_eq!(HolderInfo::decode(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn notes_are_bounded() {
        assert!(Note::new("x".repeat(256)).is_ok());
        assert!(Note::new("x".repeat(257)).is_err());
    }
}
