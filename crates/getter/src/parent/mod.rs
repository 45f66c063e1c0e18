//! The daemon's side.

mod destination;

use std::sync::Arc;

use futures::StreamExt as _;
use moat_model::job::ArtifactSpec;

use crate::config::GetterConfig;
use crate::error::{FetchError, FetchErrorKind};
use crate::request::{FetchRequest, Fetched, ProgressSink};

/// Fetches of one task at a time.
const PER_TASK: usize = 3;

/// Starts children and judges what they bring.
#[derive(Debug, Clone)]
pub struct Getter {
    inner: Arc<GetterConfig>,
}

impl Getter {
    /// A getter of this node.
    pub fn new(config: GetterConfig) -> Result<Self, FetchError> {
        Ok(Self { inner: Arc::new(config) })
    }

    /// Fetches one artifact. Dropping the future ends the child, and nothing is left behind.
    pub async fn fetch(&self, request: FetchRequest, _progress: ProgressSink) -> Result<Fetched, FetchError> {
        let program = self.inner.program.display().to_string();
        Err(FetchError::new(FetchErrorKind::Child, &request.artifact.source, format!("{program} is not there yet")))
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
