//! The resolver of a node: what sandboxes ask at their gateway, and who may know what.

mod pin;

pub use pin::Pinner;
