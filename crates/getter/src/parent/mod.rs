//! The daemon's side: starts the child, looks at what it left, moves it.
//!
//! One thread of its own for each fetch, from the start of the child to the last rename: the child is told to die with the
//! thread that started it, and a caller who gives up leaves nothing half done, for the thread still cleans up.

mod cache;
mod destination;
mod inspect;
mod place;
mod process;
mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use moat_model::job::ArtifactSpec;
use tokio::sync::Semaphore;

use crate::config::GetterConfig;
use crate::error::{FetchError, FetchErrorKind};
use crate::origin;
use crate::request::{FetchRequest, Fetched, ProgressSink, Source};
use process::Stop;

/// Fetches of one task at a time.
const PER_TASK: usize = 3;

/// Starts children and judges what they bring.
#[derive(Debug, Clone)]
pub struct Getter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: GetterConfig,
    cache: Option<cache::Cache>,
    places: Arc<Semaphore>,
    /// Names the staging directories of this getter: others are left over from a daemon that died.
    instance: String,
    count: AtomicU64,
}

impl Getter {
    /// A getter of this node.
    pub fn new(mut config: GetterConfig) -> Result<Self, FetchError> {
        let node = |detail: String| FetchError::new(FetchErrorKind::Node, "(none yet)", detail);
        if rustix::process::geteuid().is_root() {
            // As root the child would be kept in by Landlock alone.
            if config.ids.is_none_or(|ids| ids.uid == 0 || ids.gid == 0) {
                return Err(node("the getter of a daemon that is root needs ids that are nobody's".to_owned()));
            }
        } else {
            config.ids = None;
        }
        let cache = config.cache_dir.clone().map(|dir| cache::Cache::open(dir, config.cache_bytes));
        let cache = cache.transpose().map_err(|e| node(format!("the cache of artifacts: {e}")))?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| node(format!("no randomness: {e}")))?;
        let places = Arc::new(Semaphore::new(config.concurrency.max(1)));
        let instance = hex::encode(random);
        Ok(Self { inner: Arc::new(Inner { config, cache, places, instance, count: AtomicU64::new(0) }) })
    }

    /// Fetches one artifact. Dropping the future ends the child, and nothing is left behind.
    pub async fn fetch(&self, request: FetchRequest, progress: ProgressSink) -> Result<Fetched, FetchError> {
        let source = request.artifact.source.clone();
        let mut plan = origin::plan(&request.artifact)?;
        if let Source::Descriptor { name, .. } = &request.source
            && !request.artifact.options.contains_key("filename")
        {
            plan.name = origin::file_name(name)
                .map_err(|detail| FetchError::new(FetchErrorKind::BadSource, &source, detail))?;
        }
        let destination = destination::inside(&request.artifact.destination, &request.alloc_dir, &request.task_dir)
            .map_err(|detail| FetchError::new(FetchErrorKind::DestinationOutside, &source, detail))?;
        let child = |detail: String| FetchError::new(FetchErrorKind::Child, &source, detail);
        let place = Arc::clone(&self.inner.places).acquire_owned().await;
        let place = place.map_err(|_| child("the node is stopping".to_owned()))?;
        let node_limit = self.inner.config.limits.deadline();
        let deadline = request.deadline.map_or(node_limit, |asked| asked.min(node_limit));
        let stop = Stop::default();
        let on_drop = stop.on_drop();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let number = self.inner.count.fetch_add(1, Ordering::Relaxed);
        let run = run::Run {
            staging: format!("{}{}-{number}", run::STAGING, self.inner.instance),
            inner: Arc::clone(&self.inner),
            request,
            plan,
            destination,
            progress,
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new().name("getter".to_owned()).spawn(move || {
            let result = run.run();
            drop(place);
            // Whoever asked may have given up.
            let _ = answer.send(result);
        });
        thread.map_err(|e| child(format!("no thread for it: {e}")))?;
        let mut answered = answered;
        let result = match tokio::time::timeout(deadline, &mut answered).await {
            Ok(result) => result,
            Err(_) => {
                stop.now(FetchErrorKind::Timeout, format!("it took longer than {} s", deadline.as_secs_f64()));
                // The child is dead at once; what it left is being removed.
                answered.await
            }
        };
        drop(on_drop);
        result.map_err(|_| child("its thread ended without an answer".to_owned()))?
    }

    /// Fetches what one task needs, three at a time; outcomes in the order of the requests.
    pub async fn fetch_all(
        &self,
        requests: Vec<FetchRequest>,
        progress: ProgressSink,
    ) -> Vec<Result<Fetched, FetchError>> {
        let fetches = requests.into_iter().map(|request| self.fetch(request, progress.clone()));
        futures::stream::iter(fetches).buffered(PER_TASK).collect().await
    }
}

/// Whether the destination's text stays inside an allocation.
pub(crate) fn check_destination(artifact: &ArtifactSpec) -> Result<(), FetchError> {
    destination::inside(&artifact.destination, "/a".as_ref(), "/a/t".as_ref())
        .map(drop)
        .map_err(|detail| FetchError::new(FetchErrorKind::DestinationOutside, &artifact.source, detail))
}
