//! The container driver against the kernel: executor tests under the ids of the specification's catalogue (D3), and what
//! is ours besides.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/image.rs"]
mod image;

mod binds;
mod bounds;
mod capture;
mod conformance;
mod cycles;
mod escape;
mod exec;
mod image_escape;
mod isolation;
mod lasting;
mod launcher;
mod layers;
mod lifecycle;
mod limits;
mod program;
mod root;
mod tune;
mod wired;
