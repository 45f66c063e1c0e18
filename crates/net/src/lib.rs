//! What connects sandboxes: a network namespace each, prepared before it is needed; addresses; rules; names; ports.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | what an operator sets |
//! | `filler` | slots that stand ready |
//! | [`net`] | the fabric: who is called, and in which order |
//! | [`netlink`] | requests to the kernel |
//! | [`publish`] | ports of the host |
//! | [`resolver`] | names, and what the outside says of them |
//! | [`rules`] | what may pass |
//! | [`slots`] | namespaces, links, addresses, limits |
//! | [`table`] | who is where: the one picture of all attachments, shared by everything else |

pub mod config;
mod filler;
pub mod net;
pub mod netlink;
pub mod publish;
mod requirements;
pub mod resolver;
pub mod rules;
pub mod slots;
pub mod table;

pub use config::NetConfig;
pub use net::Net;

/// What a host must have for a network, met or not. Tries what it can where nothing of the host's changes.
pub fn requirements(config: &NetConfig) -> Vec<moat_engine::driver::Requirement> {
    let mut all = slots::requirements(config);
    all.extend(requirements::of_rules(config));
    all
}
