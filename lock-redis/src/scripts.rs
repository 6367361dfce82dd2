//! The scripts that run in the server, and how they are called.

use std::sync::LazyLock;

use redis::Cmd;

/// One script. Those that only give back are let through when the server is out of memory.
pub(crate) struct Script {
    code: &'static str,
    hash: LazyLock<String>,
}

macro_rules! script {
    ($name:ident, $flags:literal: $($part:literal)+) => {
        pub(crate) static $name: Script = Script {
            code: concat!("#!lua", $flags, "\n" $(, include_str!(concat!("scripts/", $part)))+),
            hash: LazyLock::new(|| redis::Script::new($name.code).get_hash().to_owned()),
        };
    };
}

script!(CLAIM, "": "claim_at_once.lua" "record.lua" "claim.lua");
script!(RELEASE, " flags=allow-oom": "release_at_once.lua" "record.lua" "release.lua");
script!(OPEN, "": "record.lua" "open.lua");
script!(RENEW, " flags=allow-oom": "record.lua" "renew.lua");
script!(CLOSE, " flags=allow-oom": "record.lua" "close.lua");
script!(FORCE_RELEASE, " flags=allow-oom": "record.lua" "force_release.lua");
script!(INSPECT, " flags=no-writes": "record.lua" "inspect.lua");
script!(FENCED, "": "fenced.lua");

/// Those of the store itself: sent to the server at every new connection, for a call of one that it lacks costs a round trip.
pub(crate) static ALL: [&Script; 7] = [&CLAIM, &RELEASE, &OPEN, &RENEW, &CLOSE, &FORCE_RELEASE, &INSPECT];

/// What a script is called with, on this line. Asked more than once if the server has forgotten the script, or if the keys are
/// elsewhere.
pub(crate) type Arguments<'a> = dyn Fn(&mut Cmd, LineNumber) + Sync + 'a;

/// Tells a line from all others of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineNumber(pub(crate) u64);

impl Script {
    /// A call by its hash, which the server may not know.
    pub(crate) fn by_hash(&self, arguments: impl FnOnce(&mut Cmd)) -> Cmd {
        let mut command = Cmd::with_capacity(16, 512);
        command.arg("EVALSHA").arg(self.hash.as_str());
        arguments(&mut command);
        command
    }

    /// A call with its text; the server knows it from then on.
    pub(crate) fn by_code(&self, arguments: impl FnOnce(&mut Cmd)) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVAL").arg(self.code);
        arguments(&mut command);
        command
    }

    pub(crate) fn load(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("SCRIPT").arg("LOAD").arg(self.code);
        command
    }
}
