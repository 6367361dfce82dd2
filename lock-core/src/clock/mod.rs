//! Time, through one door: [`Clock`].

mod boot_time;
mod system;
mod virtual_clock;
mod within;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use self::boot_time::BootTime;
pub use self::system::SystemClock;
pub use self::virtual_clock::VirtualClock;
pub use self::within::within;

/// A pause that ends by itself.
pub type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The only source of time: leases, deadlines, pauses and tokens all ask it.
///
/// *Boot time* counts the machine's sleep and never steps; leases live by it. *Wall time* is what the world calls
/// now; it may step either way, and only fencing tokens and records that outlive a boot look at it.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The present instant, counting the machine's sleep.
    fn boot(&self) -> BootTime;

    /// Microseconds since 1970 by the wall clock; 0 before that.
    fn wall_micros(&self) -> u64;

    /// Pauses for a while of running time: for patience and backoff. It may be longer by the machine's sleep.
    fn sleep(&self, time: Duration) -> Pause;

    /// Pauses until an instant of boot time: for leases. A machine that slept past it ends the pause as it wakes.
    fn wake_at(&self, at: BootTime) -> Pause;
}
