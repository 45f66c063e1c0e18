//! The connection to NATS and what its server can do.
