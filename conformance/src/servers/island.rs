//! [`Island`]: servers behind a network that loses packets.
//!
//! The proxy plays faults on the level of connections. Here it is the kernel's TCP that has to live with the loss, as in a
//! real partition: it sends again, later and later, and what was cut goes on after a heal.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lock_core::{Error, ErrorKind, Result};

use super::process::{END, bury, is_readable};
use crate::proxy::Way;

/// Of 198.18.0.0/15, which is set aside for tests of networks: every island has four addresses of it.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const ISLANDS: u16 = 1 << 15;

/// The addresses of the hardware. Every link has two ends and nobody else on it, so they may be the same everywhere.
const TEST: &str = "02:00:00:00:00:01";
const SERVER: &str = "02:00:00:00:00:02";
/// A frame to it is thrown away without a word where it arrives.
const NOBODY: &str = "02:00:00:00:00:03";

/// The link's end in the namespace; `island.sh` knows it too.
const INSIDE: &str = "island";

/// A network of its own for servers, and a link to it that can be cut. Clones are the same island; it goes with the last of
/// them, and also when the test is killed. A server has to be dropped before it.
///
/// It is a network namespace without a name: a process holds it that ends with this one.
#[derive(Clone, Debug)]
pub struct Island(Arc<Link>);

impl Island {
    /// An island whose link works.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where it may not be made: it takes Linux, root, `ip`, `unshare` and
    /// `nsenter`. The message says what is in the way.
    pub fn new() -> Result<Island> {
        let island = Island(Arc::new(Link::new(Holder::start()?)?));
        let (test, server) = (island.test(), island.address());
        island.0.inside(&format!(
            "link set lo up\naddress add {server}/30 dev {INSIDE}\nlink set {INSIDE} up\n"
        ))?;
        island.0.outside(&format!("address add {test}/30 dev {0}\nlink set {0} up\n", island.0.name))?;
        // No end ever asks for the other one's address: an answer would end a cut.
        island.heal()?;
        Ok(island)
    }

    /// The address of the servers on it, as the test reaches them.
    pub fn address(&self) -> IpAddr {
        self.host(2)
    }

    /// Lets the packets of this direction vanish. Nobody is told: connections stay open, and the kernel sends again. What was
    /// cut before stays cut.
    ///
    /// No connection is made unless both directions work.
    pub fn cut(&self, way: Way) -> Result<()> {
        if way != Way::ToClient {
            self.lead_to_server(NOBODY)?;
        }
        if way != Way::ToServer {
            self.lead_to_client(NOBODY)?;
        }
        Ok(())
    }

    /// Ends all cuts. A connection goes on when the kernel sends again, which is after as long as the cut was, at most.
    pub fn heal(&self) -> Result<()> {
        self.lead_to_server(SERVER)?;
        self.lead_to_client(TEST)
    }

    /// What a command begins with that is to run on it.
    pub(super) fn entry(&self) -> [String; 2] {
        self.0.holder.entry()
    }

    fn lead_to_server(&self, hardware: &str) -> Result<()> {
        self.0.outside(&neighbour(self.address(), hardware, &self.0.name))
    }

    fn lead_to_client(&self, hardware: &str) -> Result<()> {
        self.0.inside(&neighbour(self.test(), hardware, INSIDE))
    }

    fn test(&self) -> IpAddr {
        self.host(1)
    }

    fn host(&self, host: u32) -> IpAddr {
        Ipv4Addr::from_bits(FIRST + 4 * u32::from(self.0.number) + host).into()
    }
}

/// Who has this address, whatever the network says.
fn neighbour(address: IpAddr, hardware: &str, device: &str) -> String {
    format!("neighbour replace {address} lladdr {hardware} dev {device} nud permanent\n")
}

/// The link between the test and a namespace.
#[derive(Debug)]
struct Link {
    holder: Holder,
    number: u16,
    name: String,
}

impl Link {
    /// Its name is the reservation of its addresses: there is one of each name.
    fn new(holder: Holder) -> Result<Link> {
        const ATTEMPTS: usize = 100;
        let pid = holder.0.id();
        for _ in 0..ATTEMPTS {
            let number = fastrand::u16(..ISLANDS);
            let name = format!("island{number}");
            let line = format!(
                "link add {name} address {TEST} type veth peer name {INSIDE} address {SERVER} netns {pid}\n"
            );
            match ip(Command::new("ip"), &line) {
                Ok(()) => return Ok(Link { holder, number, name }),
                Err(error) if error.message().contains("File exists") => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Exhausted, format!("no free name for a link after {ATTEMPTS} attempts")))
    }

    fn outside(&self, lines: &str) -> Result<()> {
        ip(Command::new("ip"), lines)
    }

    fn inside(&self, lines: &str) -> Result<()> {
        let [program, namespace] = self.holder.entry();
        let mut command = Command::new(program);
        command.args([&namespace, "ip"]);
        ip(command, lines)
    }
}

/// The process that keeps a namespace: `island.sh`. At its end it removes the link.
#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start() -> Result<Holder> {
        let child = Command::new("unshare")
            .args(["--net", "/bin/sh", "-c", include_str!("island.sh")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The keyboard's interrupt is for the test.
            .process_group(0)
            .spawn()
            .map_err(|error| missing("unshare", error))?;
        let mut holder = Holder(child);
        match holder.word().as_deref() {
            Some("ready") => Ok(holder),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("no network namespace: {}", holder.complaint()),
            )),
        }
    }

    fn entry(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id())]
    }

    /// The one line that it says, written at once; empty when it has ended.
    fn word(&mut self) -> Option<String> {
        let output = self.0.stdout.as_mut().filter(|output| is_readable(&**output, END))?;
        let mut line = [0; 64];
        let length = output.read(&mut line).ok()?;
        Some(String::from_utf8_lossy(&line[..length]).trim().to_owned())
    }

    /// What it said before it ended.
    fn complaint(&mut self) -> String {
        let mut said = [0; 1024];
        let errors = self.0.stderr.as_mut().filter(|errors| is_readable(&**errors, END));
        let length = errors.and_then(|errors| errors.read(&mut said).ok()).unwrap_or(0);
        match String::from_utf8_lossy(&said[..length]).trim() {
            "" => "it says nothing".to_owned(),
            words => words.to_owned(),
        }
    }
}

impl Drop for Holder {
    /// Waits for the end: the link is gone then.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        bury(&mut self.0);
    }
}

/// Runs lines of `ip`'s own language, up to the first that fails.
fn ip(mut command: Command, lines: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(&program, error))?;
    if let Some(mut input) = child.stdin.take() {
        // It may have ended before it read them; then its status tells.
        let _ = input.write_all(lines.as_bytes());
    }
    let output =
        child.wait_with_output().map_err(|error| Error::unavailable("no end of `ip`").caused_by(error))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let never = ["not permitted", "not supported", "Unknown device type"];
    let kind = match never.iter().any(|words| complaint.contains(words)) {
        true => ErrorKind::Unsupported,
        false => ErrorKind::Unavailable,
    };
    Err(Error::new(kind, format!("ip failed at {:?}: {complaint}", lines.trim_end())))
}

fn missing(program: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cannot start {program}: apt-get install iproute2 util-linux"))
        .caused_by(error)
}
