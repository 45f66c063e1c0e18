//! The resolver of a node: what sandboxes ask at their gateway, and who may know what.
//!
//! Whoever asks is known by the address the question comes from, which the kernel's rules keep true; an address that is
//! nobody's hears nothing. Names of ours end at the namespace. Others are asked for outside where the mode has an outside and
//! some rule could let a packet to that name out; what is then answered is cut to what was asked, freed of addresses that
//! nobody may reach, and made known to the rules that name it before it is said.
//!
//! An address is pinned for the name that was asked and not for the aliases behind it: those are whoever's the name is, and a
//! rule for a name is not a rule for all that share its servers.
//!
//! | module | holds |
//! |---|---|
//! | `listen` | the sockets, and bounds on whoever uses them |
//! | `wire` | questions and answers as bytes |
//! | `answer` | from the one to the other |
//! | `names` | names that are ours |
//! | `permission` | which others are asked for |
//! | `upstream`, `reply` | asking, and what is kept of the answer |
//! | `pin` | what has to happen before an answer leaves |
//! | `shares` | how much one sandbox may use |

mod answer;
mod listen;
mod names;
mod permission;
mod pin;
mod reply;
mod shares;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use moat_engine::error::Result;
use moat_model::network::Domain;
use tokio::task::JoinSet;

pub use answer::{Lookup, Outcome};
pub use pin::Pinner;

use crate::config::NetConfig;
use crate::table::{Attached, Table};
use answer::Core;
use listen::Sockets;
use upstream::Patience;

/// Port of name servers.
const PORT: u16 = 53;
/// Where a node's own resolvers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The resolver. It answers until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    core: Arc<Core>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Begins to answer at the gateway's address, in the network namespace and on the runtime of the caller. The address may
    /// be given to a link later.
    pub fn start(config: &NetConfig, table: Table, pinner: Arc<dyn Pinner>) -> Result<Self> {
        let at = SocketAddr::from((config.gateway, PORT));
        Self::start_at(at, Patience::default(), config, table, pinner)
    }

    fn start_at(
        at: SocketAddr,
        patience: Patience,
        config: &NetConfig,
        table: Table,
        pinner: Arc<dyn Pinner>,
    ) -> Result<Self> {
        let resolv_conf = PathBuf::from(RESOLV_CONF);
        let sockets = Sockets::bind(at)?;
        let address = sockets.address().unwrap_or(at);
        let core = Arc::new(Core {
            zone: names::Zone::new(&config.domain, config.subnet, table.clone()),
            table,
            ceiling: config.ceiling.clone(),
            gateway: config.gateway,
            upstreams: upstream::Upstreams::new(&config.upstreams, resolv_conf, config.gateway.into(), patience),
            pinner,
            cache: reply::Cache::default(),
            shares: shares::Shares::default(),
            remembered: pin::Remembered::default(),
            turn: std::sync::atomic::AtomicUsize::new(0),
        });
        Ok(Self { _tasks: sockets.serve(core.clone()), core, address })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What this sandbox would learn if it asked for a name now. Tells the rules nothing; the outside may be asked.
    pub async fn lookup(&self, asker: &Attached, name: &Domain) -> Lookup {
        self.core.lookup(asker, name).await
    }

    /// The names this sandbox was given an address for, since the daemon was started.
    pub fn names_of(&self, asker: &Attached, address: Ipv4Addr) -> Vec<Domain> {
        self.core.remembered.names(asker, address, Instant::now())
    }
}
