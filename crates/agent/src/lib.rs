//! The guest protocol, and the static program that stands inside every sandbox.
//!
//! The library holds what both sides of the wire share: [`protocol`] (messages and their framing) and [`launch`] (the
//! configuration of the launcher). The binary `moat-agent` holds the agent itself.
//! Start at `docs/agent-protocol.md`.

pub mod launch;
pub mod protocol;
