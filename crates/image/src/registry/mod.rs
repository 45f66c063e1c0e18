//! Registries: finding manifests, and blobs as streams that go on where they broke.
//!
//! Not built on a ready-made client: bounds on documents, one renewed token, resuming with `Range`, mirrors and a time-out
//! that looks at progress are what this is about, and all of them lie below the calls of such a client.

mod auth;
mod challenge;
mod credentials;
mod credstore;
mod endpoint;
mod repository;
mod retry;
#[cfg(test)]
mod tests;

pub(crate) use repository::{Registries, Repository, Sink};
pub(crate) use retry::Patience;
