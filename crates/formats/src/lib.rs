//! Other people's files as our model: job files and client configuration in Nomad's HCL and JSON.
//!
//! A file is parsed once, here. What we do not support is refused by name, with its place in the file; nothing is ignored.
