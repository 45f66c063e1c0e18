//! What the drivers of machines share. A driver brings a virtual machine monitor and says how it is told things; everything
//! that is about the machine itself, and about the agent in it, is here.
//!
//! - [`config`]: limits of machines that name none; [`validate`]: which field of a spec no machine can honour.
//! - [`machine`]: what a record of either driver holds; [`setup`]: what the agent in it is told.
//! - [`boot`]: the kernel and the initramfs with the agent in it; [`disk`]: the file a machine writes to.
//! - [`program`]: what programs of the operator's say of themselves; [`process`]: which process the monitor is; [`endpoint`]: how the agent is reached, and how its end is noticed.
//! - [`foreign`]: opening what is in a directory that belongs to a monitor.
//! - [`bring_up`]: from a monitor that runs to a guest that may be handed out; [`connections`]: guests handed out before.
//! - [`snapshot`]: what a machine that was kept needs, and what of it this host does not have.
//! - [`layer`]: what a machine says changed in its root, as a layer.
//!
//! Whatever comes out of a machine or its monitor is somebody else's: bounded, checked, never believed.

pub mod boot;
pub mod bring_up;
pub mod config;
pub mod connections;
pub mod disk;
pub mod endpoint;
pub mod foreign;
pub mod layer;
pub mod machine;
pub mod process;
pub mod program;
pub mod setup;
pub mod snapshot;
pub mod validate;
