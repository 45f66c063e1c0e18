//! Signed claims: NATS JWT version 2 generic claims.
