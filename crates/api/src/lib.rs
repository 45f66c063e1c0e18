//! What travels between moat and everybody else, and the Rust client.
//!
//! [`subjects`] builds every NATS subject; [`nex`] holds the messages of the Nex control API (generation 0.2.x), its Go
//! peculiarities confined to [`nex::quirks`]; [`sandbox`] holds our own verbs; [`stream`] the frames of an exec session;
//! [`rest`] the bodies of the REST API.
//! [`client`] speaks all of them.

pub mod allocation;
pub mod client;
pub mod error;
pub mod nex;
pub mod rest;
pub mod sandbox;
pub mod stream;
pub mod subjects;

pub use error::WireError;
pub use subjects::Subjects;
