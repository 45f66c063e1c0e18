//! Failures at this crate's boundary.

pub use moat_model::failure::{Error, Result};
