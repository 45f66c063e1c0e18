//! Names in the buckets. Ids of jobs may hold dots, so a key is read from both of its ends.

use std::fmt;

use moat_model::{AllocId, JobId, Namespace, NodeId};
use moat_scheduler::JobKey;

/// Jobs, what became of them, and fences.
pub const JOBS: &str = "moat_jobs";
/// Nodes: facts, wishes, beats; and the lease.
pub const NODES: &str = "moat_nodes";
/// What nodes say of allocations.
pub const STATUS: &str = "moat_status";

/// A key of one of the buckets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// What is declared.
    Job(JobKey),
    /// An earlier version of it.
    Version(JobKey, u64),
    /// What became of it: the one document the controller writes.
    Outcome(JobKey),
    /// Whether a node is given up.
    Fence(NodeId),
    /// Written by a node to learn how far the bucket goes.
    Barrier(NodeId),
    /// What a node says of itself.
    Facts(NodeId),
    /// What is wanted of a node.
    Wish(NodeId),
    /// That a node lives.
    Beat(NodeId),
    /// Who controls.
    Lease,
    /// What a node says of an allocation.
    Status(AllocId),
}

impl Key {
    /// Where it is kept.
    pub fn bucket(&self) -> &'static str {
        match self {
            Self::Job(_) | Self::Version(..) | Self::Outcome(_) | Self::Fence(_) | Self::Barrier(_) => JOBS,
            Self::Facts(_) | Self::Wish(_) | Self::Beat(_) | Self::Lease => NODES,
            Self::Status(_) => STATUS,
        }
    }

    /// The subject it is published on.
    pub fn subject(&self) -> String {
        format!("$KV.{}.{self}", self.bucket())
    }

    /// Reads a key of a bucket; nothing if it is not one of ours.
    pub fn parse(bucket: &str, text: &str) -> Option<Self> {
        if bucket == STATUS {
            return AllocId::parse(text).ok().map(Self::Status);
        }
        if bucket == NODES && text == "lease" {
            return Some(Self::Lease);
        }
        let (kind, rest) = text.split_once('.')?;
        let node = || NodeId::parse(rest).ok();
        match (bucket, kind) {
            (JOBS, "job") => job_key(rest).map(Self::Job),
            (JOBS, "allocs") => job_key(rest).map(Self::Outcome),
            (JOBS, "version") => {
                let (job, number) = rest.rsplit_once('.')?;
                Some(Self::Version(job_key(job)?, number.parse().ok()?))
            }
            (JOBS, "fence") => node().map(Self::Fence),
            (JOBS, "barrier") => node().map(Self::Barrier),
            (NODES, "facts") => node().map(Self::Facts),
            (NODES, "wish") => node().map(Self::Wish),
            (NODES, "beat") => node().map(Self::Beat),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(key) => write!(f, "job.{}.{}", key.namespace, key.job),
            Self::Version(key, number) => write!(f, "version.{}.{}.{number}", key.namespace, key.job),
            Self::Outcome(key) => write!(f, "allocs.{}.{}", key.namespace, key.job),
            Self::Fence(node) => write!(f, "fence.{node}"),
            Self::Barrier(node) => write!(f, "barrier.{node}"),
            Self::Facts(node) => write!(f, "facts.{node}"),
            Self::Wish(node) => write!(f, "wish.{node}"),
            Self::Beat(node) => write!(f, "beat.{node}"),
            Self::Lease => write!(f, "lease"),
            Self::Status(alloc) => write!(f, "{alloc}"),
        }
    }
}

fn job_key(text: &str) -> Option<JobKey> {
    let (namespace, job) = text.split_once('.')?;
    Some(JobKey { namespace: Namespace::parse(namespace).ok()?, job: JobId::parse(job).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_and_no_two_are_alike() {
        let node = NodeId::parse(&format!("N{}", "A".repeat(55))).unwrap();
        let alloc = AllocId::parse("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        let mut keys = vec![Key::Lease, Key::Status(alloc), Key::Fence(node.clone()), Key::Barrier(node.clone())];
        keys.extend([Key::Facts(node.clone()), Key::Wish(node.clone()), Key::Beat(node)]);
        let namespace = Namespace::default_namespace();
        for job in ["a", "a.1", "a.1.2", "a/periodic-17", "x.y/dispatch-1-ab"] {
            let key = JobKey { namespace: namespace.clone(), job: JobId::parse(job).unwrap() };
            keys.extend([Key::Job(key.clone()), Key::Outcome(key.clone())]);
            keys.extend((0..3).map(|n| Key::Version(key.clone(), n)));
        }
        let mut subjects: Vec<String> = keys.iter().map(Key::subject).collect();
        for key in &keys {
            assert_eq!(Key::parse(key.bucket(), &key.to_string()).as_ref(), Some(key));
        }
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), keys.len());
    }

    #[test]
    fn what_is_not_ours_is_no_key() {
        for (bucket, text) in [(JOBS, "job.default"), (JOBS, "job.a..b"), (JOBS, "version.d.a.x"), (NODES, "beat.x")] {
            assert_eq!(Key::parse(bucket, text), None, "{text}");
        }
    }
}
