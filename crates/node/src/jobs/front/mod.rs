//! What is asked of jobs, answered from this node's copy of the buckets and written by compare-and-set.

mod allocations;
mod decide;
mod jobs;
mod nodes;
pub mod status;
