//! The L-tests.
