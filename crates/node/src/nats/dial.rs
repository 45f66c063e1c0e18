//! Connections that are used once: they never reconnect by themselves.

use async_nats::Client;
use async_trait::async_trait;
use moat_model::{ErrorKind, NodeId};

use super::{CONNECT_TIMEOUT, PING_INTERVAL, REQUEST_TIMEOUT, options};
use crate::config::NatsConfig;
use crate::error::{Error, Result};
use crate::publish::Dial;

/// Connections like the daemon's own, for one purpose each.
#[derive(Debug, Clone)]
pub struct Once {
    /// Where to and as whom.
    pub config: NatsConfig,
    /// Whose.
    pub node: NodeId,
    /// Tells the connection apart in the server's list.
    pub what: &'static str,
}

#[async_trait]
impl Dial for Once {
    async fn dial(&self) -> Result<Client> {
        connect_once(&self.config, &self.node, self.what).await
    }
}

/// Connects now or fails. `what` tells the connection apart in the server's list.
pub async fn connect_once(config: &NatsConfig, node: &NodeId, what: &str) -> Result<Client> {
    options(config)
        .await?
        .name(format!("moat-node {node} {what}"))
        .ignore_discovered_servers()
        // The client counts every server it tries, also the first time.
        .max_reconnects(config.servers.len().max(1))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .connect(config.servers.clone())
        .await
        .map_err(|e| {
            Error::caused_by(ErrorKind::Unavailable, format!("connect to NATS at {}", config.servers.join(", ")), e)
        })
}
