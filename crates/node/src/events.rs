//! Facts on their way to NATS: an outbox that survives the daemon.
