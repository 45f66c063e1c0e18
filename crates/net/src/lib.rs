//! What connects sandboxes: a network namespace each, prepared before it is needed; addresses; rules; names; ports.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what an operator sets |
//! | [`resolver`] | names, and what the outside says of them |
//! | [`table`] | who is where: the one picture of all attachments, shared by everything else |

pub mod config;
pub mod resolver;
pub mod table;

pub use config::NetConfig;
