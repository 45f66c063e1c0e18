//! The driver of machines that runs QEMU: where the host's processors can run a stock guest themselves, the small `microvm`
//! machine with KVM; everywhere else a `q35` that is emulated.
//!
//! - [`config`]: what an operator sets. `host`: what was found here once, at the start. [`accelerator`]: which of both, tried
//!   out and not guessed. `arguments`: from a machine to a command line.
//! - `launch`: QEMU in a jail of its own. It is shown the host's programs and libraries, a kernel and an initramfs; disks,
//!   sockets and the link it gets open. Nobody trusts it: whoever breaks out of a guest is in there.
//! - `served`: roots that outlive their machine, in a directory of the host that a program of its own serves.
//! - `qmp`: how it is told things. `keep`: writing a machine's state to a file and taking it from there.
//! - `driver`, `abilities`: the contract, over [`crate::vm`].

pub mod accelerator;
pub mod config;

mod abilities;
mod arguments;
mod driver;
mod host;
mod keep;
mod launch;
mod probe;
pub mod qmp;
mod served;

pub use config::QemuConfig;
pub use driver::QemuDriver;
