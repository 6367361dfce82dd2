#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod registry;

pub use lock_core::{
    AcquireOptions, BackendInfo, Busy, Capabilities, Connector, Cursor, Detached, DistributedLock, Effect,
    End, Ending, Error, ErrorKind, Failover, Fence, Fencing, FencingToken, Finding, Grant, Guard, Held,
    HoldState, HolderInfo, HolderState, Host, Liveness, Lock, LockClient, LockClientBuilder, LockGuard,
    LockKey, LockState, Lost, Mode, Note, Operation, Page, Prefix, Ran, Reason, Result, RetryPolicy, RwLock,
    Semaphore, SessionId, Severity, Stale, StoreUrl, Ticket, Wait, WaiterState, telemetry,
};

pub use self::registry::{Registry, connect};

/// What a store of your own is made of: see [`Connector`] and [`Registry::with`].
pub mod backend {
    pub use lock_core::{
        Backend, BackendInfo, BootTime, Busy, Capabilities, Certainty, Claim, ClaimRef, Claimed, Clock,
        Connector, Cursor, Domain, Effect, Error, ErrorKind, Event, EventSink, Failover, Fencing,
        FencingToken, Finding, HolderInfo, HolderState, Liveness, LockKey, LockState, Mode, Note, Opened,
        Operation, Page, Pause, Permit, Prefix, Proof, Query, Reason, Released, Renewal, Result, Session,
        SessionId, SessionOptions, Severity, Standing, StoreUrl, SystemClock, Term, Ticket, VirtualClock,
        WaiterState, records, table,
    };
}

/// The store in this process's memory.
#[cfg(feature = "memory")]
pub mod memory {
    pub use lock_core::{MemoryBackend, MemoryConnector};
}

/// The store in a directory of this host.
#[cfg(all(feature = "file", target_os = "linux"))]
pub mod file {
    pub use lock_file::*;
}
