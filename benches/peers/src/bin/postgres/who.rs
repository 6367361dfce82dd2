//! [`Who`] is compared, and what is to be reached.

use fencepost_peers::figures::{self, Board, HandOffs, Shape, Way};
use fencepost_peers::table::{Bound, Target};

/// Those that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Floor,
    /// Commits apart from each other: every second one does not wait for the disk.
    Apart,
    Select,
    /// The schema's own function through the same connections as the floor, with one claim or release in each statement.
    Single,
    Ours,
    /// Each of several clients with a session and connections of its own.
    OursApart,
    Advisory,
}

impl figures::Who for Who {
    fn name(self, shape: Option<Shape>) -> &'static str {
        match (self, shape) {
            (Who::Floor, Some(Shape::Many)) => "floor: 2 commits, pool of 16",
            (Who::Floor, _) => "floor: a commit, a commit",
            (Who::Apart, _) => "a commit, one without the disk",
            (Who::Select, _) => "SELECT 1, SELECT 1",
            (Who::Single, Some(Shape::Many)) => "a call each, pool of 16",
            (Who::Single, _) => "a call each, 1 connection",
            (Who::Ours, _) => "fencepost",
            (Who::OursApart, Some(Shape::Hot)) => "fencepost, 4 clients",
            (Who::OursApart, _) => "fencepost, 2 clients",
            (Who::Advisory, _) => "pg_advisory_lock",
        }
    }

    fn floor(self) -> Who {
        Who::Floor
    }
}

pub fn targets(board: &Board<Who>) -> Vec<Target> {
    let mut all = vec![
        Target {
            what: "acquire, of a bare commit".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Floor, |round| round.take.p50),
            bound: Bound::AtMost(1.25),
        },
        Target {
            what: "acquire, of a commit behind one that does not wait".to_owned(),
            found: board.ratio(Shape::One, Who::Ours, Who::Apart, |round| round.take.p50),
            bound: Bound::AtMost(1.25),
        },
        Target {
            what: "64 tasks, of a pool of 16 with a call each".to_owned(),
            found: board.ratio(Shape::Many, Who::Ours, Who::Single, |round| round.rate),
            bound: Bound::AtLeast(3.0),
        },
    ];
    for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
        all.push(Target {
            what: format!("hand-off, {}, 2 clients: commits", way.name()),
            found: board.hand_offs(way, Who::OursApart).map(HandOffs::writes),
            bound: Bound::AtMost(2.5),
        });
    }
    for course in &board.courses {
        all.push(Target {
            what: format!("{} cycles on {} keys: last thousand, of the first", course.cycles, course.keys),
            found: Some(course.last / course.first),
            bound: Bound::AtMost(1.1),
        });
    }
    all
}
