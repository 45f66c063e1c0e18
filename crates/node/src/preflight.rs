//! Whether this machine can be a node.
