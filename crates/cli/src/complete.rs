//! Candidates for a shell that completes a word: ids and names a node knows.
//!
//! A node that is slow or not there means no candidates, never an error: somebody is typing.

use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use moat_api::client::rest::{RestClient, RestOptions};
use moat_api::rest::allocation::ListAllocations;
use moat_api::rest::job::{JobRow, ListJobs};
use moat_api::rest::sandbox::ListSandboxes;

use crate::rest;

/// Longer than this, and the shell feels stuck.
const PATIENCE: Duration = Duration::from_millis(400);

/// Ids of sandboxes.
pub fn sandboxes() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let query = ListSandboxes { limit: Some(200), ..ListSandboxes::default() };
        let page = client.sandboxes(&query).await?;
        let described = page.sandboxes.into_iter().map(|s| {
            let from = s.template.or(s.image).unwrap_or_default();
            CompletionCandidate::new(s.id).help(Some(format!("{} {from}", s.state).into()))
        });
        Ok(described.collect())
    })
}

/// Names of templates.
pub fn templates() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.templates().await?;
        Ok(list.templates.into_iter().map(|t| CompletionCandidate::new(t.name)).collect())
    })
}

/// References of images.
pub fn images() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.images().await?;
        Ok(list.images.into_iter().flat_map(|i| i.references).map(CompletionCandidate::new).collect())
    })
}

/// Names, or ids, of snapshots.
pub fn snapshots() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.snapshots().await?;
        Ok(list.snapshots.into_iter().map(|s| CompletionCandidate::new(s.name.unwrap_or(s.id))).collect())
    })
}

/// Ids of jobs.
pub fn jobs() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.jobs(&ListJobs::default()).await?;
        let candidate = |job: JobRow| CompletionCandidate::new(job.id).help(Some(job.status.into()));
        Ok(list.jobs.into_iter().map(candidate).collect())
    })
}

/// Ids of allocations.
pub fn allocations() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.allocations(&ListAllocations::default()).await?;
        let described = list.allocations.into_iter().map(|a| {
            let help = format!("{} {}", a.client.as_str(), a.allocation.name());
            CompletionCandidate::new(a.allocation.id.to_string()).help(Some(help.into()))
        });
        Ok(described.collect())
    })
}

/// Ids of nodes jobs may be placed on.
pub fn nodes() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.nodes().await?;
        let described = list
            .cluster
            .into_iter()
            .map(|node| CompletionCandidate::new(node.facts.id.to_string()).help(Some(node.facts.name.into())));
        Ok(described.collect())
    })
}

fn ask(
    question: impl AsyncFnOnce(RestClient) -> moat_api::client::Result<Vec<CompletionCandidate>>,
) -> Vec<CompletionCandidate> {
    let some = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let options = RestOptions {
        url: rest::url(some("MOAT_URL")),
        api_key: some("MOAT_API_KEY"),
        namespace: some("NEX_NAMESPACE").and_then(|name| moat_model::Namespace::parse(&name).ok()),
        connect: PATIENCE,
        quick: PATIENCE,
        slow: PATIENCE,
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, question(RestClient::new(options)?)).await.ok().transpose() });
    answer.ok().flatten().unwrap_or_default()
}
