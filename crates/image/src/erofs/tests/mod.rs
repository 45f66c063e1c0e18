//! Roots that are mounted, and archives that are refused.

mod mounted;
mod tars;
