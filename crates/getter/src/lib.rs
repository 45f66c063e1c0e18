//! Fetches what tasks need from wherever it lies, in a child process that can write nowhere else.
//!
//! A crate of its own: archives, TLS and git's helpers are a heavy tree, and the child must link nothing of the daemon.
//!
//! Two sides. The *parent* ([`Getter`], in the daemon) makes a hidden directory inside the allocation's own, starts the child
//! and hands it that directory; when the child is done the parent looks at everything it left there, refuses what must not be
//! there, and moves the rest to its destination, a path the child never saw. The *child* ([`child`]) gives up its rights
//! first, then fetches, compares the checksum, unpacks. What it reports is believed for progress and for error texts only.

pub mod child;
mod config;
mod error;
mod origin;
mod parent;
mod request;
mod wire;

pub use config::{GetterConfig, HostAddress, Ids, Limits, NetworkPolicy};
pub use error::{FetchError, FetchErrorKind};
pub use origin::{Origin, check, origin};
pub use parent::Getter;
pub use request::{FetchRequest, Fetched, Progress, ProgressSink, Source};
