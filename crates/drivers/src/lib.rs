//! The ways of isolating, over shared Linux parts.
//!
//! - [`container`]: namespaces, own user range, seccomp, capabilities, cgroups.
//! - [`process`]: no sandbox; refused unless the operator enabled it.
//! - [`qemu`]: virtual machines under QEMU.
//! - [`firecracker`]: machines of Firecracker, under its jailer.
//! - [`lasting`]: trees of files that outlive their sandboxes, copied, packed and unpacked.
//! - [`vm`]: what drivers of virtual machines share.
//! - [`linux`]: what drivers share: the agent's program file, starting it, its identity, its socket, cgroups,
//!   capabilities, the system call filter.
//!
//! Nothing of ours runs between fork and exec in the daemon: it executes the embedded agent in its `launch` mode, which is
//! single-threaded and does the rest.

#[cfg(not(target_os = "linux"))]
compile_error!("moat runs on Linux");

pub mod container;
mod fields;
pub mod firecracker;
pub mod lasting;
pub mod linux;
pub mod process;
pub mod qemu;
pub mod vm;
