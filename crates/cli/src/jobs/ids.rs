//! Whole ids from whole ones or the beginning of one.

use moat_api::client::rest::RestClient;
use moat_api::rest::allocation::{AllocationView, ListAllocations};
use moat_api::rest::job::ListJobs;
use moat_api::rest::node::ClusterNode;
use moat_model::ErrorKind;
use moat_model::job::ClientStatus;

use crate::failure::Failure;

/// A job that was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundJob {
    /// Its id.
    pub id: String,
    /// The id was given as a whole.
    pub exact: bool,
}

/// The job somebody means.
pub async fn job(client: &RestClient, text: &str) -> Result<FoundJob, Failure> {
    let list = client.jobs(&ListJobs { prefix: Some(text.to_owned()) }).await?;
    let ids: Vec<String> = list.jobs.into_iter().map(|job| job.id).collect();
    one_job(text, &ids)
}

fn one_job(text: &str, ids: &[String]) -> Result<FoundJob, Failure> {
    if ids.iter().any(|id| id == text) {
        return Ok(FoundJob { id: text.to_owned(), exact: true });
    }
    match ids {
        [one] => Ok(FoundJob { id: one.clone(), exact: false }),
        [] => Err(Failure::new(ErrorKind::NotFound, format!("no job has an id beginning with {text}"))
            .with_hint("`moat job status` lists them; --namespace names another namespace")),
        several => Err(ambiguous(text, several)),
    }
}

/// The allocation somebody means.
pub async fn allocation(client: &RestClient, text: &str) -> Result<AllocationView, Failure> {
    let query = ListAllocations { prefix: Some(text.to_ascii_lowercase()), node: None };
    let mut found = client.allocations(&query).await?.allocations;
    let ids: Vec<String> = found.iter().map(|a| a.allocation.id.to_string()).collect();
    match (found.pop(), ids.len()) {
        (Some(one), 1) => Ok(one),
        (None, _) => Err(Failure::new(ErrorKind::NotFound, format!("no allocation has an id beginning with {text}"))
            .with_hint("`moat job allocs JOB` lists those of a job")),
        (Some(_), _) => Err(ambiguous(text, &ids)),
    }
}

/// An allocation of a job that runs, the newest; of one group, if it is named.
pub async fn allocation_of(client: &RestClient, text: &str, group: Option<&str>) -> Result<AllocationView, Failure> {
    let job = job(client, text).await?.id;
    let all = client.job_allocations(&job).await?.allocations;
    let mut wanted = all.into_iter().filter(|a| group.is_none_or(|group| a.allocation.group == group));
    let running = wanted.find(|a| a.client == ClientStatus::Running);
    running.ok_or_else(|| {
        let of = group.map_or_else(String::new, |group| format!(" of group {group}"));
        Failure::new(ErrorKind::NotFound, format!("no allocation{of} of job {job} runs"))
            .with_hint(format!("`moat job allocs {job}` lists them all; one that has ended is named by its id"))
    })
}

/// The node somebody means: `self` is the one that is asked.
pub async fn node(client: &RestClient, text: &str) -> Result<ClusterNode, Failure> {
    let list = client.nodes().await?;
    let own = list.nodes.first().map(|node| node.id.clone()).unwrap_or_default();
    let wanted = if text == "self" { own.as_str() } else { text };
    let mut found: Vec<ClusterNode> = list
        .cluster
        .into_iter()
        .filter(|n| n.facts.id.as_str() == wanted || n.facts.name == wanted || n.facts.id.as_str().starts_with(wanted))
        .collect();
    if let Some(at) = found.iter().position(|n| n.facts.id.as_str() == wanted || n.facts.name == wanted) {
        return Ok(found.swap_remove(at));
    }
    let ids: Vec<String> = found.iter().map(|n| format!("{} ({})", n.facts.id, n.facts.name)).collect();
    match (found.pop(), ids.len()) {
        (Some(one), 1) => Ok(one),
        (None, _) => Err(Failure::new(ErrorKind::NotFound, format!("no node {text:?} takes part in jobs"))
            .with_hint("`moat node status` lists those that do")),
        (Some(_), _) => Err(ambiguous(text, &ids)),
    }
}

fn ambiguous(text: &str, ids: &[String]) -> Failure {
    Failure::new(ErrorKind::Conflict, format!("{text} is the beginning of several: {}", ids.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_id_wins_over_those_that_begin_with_it() {
        let ids = ["web".to_owned(), "web/periodic-1".to_owned()];
        assert_eq!(one_job("web", &ids).unwrap(), FoundJob { id: "web".to_owned(), exact: true });
        assert_eq!(one_job("we", &ids[..1]).unwrap(), FoundJob { id: "web".to_owned(), exact: false });
        assert_eq!(one_job("we", &ids).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(one_job("x", &[]).unwrap_err().kind, ErrorKind::NotFound);
    }
}
