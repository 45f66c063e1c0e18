//! The `$NEX` verbs.

pub mod pattern;
