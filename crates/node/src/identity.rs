//! Who this node is: a signing key and a sealing key, kept on disk.
