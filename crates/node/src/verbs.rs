//! The `$NEX` verbs.
