//! Fetches what tasks need from wherever it lies, in a child process that can write nowhere else.
//!
//! A crate of its own: archives, TLS and git's helpers are a heavy tree, and the child must link nothing of the daemon.
