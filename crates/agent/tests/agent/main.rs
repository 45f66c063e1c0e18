//! The real agent, launched through the real launcher without a jail, driven through the engine's client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say where"
)]

mod archive;
mod complaints;
mod connect;
mod exec;
mod files;
mod forward;
mod harness;
mod jailed;
mod main_process;
mod measure;
mod spawned;
mod watch;
