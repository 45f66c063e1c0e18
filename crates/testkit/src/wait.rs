//! Waiting for a state, never for a while.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// How often a state is looked at. Short beside everything waited for, long beside one look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `check` returns something, looking often; fails at the deadline, naming what was waited for.
pub async fn wait_until<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match tokio::time::timeout_at(end, check()).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() < end => tokio::time::sleep(LOOK_EVERY).await,
            Ok(None) | Err(_) => bail!("{what}: not within {deadline:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_a_state_and_names_what_never_came() {
        let mut looks = 0;
        let found = wait_until(Duration::from_secs(5), "third look", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
        let never = wait_until(Duration::from_millis(30), "a blue moon", async || None::<()>).await;
        assert!(never.unwrap_err().to_string().starts_with("a blue moon"));
    }
}
