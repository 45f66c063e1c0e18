//! Log files of workloads, and their rotation.
