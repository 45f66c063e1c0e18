//! Log lines on their way to NATS.
