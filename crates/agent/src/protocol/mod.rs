//! Messages between the daemon and the agent.
//!
//! One byte channel (Unix socket, vsock, virtio-serial) carries a yamux session ([`mux`]); the daemon opens a stream for
//! each request. A stream begins with one header frame holding a JSON [`Request`]; the agent answers with one header
//! frame holding a JSON [`Reply`]; what follows depends on the request. Frames ([`frame`]) are length-delimited and pure:
//! bytes in, frames out ([`codec`]). Everything is written down, with an example in bytes, in `docs/agent-protocol.md`.

pub mod codec;
pub mod frame;
pub mod line;
pub mod machine;
mod message;
pub mod mux;
pub mod stream;

pub use message::{
    GuestProcess, GuestRequest, GuestStats, Hello, MainState, Offsets, Reply, Request, Spawned, StreamName,
};

/// Version of everything in this module. An agent that speaks another answers `hello` and nothing else.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest header frame: a request carries arguments and an environment, which the kernel itself bounds at 2 MiB.
pub const HEADER_LEN_MAX: usize = 2 << 20;

/// Largest frame of any other kind.
pub const FRAME_LEN_MAX: usize = 64 << 10;

/// Largest piece of output or input in one frame: a frame less its kind and its offset.
pub const DATA_LEN_MAX: usize = FRAME_LEN_MAX - 9;

/// Largest piece of a file in one frame: a frame less its kind.
pub const CONTENT_LEN_MAX: usize = FRAME_LEN_MAX - 1;

/// Bytes of standard input of an exec that may be sent before the agent has said that the process took them. It keeps
/// signals, resizes and hang-ups from waiting behind input nobody reads.
pub const STDIN_WINDOW: u64 = 64 << 10;
