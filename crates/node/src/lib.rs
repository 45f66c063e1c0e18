//! The node daemon as a library: what joins a machine to a NATS system and runs workloads on it.
//!
//! What is here: configuration, the node's identity, the `$NEX` verbs, artifacts, workloads and their restarts, output,
//! events, metrics. What is not: how a sandbox is made (`moat-drivers`), how it lives (`moat-engine`), wire types
//! (`moat-api`), arguments of a command line (`moat-cli`).
//! Start at [`daemon::run`].
//!
//! What callers may assume: a sandbox outlives the daemon; nothing is started twice and nothing is forgotten whatever line
//! the daemon is killed at; only [`nats`] opens a connection to NATS.

pub mod allocations;
pub mod api_keys;
pub mod artifact;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dirs;
pub mod durable;
pub mod error;
pub mod events;
pub mod guard;
pub mod guest;
pub mod http;
pub mod identity;
pub mod jails;
pub mod jetstream;
pub mod jobs;
pub mod logfile;
pub mod metrics;
pub mod nats;
pub mod networks;
pub mod outlet;
pub mod preflight;
pub mod publish;
pub mod sandboxes;
pub mod stream;
pub mod templates;
pub mod tokens;
pub mod verbs;
pub mod workloads;

pub use dirs::Dirs;
pub use error::{Error, Result};
/// Fetches artifacts; the program that holds a node is also the child that does.
pub use moat_getter as getter;
