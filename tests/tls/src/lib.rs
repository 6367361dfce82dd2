//! What each of the programs does.

/// Connects to the store that `FENCEPOST_URL` names, takes a lock and gives it back.
pub async fn take_a_lock() -> Result<(), Box<dyn std::error::Error>> {
    let client = fencepost::connect(&std::env::var("FENCEPOST_URL")?).await?;
    let guard = client.mutex("k")?.acquire().await?;
    guard.release().await?;
    Ok(())
}
