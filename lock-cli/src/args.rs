//! The command line.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::{Failure, USAGE};
use crate::say::Voice;

const EXAMPLES: &str = "\
Examples:
  A cron job that runs on one host at a time, and skips its turn when it is busy:
    fencepost run --try nightly-report -- /usr/local/bin/report --all

  A migration that waits for at most five minutes:
    fencepost run --wait 5m migrate -- ./migrate up

  Three downloads at once, and no more:
    fencepost run --permits 1 --of 3 downloads -- curl -O https://example.org/big

The command finds FENCEPOST_KEY, FENCEPOST_TOKEN and FENCEPOST_MODE in its environment.
Pass the token along with what it writes: it is higher for each new holder.

Exit status: the command's own (128 + n when signal n ended it), or
   64  wrong usage
   69  the store cannot be reached
   70  the lock was lost, and the command ended
   71  the system refused a process or a descriptor
   73  the directory of locks cannot be used
   75  busy, or the wait is over (-E changes it)
   77  the store refused: credentials, rights, unsafe settings in strict mode
   78  the URL is wrong, or this build lacks its store
  124  --timeout was over
  126  the command cannot be run      127  the command was not found

Not covered: a process that leaves its group by setsid, or becomes another user by sudo; killing
both fencepost and its guard; stopping the guard; the first instants after the whole machine was
frozen past the deadline. There only the token helps.
";

const USAGE_LINE: &str = "fencepost run [OPTIONS] KEY -- COMMAND [ARGUMENTS]…";

const SCHEMA_EXAMPLE: &str = "\
Example:
    fencepost schema postgres | psql --single-transaction \"$DATABASE_URL\"

Whoever runs them owns the tables. Clients then say migrate=never in their URL, and need no more
than USAGE on the schema and EXECUTE on its functions.
";

const STORE: &str = "\
The store of the locks, such as file:///var/lib/app/locks [default: $FENCEPOST_URL; without it a directory of this user \
alone, under ~/.local/state: other users do not see its locks, nor you theirs]";

const MORE: &str = "\
Example:
    fencepost run --try nightly-report -- /usr/local/bin/report --all

Options, exit statuses and more examples: fencepost run --help
";

/// Runs a command under a distributed lock, and ends it before the lock can end
#[derive(Debug, Parser)]
#[command(name = "fencepost", version, max_term_width = 100, disable_help_subcommand = true, after_help = MORE)]
struct CommandLine {
    #[arg(long, global = true, value_name = "URL", help = STORE)]
    on: Option<String>,

    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<Run>),
    Schema(Schema),
}

/// Prints the statements that make what a store needs, for migrations of your own
#[derive(Args, Debug)]
#[command(after_help = SCHEMA_EXAMPLE)]
pub(crate) struct Schema {
    /// Whose
    #[arg(value_enum, value_name = "STORE")]
    pub(crate) store: StoreWithSchema,

    /// The schema that is to have the tables
    #[arg(long, value_name = "NAME", default_value = "fencepost")]
    pub(crate) schema: String,
}

/// The stores that need anything.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StoreWithSchema {
    Postgres,
}

/// Acquires a lock, runs a command, and releases the lock once the command and its children have ended
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(override_usage = USAGE_LINE)]
pub(crate) struct Run {
    /// The lock's name: any text, the same for everybody who is to be kept apart
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// Do not wait: exit with 75 at once if another holds the lock
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) try_once: bool,

    /// Wait for at most this long, then exit with 75. Without it and --try: wait for as long as it takes
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration)]
    pub(crate) wait: Option<Duration>,

    /// For how long the store keeps the lock once it hears nothing more from here [default: 10s]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration)]
    pub(crate) ttl: Option<Duration>,

    /// Hold the lock together with others that say --shared
    #[arg(long, conflicts_with_all = ["permits", "of"])]
    pub(crate) shared: bool,

    /// Take so many of the permits that --of says there are [default: 1]
    #[arg(long, value_name = "K", requires = "of", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) permits: Option<u32>,

    /// The lock has so many permits; everybody who uses it has to say the same number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) of: Option<u32>,

    /// End the command when it has run for this long, and exit with 124
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Keep the lock from others until this long after it was acquired, also when the command ends sooner
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration)]
    pub(crate) at_least: Option<Duration>,

    /// How long the command may take to end after SIGTERM, before SIGKILL
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration, default_value = "5s")]
    pub(crate) grace: Duration,

    /// Exit with this status instead of 75
    #[arg(short = 'E', long = "busy-status", value_name = "CODE")]
    pub(crate) busy_code: Option<u8>,

    /// Say nothing when it is busy or the wait is over: the exit status does
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// A few words for those who wait, or look at the lock
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,

    /// What this holder is called [default: the command's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Tell what happens as JSON, one event a line, on standard error
    #[arg(long)]
    pub(crate) json: bool,
}

impl Run {
    /// The command without its path.
    pub(crate) fn program_name(&self) -> String {
        let program = self.command.first().map(Path::new);
        program.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What was asked for: the store, and what to do there.
#[derive(Debug)]
pub(crate) enum Asked {
    Run(Option<String>, Box<Run>),
    Schema(Schema),
}

/// Reads the command line. Help is no error; a mistake is one of its own kind.
pub(crate) fn parse() -> Result<Asked, ExitCode> {
    let CommandLine { on, command } =
        CommandLine::try_parse().map_err(explained).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let _ = error.print();
                ExitCode::SUCCESS
            }
            _ => {
                if is_json(std::env::args_os()) {
                    Voice::new(true).fail(None, &Failure::new(USAGE, error.to_string().trim_end()));
                } else {
                    let _ = error.print();
                }
                ExitCode::from(USAGE)
            }
        })?;
    Ok(match command {
        Verb::Run(run) => Asked::Run(on, run),
        Verb::Schema(schema) => Asked::Schema(schema),
    })
}

/// A word where an option could be is the command, for whoever knows flock.
fn explained(error: clap::Error) -> clap::Error {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) if !word.starts_with('-') => {
            let text = format!(
                "put -- before the command {word:?}\n\nUsage: {USAGE_LINE}\n\nFor more information, try '--help'.\n"
            );
            clap::Error::raw(ErrorKind::UnknownArgument, text)
        }
        _ => error,
    }
}

/// Whether events were asked for, as far as one can tell from a command line that is wrong.
fn is_json(words: impl Iterator<Item = OsString>) -> bool {
    words.take_while(|word| word != "--").any(|word| word == "--json")
}

/// `30s`, `5m`, `1h 30m`; a bare number is in seconds, as for flock and timeout.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds {
        Some(time) => Ok(time),
        None if has_calendar_units(text) => {
            Err("months and years are no times to wait here; m is minutes: 30s, 5m or 1h 30m".to_owned())
        }
        None => humantime::parse_duration(text)
            .map_err(|_| "not a time such as 500ms, 30s, 5m or 1h 30m".to_owned()),
    }
}

/// `5M` would be five months: nobody means that.
fn has_calendar_units(text: &str) -> bool {
    text.split(|letter: char| !letter.is_alphabetic())
        .any(|unit| matches!(unit, "M" | "month" | "months" | "y" | "yr" | "year" | "years"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_time_may_be_a_number_of_seconds() {
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1").is_err() && duration("soon").is_err() && duration("inf").is_err());
        for months in ["5M", "1h 2M", "1month", "2 years", "1y"] {
            assert!(duration(months).is_err_and(|why| why.contains("minutes")), "{months}");
        }
    }

    #[test]
    fn the_store_may_be_named_before_and_after_the_verb() {
        for words in [
            ["fencepost", "--on", "memory:", "run", "k", "--", "true"],
            ["fencepost", "run", "--on", "memory:", "k", "--", "true"],
        ] {
            let parsed = CommandLine::try_parse_from(words).unwrap();
            assert_eq!(parsed.on.as_deref(), Some("memory:"));
        }
    }
}
