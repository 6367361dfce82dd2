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
    LockClient,
    GoFloor,
    GoMutex,
}

impl figures::Who for Who {
    fn name(self, shape: Option<Shape>) -> &'static str {
        match self {
            Who::Floor => "floor: put, delete",
            Who::Ours => "fencepost",
            Who::OursApart if shape == Some(Shape::Hot) => "fencepost, 4 clients",
            Who::OursApart => "fencepost, 2 clients",
            Who::LockClient => "the driver's LockClient",
            Who::GoFloor => "Go's floor: put, delete",
            Who::GoMutex => "Go's concurrency.Mutex",
        }
    }

    fn floor(self) -> Who {
        match self {
            Who::GoFloor | Who::GoMutex => Who::GoFloor,
            _ => Who::Floor,
        }
    }
}

pub fn targets(board: &Board<Who>) -> Vec<Target> {
    let rate: fn(&Cycles) -> f64 = |round| round.rate;
    let mut all = vec![
        Target {
            what: "acquire, of a bare put".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Floor, |round| round.take.p50),
            bound: Bound::AtMost(1.2),
        },
        Target {
            what: "release, of a bare delete".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Floor, |round| round.give_back.p50),
            bound: Bound::AtMost(1.1),
        },
        Target {
            what: "64 tasks, of LockClient".to_owned(),
            found: board.ratio(Shape::Many, Who::Ours, Who::LockClient, rate),
            bound: Bound::AtLeast(0.9),
        },
        Target {
            what: "64 tasks: part of its floor, of the same of Go's Mutex".to_owned(),
            found: board
                .ratio(Shape::Many, Who::Ours, Who::Floor, rate)
                .and_then(|ours| Some(ours / board.ratio(Shape::Many, Who::GoMutex, Who::GoFloor, rate)?)),
            bound: Bound::AtLeast(1.2),
        },
        Target {
            what: "1 hot key, of Go's Mutex".to_owned(),
            found: board.ratio(Shape::Hot, Who::Ours, Who::GoMutex, rate),
            bound: Bound::AtLeast(5.0),
        },
        Target {
            what: "1 hot key, 4 clients, of Go's Mutex".to_owned(),
            found: board.ratio(Shape::Hot, Who::OursApart, Who::GoMutex, rate),
            bound: Bound::AtLeast(5.0),
        },
    ];
    for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
        for (who, clients) in [(Who::Ours, "1 client"), (Who::OursApart, "2 clients")] {
            let puts = if way == Way::Long { HandOffs::writes } else { HandOffs::writes_at_worst };
            all.push(Target {
                what: format!("hand-off, {}, {clients}: puts", way.name()),
                found: board.hand_offs(way, who).map(puts),
                bound: Bound::AtMost(2.2),
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
