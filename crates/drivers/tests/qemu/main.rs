//! The qemu driver against real guests. Machines take turns: an emulated one needs a processor for itself while it starts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod bed;

mod conformance;
mod hostile;
mod jail;
mod keep;
mod lasting;
mod life;
mod refusals;
