//! Failures at the engine's boundary.

pub use moat_model::failure::{Error, Result};
