//! A file that keeps its fence: a writer that was paused cannot overwrite its successor's work.
//!
//! The two marks of the fence stand in the file itself, and every version of it is a file of its own that can be made
//! only once. So the check and the write are one step: whoever was slower reads again, and is judged again.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use fencepost::{Fence, FencingToken, Mode, Registry};
use tempfile::{NamedTempFile, TempDir};

struct FencedFile {
    directory: PathBuf,
}

impl FencedFile {
    /// The newest version: its number, its fence and its text.
    fn read(&self) -> io::Result<(u64, Fence, String)> {
        let entries = fs::read_dir(&self.directory)?.collect::<io::Result<Vec<_>>>()?;
        let numbers = entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        let Some(version) = numbers.max() else { return Ok((0, Fence::new(), String::new())) };
        let content = fs::read_to_string(self.directory.join(version.to_string()))?;
        let (marks, text) = content.split_once('\n').unwrap_or_default();
        let mut marks = marks.split(' ').map(|mark| mark.parse().unwrap_or(u64::MAX));
        let fence = Fence::restore(marks.next().unwrap_or(u64::MAX), marks.next().unwrap_or(u64::MAX));
        Ok((version, fence, text.to_owned()))
    }

    fn write(&self, mode: Mode, token: FencingToken, text: &str) -> Result<(), Box<dyn Error>> {
        loop {
            let (version, mut fence, _) = self.read()?;
            fence.admit(mode, token)?;
            let (highest, exclusive) = fence.marks();
            let mut draft = NamedTempFile::new_in(&self.directory)?;
            write!(draft, "{highest} {exclusive}\n{text}")?;
            draft.as_file().sync_all()?;
            match draft.persist_noclobber(self.directory.join((version + 1).to_string())) {
                Ok(_) => return Ok(()),
                // Another writer was quicker: look at what it wrote.
                Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => {}
                Err(failed) => return Err(failed.error.into()),
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let place = TempDir::new()?;
    let data = FencedFile { directory: place.path().join("report") };
    fs::create_dir(&data.directory)?;
    let client = Registry::new().connect(&format!("file://{}/locks", place.path().display())).await?;
    let lock = client.mutex("report")?;

    let paused = lock.acquire().await?;
    data.write(paused.mode(), paused.token(), "first")?;
    // It stops here, for longer than its lease. Ending its hold by force stands for that.
    client.force_release("report", None).await?;

    let successor = lock.acquire().await?;
    data.write(successor.mode(), successor.token(), "second")?;
    println!("the successor wrote under token {}", successor.token());

    match data.write(paused.mode(), paused.token(), "late") {
        Ok(()) => return Err("the late write passed".into()),
        Err(refused) => println!("the paused writer was refused: {refused}"),
    }
    println!("the file says {:?}", data.read()?.2);
    Ok(())
}
