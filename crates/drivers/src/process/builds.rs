//! Task directories being made on other threads.
//!
//! Whoever waits for a create may give up; the thread that makes the directory does not notice. Releasing the directory
//! therefore waits until nobody is making it any more, or what is removed would come back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The directories being made now.
#[derive(Debug, Default, Clone)]
pub(super) struct Builds(Arc<Mutex<BTreeMap<PathBuf, watch::Receiver<()>>>>);

/// One that is being made, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Build {
    builds: Builds,
    dir: PathBuf,
    _running: watch::Sender<()>,
}

impl Builds {
    /// Says that `dir` is being made. Call before the work is handed to another thread; give it the value.
    pub(super) fn begin(&self, dir: &Path) -> Build {
        let (running, ended) = watch::channel(());
        self.lock().insert(dir.to_owned(), ended);
        Build { builds: self.clone(), dir: dir.to_owned(), _running: running }
    }

    /// Waits until nobody makes `dir`.
    pub(super) async fn ended(&self, dir: &Path) {
        let ended = self.lock().get(dir).cloned();
        if let Some(mut ended) = ended {
            while ended.changed().await.is_ok() {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.builds.lock().remove(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn whoever_removes_waits_for_whoever_makes() {
        let builds = Builds::default();
        let dir = Path::new("/alloc/one");
        builds.ended(dir).await;
        let build = builds.begin(dir);
        builds.ended(Path::new("/alloc/two")).await;
        assert!(builds.ended(dir).now_or_never().is_none());
        let waiting = builds.ended(dir);
        std::thread::spawn(move || drop(build));
        waiting.await;
        assert!(builds.lock().is_empty());
    }
}
