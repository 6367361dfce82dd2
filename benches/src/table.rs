//! [`Table`]: what was measured, beside its floor.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The rows of one store.
#[derive(Debug)]
pub(crate) struct Table {
    store: &'static str,
    rows: Vec<(String, String, Option<f64>)>,
}

impl Table {
    pub(crate) fn new(store: &'static str) -> Table {
        Table { store, rows: Vec::new() }
    }

    /// Two medians that criterion has measured, by their ids: the ratio is of what the lock takes to what the floor takes.
    pub(crate) fn compare(&mut self, shape: &str, lock: &str, floor: &str) {
        let (Some(lock), Some(floor)) = (median(lock), median(floor)) else { return };
        let text = format!("{:?}, floor {:?}", rounded(lock), rounded(floor));
        self.rows.push((shape.to_owned(), text, Some(lock.as_secs_f64() / floor.as_secs_f64())));
    }

    /// Something that was measured otherwise, with its ratio where it has a floor.
    pub(crate) fn note(&mut self, shape: &str, text: String, ratio: Option<f64>) {
        self.rows.push((shape.to_owned(), text, ratio));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: medians, and how many times the floor", self.store)?;
        for (shape, text, ratio) in &self.rows {
            let ratio = ratio.map_or("     –".to_owned(), |ratio| format!("{ratio:>5.2}×"));
            writeln!(f, "{ratio}  {shape:<32} {text}")?;
        }
        Ok(())
    }
}

/// What criterion wrote down of the latest run; `None` where a filter left it out.
fn median(id: &str) -> Option<Duration> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let file = target.join("criterion").join(id).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    Some(Duration::from_secs_f64(estimates["median"]["point_estimate"].as_f64()? / 1e9))
}

pub(crate) fn rounded(time: Duration) -> Duration {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let unit = match nanos {
        0..10_000 => 1,
        10_000..10_000_000 => 100,
        _ => 100_000,
    };
    Duration::from_nanos(nanos / unit * unit)
}
