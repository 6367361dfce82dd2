//! One entity at a time in a request handler: a second request is told when to come back.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::error::Error;
use std::time::Duration;

use fencepost::{LockClient, LockKey, Ran};

struct Response {
    status: u16,
    /// The header of that name, in seconds.
    retry_after: Option<u64>,
}

const OK: Response = Response { status: 200, retry_after: None };
/// The store is away, or the lock was lost on the way. That is never the same as "busy".
const UNAVAILABLE: Response = Response { status: 503, retry_after: None };

async fn ship(client: &LockClient, order: u32) -> fencepost::Result<Response> {
    // Parts are escaped: no order's number can name another tenant's lock.
    let key = LockKey::from_parts(["orders", &order.to_string()])?;
    Ok(match client.mutex(key)?.run(|held| book_parcel(order, held.token().get())).await {
        Ok(Ran::Done(())) => OK,
        Ok(Ran::Busy(busy)) => {
            let seconds = busy.remaining.unwrap_or(Duration::from_secs(1)).as_secs_f64().ceil();
            Response { status: 409, retry_after: Some((seconds as u64).max(1)) }
        }
        Ok(Ran::Lost(_)) => UNAVAILABLE,
        Err(error) if error.is_retryable() => UNAVAILABLE,
        Err(error) => return Err(error),
    })
}

/// The token goes along: the parcel service refuses one that is older than it has seen.
async fn book_parcel(_order: u32, _token: u64) {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = fencepost::connect("memory:").await?;
    let (first, second, another) =
        tokio::join!(ship(&client, 4711), ship(&client, 4711), ship(&client, 4712));
    for (request, response) in [("4711", first?), ("4711 again", second?), ("4712", another?)] {
        println!("order {request}: {}, Retry-After {:?}", response.status, response.retry_after);
    }
    Ok(())
}
