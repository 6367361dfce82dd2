//! [`hang_up`]: a server's connections are ended, although the server has no command for it.
//!
//! Linux lets a process at the files of another one that is its own child's child, or of the same user: what is done to a
//! copy of a socket is done to the socket. The server finds that its connections have ended, and closes them.

use lock_core::{Error, ErrorKind, Result};

/// Ends the connections that this process has accepted at this port. Returns how many those were.
#[cfg(target_os = "linux")]
pub(super) fn hang_up(pid: u32, port: u16) -> Result<usize> {
    use rustix::net::{Shutdown, getpeername, getsockname, shutdown};
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    let gone = || Error::unavailable("the server has ended");
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let process = pidfd_open(id, PidfdFlags::empty()).map_err(|error| gone().caused_by(error))?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| refused().caused_by(error))?;
    let mut ended = 0;
    for file in files.flatten() {
        // It may be closed by now.
        let Ok(target) = std::fs::read_link(file.path()) else { continue };
        let Some(number) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !target.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let socket = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::BADF) => continue,
            Err(error) => return Err(refused().caused_by(error)),
        };
        // One that listens has no peer.
        let is_of_a_client = getsockname(&socket).is_ok_and(|here| port_of(here) == Some(port))
            && getpeername(&socket).is_ok_and(|there| there.is_some());
        if is_of_a_client && shutdown(&socket, Shutdown::Both).is_ok() {
            ended += 1;
        }
    }
    Ok(ended)
}

/// Nobody else can do that.
#[cfg(not(target_os = "linux"))]
pub(super) fn hang_up(_pid: u32, _port: u16) -> Result<usize> {
    Err(refused())
}

fn refused() -> Error {
    Error::new(ErrorKind::Unsupported, "this system does not let a test at its server's connections")
}

#[cfg(target_os = "linux")]
fn port_of(address: rustix::net::SocketAddrAny) -> Option<u16> {
    std::net::SocketAddr::try_from(address).ok().map(|address| address.port())
}
