//! What comes of a round, and the medians of several.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

/// All that was measured, by what was done and who did it.
pub struct Board<W> {
    cycles: BTreeMap<(Shape, W), Vec<Cycles>>,
    hand_offs: BTreeMap<(Way, W), HandOffs>,
    pub courses: Vec<Course>,
}

/// One of those that are compared.
pub trait Who: Copy + Ord {
    fn name(self, shape: Option<Shape>) -> &'static str;

    /// What it is measured by: itself, for a floor.
    fn floor(self) -> Self;
}

/// How tasks take and give back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    One,
    Many,
    Hot,
}

/// How long the waiter has waited when the lock is given back, and whether others write meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Short,
    ShortAmongWriters,
    Long,
}

/// One round of cycles.
#[derive(Clone, Copy)]
pub struct Cycles {
    /// A second.
    pub rate: f64,
    pub take: Spread,
    pub give_back: Spread,
    /// Jain's index of what each task got: 1 where everybody got the same, 1/n where one got all.
    pub jain: f64,
    /// What a cycle took of the processor, in microseconds.
    pub client: f64,
    pub server: f64,
}

/// In microseconds.
#[derive(Clone, Copy)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
}

/// In microseconds, each hand-off beside a write in the same circumstances.
#[derive(Default)]
pub struct HandOffs {
    pub times: Vec<f64>,
    pub writes: Vec<f64>,
}

/// How many lengths a short wait has: the Go program has as many.
pub const LENGTHS: usize = 8;

/// Whether many cycles on the same keys become slower: the means of the first and of the last thousand, in microseconds.
#[derive(Clone, Copy)]
pub struct Course {
    pub cycles: usize,
    pub tasks: usize,
    pub keys: usize,
    pub first: f64,
    pub last: f64,
    /// The same of the floor, before and after.
    pub floor_before: f64,
    pub floor_after: f64,
}

impl<W> Default for Board<W> {
    fn default() -> Board<W> {
        Board { cycles: BTreeMap::new(), hand_offs: BTreeMap::new(), courses: Vec::new() }
    }
}

impl<W: Who> Board<W> {
    pub fn cycled(&mut self, shape: Shape, who: W, round: Cycles) {
        self.cycles.entry((shape, who)).or_default().push(round);
    }

    pub fn handed_off(&mut self, way: Way, who: W, round: HandOffs) {
        let all = self.hand_offs.entry((way, who)).or_default();
        all.times.extend(round.times);
        all.writes.extend(round.writes);
    }

    pub fn who_cycled(&self, shape: Shape) -> Vec<W> {
        self.cycles.keys().filter(|key| key.0 == shape).map(|key| key.1).collect()
    }

    pub fn who_handed_off(&self, way: Way) -> Vec<W> {
        self.hand_offs.keys().filter(|key| key.0 == way).map(|key| key.1).collect()
    }

    /// The median of a figure over the rounds.
    pub fn median(&self, shape: Shape, who: W, figure: fn(&Cycles) -> f64) -> Option<f64> {
        let rounds = self.cycles.get(&(shape, who))?;
        Some(at(&rounds.iter().map(figure).collect::<Vec<_>>(), 500))
    }

    /// The median of the ratios of two in the same round: the machine differs from round to round.
    pub fn ratio(&self, shape: Shape, who: W, to: W, figure: fn(&Cycles) -> f64) -> Option<f64> {
        let (these, those) = (self.cycles.get(&(shape, who))?, self.cycles.get(&(shape, to))?);
        let ratios: Vec<_> =
            these.iter().zip(those).map(|(one, other)| figure(one) / figure(other)).collect();
        Some(at(&ratios, 500))
    }

    pub fn hand_offs(&self, way: Way, who: W) -> Option<&HandOffs> {
        self.hand_offs.get(&(way, who))
    }
}

impl HandOffs {
    /// How many writes the median is.
    pub fn writes(&self) -> f64 {
        at(&self.times, 500) / at(&self.writes, 500)
    }

    /// The same for that length of the wait at which it is the most. Every round goes through all lengths in the same order.
    pub fn writes_at_worst(&self) -> f64 {
        let medians = (0..LENGTHS).map(|length| {
            let times: Vec<_> = self.times.iter().skip(length).step_by(LENGTHS).copied().collect();
            at(&times, 500)
        });
        medians.fold(0.0, f64::max) / at(&self.writes, 500)
    }

    /// Of the Go program's words.
    pub fn read(words: &Value) -> Option<HandOffs> {
        let numbers =
            |name: &str| -> Option<Vec<f64>> { words[name].as_array()?.iter().map(Value::as_f64).collect() };
        Some(HandOffs { times: numbers("times")?, writes: numbers("puts")? })
    }
}

impl Cycles {
    /// Of the Go program's words. What the server spent it does not know.
    pub fn read(words: &Value) -> Option<Cycles> {
        let number = |name: &str| words[name].as_f64();
        Some(Cycles {
            rate: number("rate")?,
            take: Spread { p50: number("take_p50")?, p99: number("take_p99")? },
            give_back: Spread { p50: number("give_back_p50")?, p99: number("give_back_p99")? },
            jain: number("jain")?,
            client: number("client")?,
            server: 0.0,
        })
    }
}

impl Spread {
    pub fn of(times: &[f64]) -> Spread {
        Spread { p50: at(times, 500), p99: at(times, 990) }
    }
}

/// The number below which so many of a thousand lie.
pub fn at(numbers: &[f64], permille: usize) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len().saturating_sub(1) * permille / 1000).copied().unwrap_or(f64::NAN)
}

pub fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
