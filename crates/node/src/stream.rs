//! Sandbox requests and their byte streams over NATS.
