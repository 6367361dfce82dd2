//! The facade end to end, in memory.
use fencepost::{AcquireOptions, Ran, Wait};
use std::time::Duration;

#[tokio::test]
async fn smoke() {
    let client = fencepost::connect("memory:").await.unwrap();
    let lock = client.mutex("a").unwrap();
    let g = lock.acquire().await.unwrap();
    let t1 = g.token();
    assert!(lock.try_acquire().await.unwrap().is_err());
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    while client.inspect("a").await.unwrap().queue.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(g);
    let g = waiter.await.unwrap().unwrap();
    assert!(g.token() > t1);
    let e = lock
        .acquire_with(&AcquireOptions::new().wait(Wait::AtMost(Duration::from_millis(50))))
        .await
        .unwrap_err();
    println!("{e}");
    g.release().await.unwrap();
    let r =
        lock.run_with(&AcquireOptions::new().wait(Wait::AtMost(Duration::from_secs(1))), |h| async move {
            h.token()
        })
        .await
        .unwrap();
    assert!(matches!(r, Ran::Done(_)));
    assert!(client.shutdown(Duration::from_secs(1)).await.is_empty());
    println!("{}", lock.acquire().await.unwrap_err());
    for u in ["redis://h/0", "memory:?tll=1", "foo:bar", "memory:?ttl=1x"] {
        println!("{}", fencepost::connect(u).await.unwrap_err());
    }
}
