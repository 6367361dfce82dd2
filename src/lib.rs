#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod registry;
#[cfg(feature = "testing")]
pub mod testing;

pub use lock_core::{
    AcquireOptions, BackendInfo, Busy, Capabilities, Connector, Cursor, Detached, DistributedLock, Effect,
    End, Ending, Error, ErrorKind, Failover, Fence, Fencing, FencingToken, Finding, Grant, Guard, Held,
    HoldState, HolderInfo, HolderState, Host, Liveness, Lock, LockClient, LockClientBuilder, LockGuard,
    LockKey, LockState, Lost, Mode, Note, Operation, Page, Prefix, Ran, Reason, Refused, Result, RetryPolicy,
    RwLock, Semaphore, SessionId, Severity, Stale, StoreUrl, Ticket, Wait, WaiterState, telemetry,
};

pub use self::registry::{Registry, connect};

/// What a store of your own is made of.
///
/// It begins with a choice:
///
/// - It can replace a record if nobody else was quicker: implement [`records::RecordStore`](backend::records::RecordStore),
///   some 150 lines. The [`table`](backend::table) runs in the client and brings queue, tokens, readers-writer locks and
///   semaphores. Its example is `examples/src/bin/own_store.rs`.
/// - It lives in this process: run the [`table`](backend::table) behind a mutex, as `lock-core/src/memory` does.
/// - It runs scripts or functions, or has an order of its own: implement [`Backend`](backend::Backend) and
///   [`Session`](backend::Session). Its example is `examples/src/bin/own_backend.rs`.
///
/// All of them under [`#[async_trait]`](backend::async_trait). It is reached by URL through a [`Connector`] that a
/// [`Registry`] is given ([`Registry::with`]), or directly by [`LockClient::builder`].
pub mod backend {
    pub use lock_core::{
        Backend, BackendInfo, BootTime, Busy, Capabilities, Certainty, Claim, ClaimRef, Claimed, Clock,
        Connector, Cursor, Domain, Effect, Error, ErrorKind, Event, EventSink, ExposeSecret, Failover,
        Fencing, FencingToken, Finding, HolderInfo, HolderState, Host, Liveness, LockKey, LockState, Mode,
        Note, Opened, Operation, Page, Pause, Permit, Prefix, Proof, Query, Reason, Released, Renewal,
        Result, Secret, Session, SessionId, SessionOptions, Severity, Standing, StoreUrl, SystemClock, Term,
        Ticket, VirtualClock, WaiterState, async_trait, records, table,
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

/// The store in an etcd server or cluster.
#[cfg(feature = "etcd")]
pub mod etcd {
    pub use lock_etcd::*;
}

/// The store in a PostgreSQL server.
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use lock_postgres::*;
}

/// The store in a Redis server.
#[cfg(feature = "redis")]
pub mod redis {
    pub use lock_redis::*;
}

/// The store in a ZooKeeper server or ensemble.
#[cfg(feature = "zookeeper")]
pub mod zookeeper {
    pub use lock_zookeeper::*;
}
