//! Bounded frames between parent and child.
