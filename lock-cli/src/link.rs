//! What `fencepost` and its guard process tell each other: messages of one size over a pair of sockets.
//!
//! A pair of sockets and not a pipe, because the command's standard input and the session's descriptors travel along with
//! the order to start: the guard is running long before there is a session. Its end of file says that `fencepost` is gone.

use std::time::Duration;

use fencepost::backend::BootTime;

/// Every message has this many bytes, and is written by one call: it arrives as a whole or not at all.
pub(crate) const SIZE: usize = 6 * 8;

type Words = [u64; 6];

/// What the guard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The lock is held: run the command. Its standard input comes with it, then what keeps the session alive.
    Start(Start),
    /// The lock is now surely held until this instant.
    Until(BootTime),
    /// Pass this signal on to the command's group.
    Signal(i32),
    /// End the group.
    End,
}

/// Under which conditions a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) token: u64,
    pub(crate) mode: Manner,
    pub(crate) until: BootTime,
    /// For how long a renewal moves the deadline.
    pub(crate) ttl: Duration,
    /// How long it may take to end after it was asked.
    pub(crate) grace: Duration,
}

/// In which way the lock is held, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Exclusive,
    Shared,
    Permits,
}

impl Manner {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Manner::Exclusive => "exclusive",
            Manner::Shared => "shared",
            Manner::Permits => "permits",
        }
    }
}

/// What the guard tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command runs, as the leader of a group with this number.
    Started(i32),
    /// It could not be started, for this error of the system.
    NotStarted(i32),
    /// The leader was stopped by this signal.
    Stopped(i32),
    /// The leader ended; the rest of its group is being ended.
    Exited {
        status: u8,
        /// A signal ended it: the status is 128 and its number.
        by_signal: bool,
    },
    /// Nothing is left of the group. The last message.
    Gone {
        /// It was ended because the lease was about to.
        by_deadline: bool,
        /// Some of its descendants had left the group, and live.
        strays: bool,
    },
}

impl Order {
    pub(crate) fn encode(self) -> [u8; SIZE] {
        bytes(match self {
            Order::Start(Start { token, mode, until, ttl, grace }) => {
                [1, token, mode as u64, until.as_nanos(), nanos(ttl), nanos(grace)]
            }
            Order::Until(until) => [2, until.as_nanos(), 0, 0, 0, 0],
            Order::Signal(number) => [3, u64::from(number.unsigned_abs()), 0, 0, 0, 0],
            Order::End => [4, 0, 0, 0, 0, 0],
        })
    }

    pub(crate) fn decode(message: &[u8; SIZE]) -> Option<Order> {
        Some(match words(message) {
            [1, token, mode, until, ttl, grace] => Order::Start(Start {
                token,
                mode: [Manner::Exclusive, Manner::Shared, Manner::Permits]
                    .into_iter()
                    .find(|manner| *manner as u64 == mode)?,
                until: BootTime::from_nanos(until),
                ttl: Duration::from_nanos(ttl),
                grace: Duration::from_nanos(grace),
            }),
            [2, until, ..] => Order::Until(BootTime::from_nanos(until)),
            [3, number, ..] => Order::Signal(i32::try_from(number).ok()?),
            [4, ..] => Order::End,
            _ => return None,
        })
    }
}

impl Report {
    pub(crate) fn encode(self) -> [u8; SIZE] {
        let number = |n: i32| u64::from(n.unsigned_abs());
        bytes(match self {
            Report::Started(group) => [1, number(group), 0, 0, 0, 0],
            Report::NotStarted(errno) => [2, number(errno), 0, 0, 0, 0],
            Report::Stopped(signal) => [3, number(signal), 0, 0, 0, 0],
            Report::Exited { status, by_signal } => [4, u64::from(status), u64::from(by_signal), 0, 0, 0],
            Report::Gone { by_deadline, strays } => [5, u64::from(by_deadline), u64::from(strays), 0, 0, 0],
        })
    }

    pub(crate) fn decode(message: &[u8; SIZE]) -> Option<Report> {
        let [kind, value, more, ..] = words(message);
        Some(match kind {
            1 => Report::Started(i32::try_from(value).ok()?),
            2 => Report::NotStarted(i32::try_from(value).ok()?),
            3 => Report::Stopped(i32::try_from(value).ok()?),
            4 => Report::Exited { status: u8::try_from(value).ok()?, by_signal: more != 0 },
            5 => Report::Gone { by_deadline: value != 0, strays: more != 0 },
            _ => return None,
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn bytes(words: Words) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8; SIZE]) -> Words {
    let mut words = [0; 6];
    for (word, place) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = place.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let start = Start {
            token: u64::MAX >> 11,
            mode: Manner::Permits,
            until: BootTime::from_nanos(77),
            ttl: Duration::from_millis(1),
            grace: Duration::MAX,
        };
        let arrives = Start { grace: Duration::from_nanos(u64::MAX), ..start };
        assert_eq!(Order::decode(&Order::Start(start).encode()), Some(Order::Start(arrives)));
        for order in [Order::Until(BootTime::from_nanos(9)), Order::Signal(15), Order::End] {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        assert_eq!(Order::decode(&[0; SIZE]), None);
    }

    #[test]
    fn reports_arrive_as_they_were_sent() {
        for report in [
            Report::Started(4_194_303),
            Report::NotStarted(2),
            Report::Stopped(20),
            Report::Exited { status: 255, by_signal: false },
            Report::Exited { status: 130, by_signal: true },
            Report::Gone { by_deadline: true, strays: false },
            Report::Gone { by_deadline: false, strays: true },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(&[0xFF; SIZE]), None);
    }
}
