//! Roots that are mounted, and archives that are refused.

mod compression;
mod directories;
mod hostile;
mod layers;
mod mounted;
mod noise;
mod tars;
mod umoci;
