//! Other people's files as our model: job files and client configuration in Nomad's HCL and JSON, templates of jails as Bastille
//! writes them.
//!
//! A file is parsed once, here. What we do not support is refused by name, with its place in the file; nothing is ignored.

mod around;
pub mod bastille;
mod fields;
mod hcl;
mod json;
pub mod nomad;
mod plain;
mod problem;
mod span;
mod tree;

pub use around::{Around, Nothing};
pub use hcl::variables::Inputs;
pub use problem::{Problem, Problems};
