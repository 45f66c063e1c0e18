//! Workloads of this node: records, restarts, recovery.
