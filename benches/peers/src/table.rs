//! [`Table`]: what was measured, and what it was to be.

use std::fmt::{Display, Formatter, Result};

use crate::figures::{Board, Course, Cycles, Shape, Way, Who};

pub struct Table<'a, W> {
    pub board: &'a Board<W>,
    pub rounds: usize,
    /// What a hand-off is measured by, in the singular: `put`.
    pub write: &'static str,
    pub targets: Vec<Target>,
}

/// What was to be reached, and what was.
pub struct Target {
    pub what: String,
    pub found: Option<f64>,
    pub bound: Bound,
}

pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl<W: Who> Display for Table<'_, W> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "Times in µs; medians of {} rounds, ratios within each round.", self.rounds)?;
        self.uncontended(f, Shape::One, "1 task on its own key")?;
        self.uncontended(f, Shape::Many, "64 tasks on their own keys")?;
        self.hot(f)?;
        self.hand_offs(f)?;
        self.board.courses.iter().try_for_each(|course| course.fmt(f))?;
        writeln!(f, "\nwhat was to be reached")?;
        self.targets.iter().try_for_each(|target| target.fmt(f))
    }
}

impl<W: Who> Table<'_, W> {
    fn uncontended(&self, f: &mut Formatter<'_>, shape: Shape, title: &str) -> Result {
        if self.board.who_cycled(shape).is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{title}")?;
        let heads = ["acquire", "p99", "of floor", "release", "p99", "of floor", "cycles/s", "of floor"];
        write!(f, "{:<28}", "")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, "   CPU client, server")?;
        for who in self.board.who_cycled(shape) {
            let floor = who.floor();
            let figure =
                |figure: fn(&Cycles) -> f64| self.board.median(shape, who, figure).unwrap_or(f64::NAN);
            let of_floor = |figure: fn(&Cycles) -> f64| {
                let ratio = self.board.ratio(shape, who, floor, figure).filter(|_| who != floor);
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
            };
            writeln!(
                f,
                "  {:<26} {:>9.0} {:>9.0} {:>9} {:>9.0} {:>9.0} {:>9} {:>9.0} {:>9}   {:>10.0}, {:>6.0}",
                who.name(Some(shape)),
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
        if self.board.who_cycled(Shape::Hot).is_empty() {
            return Ok(());
        }
        writeln!(f, "\n1 hot key, 16 tasks")?;
        write!(f, "{:<28}", "")?;
        ["cycles/s", "acquire", "p99", "Jain"].iter().try_for_each(|head| write!(f, " {head:>9}"))?;
        writeln!(f, "   CPU client, server")?;
        for who in self.board.who_cycled(Shape::Hot) {
            let figure = |figure| self.board.median(Shape::Hot, who, figure).unwrap_or(f64::NAN);
            writeln!(
                f,
                "  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.3}   {:>10.0}, {:>6.0}",
                who.name(Some(Shape::Hot)),
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
            if self.board.who_handed_off(way).is_empty() {
                continue;
            }
            writeln!(f, "\nhand-off, {}", way.name())?;
            write!(f, "{:<28}", "")?;
            let (one, several) = (format!("a {}", self.write), format!("{}s", self.write));
            ["p50", "p90", "worst", &one, &several].iter().try_for_each(|head| write!(f, " {head:>9}"))?;
            match way {
                Way::Long => writeln!(f)?,
                _ => writeln!(f, "   {several} at the worst length of the wait")?,
            }
            for who in self.board.who_handed_off(way) {
                let Some(all) = self.board.hand_offs(way, who) else { continue };
                let at = |permille| crate::figures::at(&all.times, permille);
                let worst = (way != Way::Long).then(|| format!("   {:>9.2}", all.writes_at_worst()));
                writeln!(
                    f,
                    "  {:<26} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.2}{}",
                    who.name(None),
                    at(500),
                    at(900),
                    at(1000),
                    crate::figures::at(&all.writes, 500),
                    all.writes(),
                    worst.unwrap_or_default(),
                )?;
            }
        }
        Ok(())
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
        writeln!(f, "  {:<66} {found:>6} {sign} {bound:<4}  {word}", self.what)
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
        let Course { cycles, tasks, keys, first, last, floor_before, floor_after } = self;
        writeln!(
            f,
            "\n{cycles} cycles, {tasks} tasks on {keys} keys: means of the first and the last thousand"
        )?;
        let mut line = |who: &str, from: f64, to: f64| {
            writeln!(f, "  {who:<26} {from:>9.0} {to:>9.0} {:>9.2}", to / from)
        };
        line("fencepost", *first, *last)?;
        line("floor, before and after", *floor_before, *floor_after)
    }
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Short => "0 to 7 ms waited",
            Way::ShortAmongWriters => "0 to 7 ms waited while another writes",
            Way::Long => "300 ms waited",
        }
    }
}
