//! `nologin`: the shell of those who have none.

use std::ffi::OsString;

use crate::Outcome;

/// Says so and fails.
pub fn main(_arguments: &[OsString]) -> Outcome {
    println!("This account is currently not available.");
    Ok(1)
}
