//! Images from real registries and from files, through the public face of the crate.

#![expect(clippy::unwrap_used, reason = "a fixture that fails fails its test")]

mod auth;
mod collect;
mod faults;
mod fixture;
mod kill;
mod pull;
mod sources;
