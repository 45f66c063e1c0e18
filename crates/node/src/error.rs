//! Failures at the node's boundary.

pub use moat_model::failure::{Error, Result};
