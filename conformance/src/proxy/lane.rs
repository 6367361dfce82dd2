//! [`Lane`]: one direction of a connection.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lock_core::{BootTime, Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::connection::{Fate, Reset};
use super::{Network, Rules, Way};

/// The longest piece that is read at once.
const PIECE: usize = 16 * 1024;

/// How many bytes may be under way in one direction. It bounds what a server that has stopped makes this process keep.
const UNDER_WAY: usize = 4 * 1024 * 1024;

/// One direction of a connection: what is read waits for its time, then is judged by the rules as they are at that time.
pub(super) struct Lane<'a> {
    way: Way,
    network: &'a Network,
    rules: watch::Receiver<Rules>,
    fate: &'a Fate,
    /// The receiver was shown the end.
    is_shut: bool,
    /// The receiver is gone, and the sender must not know.
    is_void: bool,
}

struct Arrival {
    at: BootTime,
    what: What,
    /// Its share of what may be under way.
    _room: Option<OwnedSemaphorePermit>,
}

enum What {
    Bytes(Vec<u8>),
    End,
    Failed,
}

impl<'a> Lane<'a> {
    pub(super) fn new(
        way: Way,
        network: &'a Network,
        rules: watch::Receiver<Rules>,
        fate: &'a Fate,
    ) -> Lane<'a> {
        Lane { way, network, rules, fate, is_shut: false, is_void: false }
    }

    /// Carries everything, until the end has been carried too.
    pub(super) async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Reset> {
        let (sender, arrivals) = unbounded_channel();
        let read = async {
            read(from, sender).await;
            Ok(())
        };
        tokio::try_join!(read, self.deliver(arrivals, to))?;
        Ok(())
    }

    async fn deliver(
        mut self,
        mut arrivals: UnboundedReceiver<Arrival>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Reset> {
        loop {
            self.heed_half_close(&mut to).await;
            let arrival = tokio::select! {
                biased;
                _ = self.rules.changed() => continue,
                arrival = arrivals.recv() => arrival,
            };
            let Some(arrival) = arrival else {
                // The end has vanished. Only a reset ends this connection.
                return pending().await;
            };
            self.wait_until_due(arrival.at, &mut to).await;
            let vanishes = self.is_blocked(self.way);
            match arrival.what {
                What::Bytes(bytes) => self.forward(&bytes, &mut to).await?,
                What::End | What::Failed if vanishes => self.lose(),
                What::End => {
                    // Fails if the receiver is gone, which has the same end.
                    let _ = to.shutdown().await;
                    return Ok(());
                }
                What::Failed => return Err(Reset),
            }
        }
    }

    async fn wait_until_due(&mut self, at: BootTime, to: &mut WriteHalf<'_>) {
        let clock = SystemClock::new();
        loop {
            let due = at + self.rules.borrow_and_update().delay;
            let left = due.since(clock.boot());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                _ = self.rules.changed() => self.heed_half_close(to).await,
                () = clock.sleep(left) => {}
            }
        }
    }

    async fn forward(&mut self, bytes: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Reset> {
        let mut rest = bytes;
        loop {
            let (size, pause) = self.rules.borrow_and_update().slices;
            let size = if size == 0 { rest.len() } else { size.min(rest.len()) };
            let (piece, later) = rest.split_at(size);
            self.heed_half_close(to).await;
            self.forward_piece(piece, to).await?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
            self.pause(pause).await;
        }
    }

    /// Ends early when the rules change: the next piece may be the whole rest.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            biased;
            _ = self.rules.changed() => {}
            () = SystemClock::new().sleep(pause) => {}
        }
    }

    async fn forward_piece(&mut self, piece: &[u8], to: &mut WriteHalf<'_>) -> Result<(), Reset> {
        if self.is_blocked(self.way) {
            self.lose();
            return Ok(());
        }
        if self.is_shut || self.is_void {
            return Ok(());
        }
        if self.way == Way::ToClient && self.fate.swallows_replies.load(Ordering::SeqCst) {
            return Err(Reset);
        }
        let (piece, is_cut) = self.cut(piece);
        self.show(piece);
        // Before it is sent: the reply may be faster than what follows here. After it was shown: whoever watches may mean this one.
        if self.way == Way::ToServer && self.network.swallow.swap(false, Ordering::SeqCst) {
            self.fate.swallows_replies.store(true, Ordering::SeqCst);
        }
        if to.write_all(piece).await.is_err() {
            self.receiver_is_gone()?;
        }
        if is_cut { Err(Reset) } else { Ok(()) }
    }

    /// As much as may pass, and whether the connection is to be reset then.
    fn cut<'p>(&self, piece: &'p [u8]) -> (&'p [u8], bool) {
        let mut cuts = self.network.cuts();
        let cut = if self.way == Way::ToServer { &mut cuts.to_server } else { &mut cuts.to_client };
        let Some(left) = *cut else { return (piece, false) };
        let length = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        // A `usize` fits.
        let after = left - length as u64;
        *cut = (after > 0).then_some(after);
        (&piece[..length], after == 0)
    }

    /// Before it is sent: who has the reply can rely on it that the request was counted.
    fn show(&self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        let counts = &self.network.counts;
        let count = if self.way == Way::ToServer { &counts.to_server } else { &counts.to_client };
        count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        if let Some(tap) = self.network.tap() {
            tap(self.way, piece);
        }
    }

    /// That a receiver is gone is news for the sender, which travels the other way.
    fn receiver_is_gone(&mut self) -> Result<(), Reset> {
        let back = if self.way == Way::ToServer { Way::ToClient } else { Way::ToServer };
        if !self.is_blocked(back) {
            return Err(Reset);
        }
        self.lose();
        self.is_void = true;
        Ok(())
    }

    async fn heed_half_close(&mut self, to: &mut WriteHalf<'_>) {
        let is_told = self.rules.borrow().half_closes != self.fate.since.half_closes;
        if is_told && self.way == Way::ToClient && !self.is_shut {
            // Fails if the receiver is gone, which then is noticed elsewhere.
            let _ = to.shutdown().await;
            self.is_shut = true;
        }
    }

    fn is_blocked(&self, way: Way) -> bool {
        self.rules.borrow().is_blocked(way)
    }

    fn lose(&self) {
        self.fate.has_a_hole.store(true, Ordering::SeqCst);
    }
}

/// Reads whatever comes, and says when it came.
async fn read(mut from: ReadHalf<'_>, arrivals: UnboundedSender<Arrival>) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let mut buffer = vec![0; PIECE];
    loop {
        let read = from.read(&mut buffer).await;
        let at = SystemClock::new().boot();
        let (what, length) = match read {
            Ok(0) => (What::End, 0),
            Ok(length) => (What::Bytes(buffer[..length].to_vec()), length),
            Err(_) => (What::Failed, 0),
        };
        let is_last = length == 0;
        // Nobody closes it, and no piece is longer than a `u32` can say.
        let share = u32::try_from(length).unwrap_or(u32::MAX);
        let room = room.clone().acquire_many_owned(share).await.ok();
        // Fails when nobody wants anything more.
        if arrivals.send(Arrival { at, what, _room: room }).is_err() || is_last {
            return;
        }
    }
}
