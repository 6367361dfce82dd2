//! The client: bounds, prefixes, sight and shutdown.

use std::sync::Arc;

use lock_core::{
    AcquireOptions, DistributedLock, End, ErrorKind, LockClient, LockGuard, MemoryBackend, Mode, Prefix,
    Reason,
};

use crate::support::{Fault, Operation, TTL, World, at_once, millis, rest, secs};

#[tokio::test]
async fn settings_out_of_bounds_are_refused() {
    let with_ttl = |ttl| LockClient::builder(MemoryBackend::new()).ttl(ttl).build();
    assert_eq!(with_ttl(millis(99)).unwrap_err().kind(), &ErrorKind::InvalidInput);
    assert_eq!(with_ttl(secs(24 * 3600 + 1)).unwrap_err().kind(), &ErrorKind::InvalidInput);
    assert!(with_ttl(millis(100)).is_ok());
    let client = with_ttl(secs(1)).unwrap();
    assert!(client.mutex("").is_err());
    assert!(client.semaphore("k", 0).is_err());
    assert!(client.semaphore("k", 2).unwrap().permits(3).is_err());
    let lock = client.mutex("k").unwrap();
    let options = AcquireOptions::new().hold_at_most(secs(0));
    assert_eq!(lock.acquire_with(&options).await.unwrap_err().kind(), &ErrorKind::InvalidInput);
}

#[test]
fn outside_a_runtime_it_says_what_to_do() {
    let error = LockClient::builder(MemoryBackend::new()).build().unwrap_err();
    assert!(error.to_string().contains("inside a Tokio runtime"), "{error}");
}

#[tokio::test]
async fn stores_are_interchangeable_behind_the_traits() {
    let world = World::new();
    let locks: Vec<Box<dyn DistributedLock>> = vec![
        Box::new(world.client.mutex("m").unwrap()),
        Box::new(world.client.rw_lock("r").unwrap().read()),
        Box::new(world.client.semaphore("s", 3).unwrap().permits(2).unwrap()),
    ];
    let modes = [Mode::Exclusive, Mode::Shared, Mode::Permits { held: 2, of: 3 }];
    for (lock, mode) in locks.iter().zip(modes) {
        let guard: Box<dyn LockGuard> = lock.acquire().await.unwrap();
        assert_eq!((guard.key(), guard.mode()), (lock.key(), mode));
        assert_eq!(guard.grant().token, guard.token());
        assert_eq!(guard.grant().proof::<String>().unwrap_err().kind(), &ErrorKind::WrongBackend);
        assert!(guard.state().is_held());
        let ending = guard.ending();
        assert_eq!(guard.release().await.unwrap(), End::Released);
        assert_eq!(ending.await, End::Released);
    }
    assert!(locks[0].try_acquire().await.unwrap().is_ok());
    assert!(locks[0].acquire_with(&AcquireOptions::new()).await.is_ok());
}

#[tokio::test]
async fn prefixes_keep_clients_apart() {
    let memory = MemoryBackend::new();
    let client = |prefix: Option<&str>| {
        let mut builder = LockClient::builder(memory.clone());
        if let Some(prefix) = prefix {
            builder = builder.prefix(Prefix::new(prefix).unwrap());
        }
        builder.build().unwrap()
    };
    let (plain, a, ab) = (client(None), client(Some("a")), client(Some("a/b")));
    let _one = a.mutex("b/c").unwrap().acquire().await.unwrap();
    let _two = ab.mutex("c").unwrap().try_acquire().await.unwrap().unwrap();
    let _three = plain.mutex("a/b/c").unwrap().try_acquire().await.unwrap().unwrap();
    let listed = a.list("", None, 10).await.unwrap().keys;
    assert_eq!(listed.iter().map(lock_core::LockKey::as_str).collect::<Vec<_>>(), ["b/c"]);
    assert_eq!(a.inspect("b/c").await.unwrap().key.as_str(), "b/c");
    assert!(plain.inspect("b/c").await.unwrap().is_idle());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new();
    let mut guards = Vec::new();
    for key in ["a1", "a3", "b1", "a2"] {
        guards.push(world.client.mutex(key).unwrap().acquire().await.unwrap());
    }
    let names =
        |page: &lock_core::Page| page.keys.iter().map(|key| key.as_str().to_owned()).collect::<Vec<_>>();
    let first = world.client.list("a", None, 2).await.unwrap();
    assert_eq!(names(&first), ["a1", "a2"]);
    let second = world.client.list("a", first.next, 2).await.unwrap();
    assert_eq!((names(&second), second.next), (vec!["a3".to_owned()], None));
}

#[tokio::test]
async fn inspect_shows_holders_waiters_and_notes() {
    let world = World::with(|builder| builder.name("etl"));
    let lock = world.client.mutex("k").unwrap();
    let options = AcquireOptions::new().note(lock_core::Note::new("load of May").unwrap());
    let guard = lock.acquire_with(&options).await.unwrap();
    let waiter = tokio::spawn(async move { lock.acquire().await.map(|_| ()) });
    rest().await;
    let state = world.client.inspect("k").await.unwrap();
    assert_eq!(state.holders[0].token, guard.token());
    assert_eq!(state.holders[0].note.as_ref().map(lock_core::Note::as_str), Some("load of May"));
    assert_eq!(state.queue[0].info.as_ref().and_then(|info| info.name()), Some("etl"));
    assert_eq!((state.capacity, state.fence), (Some(1), Some(guard.token())));
    waiter.abort();
}

#[tokio::test]
async fn shutdown_refuses_releases_and_closes() {
    let world = World::new();
    let lock = world.client.mutex("k").unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    rest().await;
    assert_eq!(at_once(world.client.shutdown(secs(5))).await, Some(vec![]));
    assert_eq!(waiter.await.unwrap().unwrap_err().kind(), &ErrorKind::ShutDown);
    assert_eq!(guard.ending().await, End::Lost(Reason::ShutDown));
    assert_eq!(lock.try_acquire().await.unwrap_err().kind(), &ErrorKind::ShutDown);
    assert!(world.state("k").await.is_idle());
    let renewals = world.wire.calls(Operation::Renew);
    world.pass(TTL).await;
    assert_eq!(world.wire.calls(Operation::Renew), renewals);
}

#[tokio::test]
async fn shutdown_says_what_it_had_to_leave() {
    let world = World::new();
    let _guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    world.wire.always(Operation::Release, Fault::Silence);
    let client = world.client.clone();
    let ending = tokio::spawn(async move { client.shutdown(secs(3)).await });
    world.pass(secs(3)).await;
    let left = ending.await.unwrap();
    assert_eq!(left.iter().map(lock_core::LockKey::as_str).collect::<Vec<_>>(), ["k"]);
}

#[tokio::test]
async fn a_store_without_fixed_terms_says_so() {
    #[derive(Debug)]
    struct Plain(Arc<MemoryBackend>);
    #[async_trait::async_trait]
    impl lock_core::Backend for Plain {
        fn info(&self) -> lock_core::BackendInfo {
            lock_core::BackendInfo::new("plain", "plain:", lock_core::Capabilities::new())
        }
        async fn open(
            &self,
            options: &lock_core::SessionOptions,
            sink: lock_core::EventSink,
        ) -> lock_core::Result<lock_core::Opened> {
            self.0.open(options, sink).await
        }
        async fn inspect(&self, key: &lock_core::LockKey) -> lock_core::Result<lock_core::LockState> {
            self.0.inspect(key).await
        }
        async fn list(&self, query: &lock_core::Query) -> lock_core::Result<lock_core::Page> {
            self.0.list(query).await
        }
        async fn force_release(
            &self,
            key: &lock_core::LockKey,
            only: Option<lock_core::FencingToken>,
        ) -> lock_core::Result<usize> {
            self.0.force_release(key, only).await
        }
    }
    let client = LockClient::builder(Arc::new(Plain(MemoryBackend::new()))).build().unwrap();
    let lock = client.mutex("k").unwrap();
    let error = lock.acquire_with(&AcquireOptions::new().hold_at_least(secs(1))).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
    let error = lock.acquire_detached(secs(1), &AcquireOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_shutdown_that_outlasts_the_lease_names_what_was_never_acknowledged() {
    let world = World::new();
    let _guard = world.client.mutex("k").unwrap().acquire().await.unwrap();
    for op in [Operation::Release, Operation::Renew, Operation::Close] {
        world.wire.always(op, Fault::Silence);
    }
    let client = world.client.clone();
    let shutdown = tokio::spawn(async move { client.shutdown(secs(60)).await });
    world.pass(secs(61)).await;
    assert_eq!(shutdown.await.unwrap().len(), 1);
}
