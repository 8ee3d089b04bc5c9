use std::time::{Duration, Instant};

use crate::TestbedError;

/// Waits until `condition` answers `true`, looking again every few milliseconds.
///
/// # Errors
///
/// [`TestbedError::Timeout`], which names `what`, when `deadline` has passed since the call. An answer that is on its
/// way at the deadline is waited for.
pub async fn wait_until<F>(deadline: Duration, what: &str, mut condition: F) -> Result<(), TestbedError>
where
    F: AsyncFnMut() -> bool,
{
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    while !condition().await {
        if begin.elapsed() >= deadline {
            return Err(TestbedError::Timeout {
                what: what.to_owned(),
                waited: deadline,
                log: String::new(),
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}
