//! Connections over a byte channel that has none.
//!
//! A port of a machine is one endless stream of bytes each way: nobody is told that the daemon died and another came, and a
//! machine that goes on from where it was kept has no idea of it. So each side says where a connection begins: the daemon
//! with a word that holds a number nobody used before, the agent by repeating that number. What came before it belongs to
//! something that is over and is thrown away.
//!
//! [`codec`] is pure. [`connect`] is the daemon's side and gives one connection; [`serve`] is the agent's and
//! gives one after another. The newest wins.

pub mod codec;
mod connect;
mod serve;

pub use codec::Nonce;
pub use connect::{Line, connect};
pub use serve::serve;

/// Read or written at once.
const PIECE_LEN: usize = 16 << 10;

#[cfg(test)]
mod tests;
