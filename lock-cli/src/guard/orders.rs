//! [`Orders`]: the guard's end of the link.

use std::io::{IoSliceMut, stdin};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

use crate::link::{Order, Report, SIZE, Start};

/// As many as one message can carry.
const DESCRIPTORS: usize = 253;

/// Where orders come from and reports go to.
#[derive(Debug)]
pub(super) struct Orders {
    /// None once the other end is closed.
    link: Option<OwnedFd>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Order(Order),
    /// The other end was closed: `fencepost` is gone. Heard once.
    Nobody,
}

impl Orders {
    /// The link is standard input: the one descriptor that can be taken over by its number alone. It moves away from
    /// there, to make room for the command's own.
    pub(super) fn open() -> Result<Orders, Errno> {
        Ok(Orders { link: Some(fcntl_dupfd_cloexec(stdin(), 3)?) })
    }

    /// Waits for the order to start, and for the descriptors that come along; `None` when there is none to come.
    pub(super) fn start(&mut self) -> Result<Option<(Start, Vec<OwnedFd>)>, Errno> {
        let mut descriptors = Vec::new();
        match self.receive(RecvFlags::empty(), &mut descriptors) {
            Ok(Some(Order::Start(start))) => Ok(Some((start, descriptors))),
            Ok(_) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What is there to be heard, without waiting.
    pub(super) fn next(&mut self) -> Option<Heard> {
        self.link.as_ref()?;
        match self.receive(RecvFlags::DONTWAIT, &mut Vec::new()) {
            Ok(Some(order)) => Some(Heard::Order(order)),
            Err(Errno::AGAIN) => None,
            Ok(None) | Err(_) => {
                self.link = None;
                Some(Heard::Nobody)
            }
        }
    }

    /// Tells it, without ever waiting for whoever does not read.
    pub(super) fn report(&self, report: Report) -> Result<(), Errno> {
        match &self.link {
            Some(link) => send(link, &report.encode(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(|_| ()),
            None => Ok(()),
        }
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(AsFd::as_fd)
    }

    fn receive(&self, flags: RecvFlags, descriptors: &mut Vec<OwnedFd>) -> Result<Option<Order>, Errno> {
        let Some(link) = &self.link else { return Ok(None) };
        let mut message = [0; SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut message)];
            match recvmsg(link, &mut into, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        let whole = received.bytes == SIZE && !received.flags.contains(ReturnFlags::CTRUNC);
        Ok(Order::decode(&message).filter(|_| whole))
    }
}
