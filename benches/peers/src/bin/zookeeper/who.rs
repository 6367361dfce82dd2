//! [`Who`] is compared, and what is to be reached.

use fencepost_peers::figures::{self, Board, Cycles, HandOffs, Shape, Way};
use fencepost_peers::table::{Bound, Target};

/// Those that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Floor,
    Ours,
    /// Each of several clients with a session and a connection of its own.
    OursApart,
    ClientLock,
    /// Those that do not wait for their release.
    OursDropped,
    ClientLockDropped,
    CuratorFloor,
    Curator,
}

impl figures::Who for Who {
    fn name(self, shape: Option<Shape>) -> &'static str {
        match self {
            Who::Floor => "floor: create, delete",
            Who::Ours => "fencepost",
            Who::OursApart if shape == Some(Shape::Hot) => "fencepost, 4 clients",
            Who::OursApart => "fencepost, 2 clients",
            Who::ClientLock => "the driver's Client::lock",
            Who::OursDropped => "fencepost, dropped",
            Who::ClientLockDropped => "Client::lock, dropped",
            Who::CuratorFloor => "Curator's floor: create, delete",
            Who::Curator => "Curator's InterProcessMutex",
        }
    }

    fn floor(self) -> Who {
        match self {
            Who::CuratorFloor | Who::Curator => Who::CuratorFloor,
            _ => Who::Floor,
        }
    }
}

pub fn targets(board: &Board<Who>) -> Vec<Target> {
    let rate: fn(&Cycles) -> f64 = |round| round.rate;
    let mut all = vec![
        Target {
            what: "acquire, of a bare creation".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Floor, |round| round.take.p50),
            bound: Bound::AtMost(1.3),
        },
        Target {
            what: "release, of a bare deletion".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Floor, |round| round.give_back.p50),
            bound: Bound::AtMost(1.1),
        },
        Target {
            what: "1 hot key, of Curator's InterProcessMutex".to_owned(),
            found: board.ratio(Shape::Hot, Who::Ours, Who::Curator, rate),
            bound: Bound::AtLeast(2.0),
        },
        Target {
            what: "1 hot key, 4 clients, of Curator's InterProcessMutex".to_owned(),
            found: board.ratio(Shape::Hot, Who::OursApart, Who::Curator, rate),
            bound: Bound::AtLeast(2.0),
        },
    ];
    for (shape, what) in [(Shape::One, "1 task"), (Shape::Many, "64 tasks"), (Shape::Hot, "1 hot key")] {
        for (ours, theirs, how) in
            [(Who::Ours, Who::ClientLock, "released"), (Who::OursDropped, Who::ClientLockDropped, "dropped")]
        {
            all.push(Target {
                what: format!("{what}, of Client::lock, both {how}"),
                found: board.ratio(shape, ours, theirs, rate),
                bound: Bound::AtLeast(1.6),
            });
        }
    }
    for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
        for (who, clients) in [(Who::Ours, "1 client"), (Who::OursApart, "2 clients")] {
            all.push(Target {
                what: format!("hand-off, {}, {clients}: creations", way.name()),
                found: board.hand_offs(way, who).map(HandOffs::writes),
                bound: Bound::AtMost(2.0),
            });
        }
    }
    all.push(Target {
        what: "last thousand cycles, of the first".to_owned(),
        found: board.courses.first().map(|course| course.last / course.first),
        bound: Bound::AtMost(1.1),
    });
    all
}
