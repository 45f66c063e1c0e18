//! Tests of the outlet.
