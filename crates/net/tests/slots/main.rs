//! Slots in the kernel: what is made, what works in it, what is left. Each test is alone in a network of its own.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::zombie_processes, reason = "what lives in a sandbox's network outlives whoever started it")]

mod harness;
mod kill;
mod machine;
mod many;
mod one;
#[path = "../rules/packet.rs"]
mod packet;
mod storm;
