//! [`Case`]: one scenario, its number, and how it is played.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::scene::Scene;
use crate::verdict::Verdict;

/// A verdict that is still to come.
pub(crate) type Playing = Pin<Box<dyn Future<Output = Verdict>>>;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) number: u32,
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) play: fn(Scene) -> Playing,
    /// Measures time so closely that nothing may run beside it.
    pub(crate) alone: bool,
    /// How long it may take, in TTLs beside what is usual.
    pub(crate) ttls: u32,
}

impl Case {
    /// What a scenario may take that says nothing else.
    const USUAL: Duration = Duration::from_secs(30);

    /// `group::name`.
    pub(crate) fn title(&self) -> String {
        format!("{}::{}", self.group, self.name)
    }

    pub(crate) fn limit(&self, ttl: Duration) -> Duration {
        Case::USUAL + ttl * self.ttls
    }
}

/// The scenarios of a group: `number => function`, each an `async fn(Scene) -> Verdict`.
///
/// `alone` before the number keeps others from running beside it; `for N` behind it gives it N TTLs more.
macro_rules! cases {
    ($group:literal: $($(#[$alone:ident])? $number:literal => $play:ident $(for $ttls:literal)?),+ $(,)?) => {
        pub(super) const CASES: &[$crate::case::Case] = &[$(
            $crate::case::Case {
                number: $number,
                group: $group,
                name: stringify!($play),
                play: |scene| Box::pin($play(scene)),
                alone: $crate::case::cases!(@alone $($alone)?),
                ttls: $crate::case::cases!(@ttls $($ttls)?),
            }
        ),+];
    };
    (@alone) => { false };
    (@alone alone) => { true };
    (@ttls) => { 0 };
    (@ttls $ttls:literal) => { $ttls };
}
pub(crate) use cases;
