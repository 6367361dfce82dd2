//! [`Table`]: what was measured, and what it was to be.

use std::fmt::{Display, Formatter, Result};

use crate::figures::{Board, Course, Cycles, HandOffs, Shape, Way, Who};

pub struct Table<'a> {
    pub board: &'a Board,
    pub rounds: usize,
}

/// What was to be reached, and what was.
struct Target {
    what: String,
    found: Option<f64>,
    bound: Bound,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "Times in µs; medians of {} rounds, ratios within each round.", self.rounds)?;
        self.uncontended(f, Shape::One, "1 task on its own key")?;
        self.uncontended(f, Shape::Many, "64 tasks on their own keys")?;
        self.hot(f)?;
        self.hand_offs(f)?;
        if let Some(course) = &self.board.course {
            course.fmt(f)?;
        }
        writeln!(f, "\nwhat was to be reached")?;
        self.targets().iter().try_for_each(|target| target.fmt(f))
    }
}

impl Table<'_> {
    fn uncontended(&self, f: &mut Formatter<'_>, shape: Shape, title: &str) -> Result {
        writeln!(f, "\n{title}")?;
        let heads = ["acquire", "p99", "of floor", "release", "p99", "of floor", "cycles/s", "of floor"];
        write!(f, "{:<28}", "")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, "   CPU client, server")?;
        for who in self.board.who_cycled(shape) {
            let floor = if matches!(who, Who::GoFloor | Who::GoMutex) { Who::GoFloor } else { Who::Floor };
            let figure =
                |figure: fn(&Cycles) -> f64| self.board.median(shape, who, figure).unwrap_or(f64::NAN);
            let of_floor = |figure: fn(&Cycles) -> f64| {
                let ratio = self.board.ratio(shape, who, floor, figure).filter(|_| who != floor);
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
            };
            writeln!(
                f,
                "  {:<26} {:>9.0} {:>9.0} {:>9} {:>9.0} {:>9.0} {:>9} {:>9.0} {:>9}   {:>10.0}, {:>6.0}",
                who.name(),
                figure(|round| round.take.p50),
                figure(|round| round.take.p99),
                of_floor(|round| round.take.p50),
                figure(|round| round.give_back.p50),
                figure(|round| round.give_back.p99),
                of_floor(|round| round.give_back.p50),
                figure(|round| round.rate),
                of_floor(|round| round.rate),
                figure(|round| round.client),
                figure(|round| round.server),
            )?;
        }
        Ok(())
    }

    fn hot(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "\n1 hot key, 16 tasks")?;
        write!(f, "{:<28}", "")?;
        ["cycles/s", "acquire", "p99", "Jain"].iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, "   CPU client, server")?;
        for who in self.board.who_cycled(Shape::Hot) {
            let figure = |figure| self.board.median(Shape::Hot, who, figure).unwrap_or(f64::NAN);
            writeln!(
                f,
                "  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.3}   {:>10.0}, {:>6.0}",
                if who == Who::OursApart { "fencepost, 4 clients" } else { who.name() },
                figure(|round| round.rate),
                figure(|round| round.take.p50),
                figure(|round| round.take.p99),
                figure(|round| round.jain),
                figure(|round| round.client),
                figure(|round| round.server),
            )?;
        }
        Ok(())
    }

    fn hand_offs(&self, f: &mut Formatter<'_>) -> Result {
        for way in [Way::Short, Way::ShortAmongWriters, Way::Long] {
            writeln!(f, "\nhand-off, {}", way.name())?;
            write!(f, "{:<28}", "")?;
            ["p50", "p90", "worst", "a put", "puts"].iter().try_for_each(|head| write!(f, " {head:>9}"))?;
            writeln!(f, "{}", if way == Way::Long { "" } else { "   puts at the worst length of the wait" })?;
            for who in self.board.who_handed_off(way) {
                let Some(all) = self.board.hand_offs(way, who) else { continue };
                let at = |permille| crate::figures::at(&all.times, permille);
                let worst = (way != Way::Long).then(|| format!("   {:>9.2}", all.puts_at_worst()));
                writeln!(
                    f,
                    "  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.2}{}",
                    who.name(),
                    at(500),
                    at(900),
                    at(1000),
                    crate::figures::at(&all.puts, 500),
                    all.puts(),
                    worst.unwrap_or_default(),
                )?;
            }
        }
        Ok(())
    }

    fn targets(&self) -> Vec<Target> {
        let board = self.board;
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
                found: board.ratio(Shape::Many, Who::Ours, Who::Floor, rate).and_then(|ours| {
                    Some(ours / board.ratio(Shape::Many, Who::GoMutex, Who::GoFloor, rate)?)
                }),
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
                let puts = if way == Way::Long { HandOffs::puts } else { HandOffs::puts_at_worst };
                all.push(Target {
                    what: format!("hand-off, {}, {clients}: puts", way.name()),
                    found: board.hand_offs(way, who).map(puts),
                    bound: Bound::AtMost(2.2),
                });
            }
        }
        all.push(Target {
            what: "last thousand cycles, of the first".to_owned(),
            found: board.course.map(|course| course.last / course.first),
            bound: Bound::AtMost(1.1),
        });
        all
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (sign, bound) = match self.bound {
            Bound::AtMost(bound) => ("≤", bound),
            Bound::AtLeast(bound) => ("≥", bound),
        };
        let (found, word) = match self.found {
            Some(found) if self.bound.holds(found) => (format!("{found:.2}"), "reached"),
            Some(found) => (format!("{found:.2}"), "MISSED"),
            None => ("–".to_owned(), "not measured"),
        };
        writeln!(f, "  {:<66} {found:>6} {sign} {bound:.1}  {word}", self.what)
    }
}

impl Bound {
    fn holds(&self, found: f64) -> bool {
        match self {
            Bound::AtMost(bound) => found <= *bound,
            Bound::AtLeast(bound) => found >= *bound,
        }
    }
}

impl Display for Course {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Course { cycles, keys, first, last, floor_before, floor_after } = self;
        writeln!(
            f,
            "\n{cycles} cycles, a task for each of {keys} keys: means of the first and the last thousand"
        )?;
        let mut line = |who: &str, from: f64, to: f64| {
            writeln!(f, "  {who:<26} {from:>9.0} {to:>9.0} {:>9.2}", to / from)
        };
        line("fencepost", *first, *last)?;
        line("floor, before and after", *floor_before, *floor_after)
    }
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Floor => "floor: put, delete",
            Who::Ours => "fencepost",
            Who::OursApart => "fencepost, 2 clients",
            Who::LockClient => "the driver's LockClient",
            Who::GoFloor => "Go's floor: put, delete",
            Who::GoMutex => "Go's concurrency.Mutex",
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Short => "0 to 7 ms waited",
            Way::ShortAmongWriters => "0 to 7 ms waited while another writes",
            Way::Long => "300 ms waited",
        }
    }
}
