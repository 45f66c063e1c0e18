//! Slots in the kernel: what is made, what works in it, what is left. Each test is alone in a network of its own.

mod harness;
mod kill;
mod many;
mod one;
mod storm;
