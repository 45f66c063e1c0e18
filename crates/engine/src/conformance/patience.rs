//! How long a case waits for what should come soon.

use std::time::Duration;

/// How long anything that should come soon is waited for.
const SOON: Duration = Duration::from_secs(15);
/// The same where the guest's processor is emulated: it boots in seconds on an idle host, and in a minute on a busy one.
const SOON_IF_SLOW: Duration = Duration::from_secs(180);
/// A case that takes longer hangs; the slowest waits two seconds for something not to happen.
const CASE: Duration = Duration::from_secs(60);
/// The same where several machines are booted one after the other, each slowly.
const CASE_IF_SLOW: Duration = Duration::from_secs(900);

tokio::task_local! {
    static PATIENCE: Duration;
}

/// How long anything that should come soon is waited for in this case.
pub fn soon() -> Duration {
    PATIENCE.try_with(|soon| *soon).unwrap_or(SOON)
}

/// How long a case may take.
pub fn whole_case(slow: bool) -> Duration {
    if slow { CASE_IF_SLOW } else { CASE }
}

/// Does `work` with the patience that the host needs.
pub async fn patiently<T>(slow: bool, work: impl Future<Output = T>) -> T {
    PATIENCE.scope(if slow { SOON_IF_SLOW } else { SOON }, work).await
}
