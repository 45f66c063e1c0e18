//! The Nex control API, generation 0.2.x: requests, replies, events and log lines.
//!
//! The types here are clean; where the Go programs write or expect something odd, [`quirks`] says what and why.

pub mod deploy;
pub mod envelope;
pub mod event;
pub mod log;
pub mod quirks;
pub mod reply;

pub use deploy::{AuctionRequest, DeployRequest, Extension, Location, NatsJwtConnectionInfo, StopRequest, Template};
pub use envelope::ReplyType;
pub use event::{CloudEvent, EventType};
pub use log::{Level, LogCursor, LogLine};
pub use reply::{
    InfoResponse, LameDuckResponse, MachineSummary, Memory, PingResponse, RunResponse, StopResponse, WorkloadBrief,
    WorkloadPingResponse, WorkloadSummary,
};

/// Tags every node sets by itself.
pub mod tags {
    /// Name for people.
    pub const NODE_NAME: &str = "node_name";
    /// Operating system in Go's words.
    pub const OS: &str = "nex.os";
    /// Architecture in Go's words.
    pub const ARCH: &str = "nex.arch";
    /// Number of CPUs.
    pub const CPU_COUNT: &str = "nex.cpucount";
    /// `true` if workloads run without a sandbox.
    pub const UNSAFE: &str = "nex.unsafe";
    /// What runs microVMs on this node, `kvm` or `tcg`, if it has them: ours, not Nex's.
    pub const MICROVM: &str = "moat.microvm";
    /// `true` while the node takes no new workloads.
    pub const LAMEDUCK: &str = "nex.lameduck";
}
