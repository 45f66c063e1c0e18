//! The program and `rc.subr` inside small roots, with each shell that Linux roots have: dash and busybox ash.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod daemon;
mod init;
mod nats;
mod packages;
mod pw;
mod root;
mod sysrc;
