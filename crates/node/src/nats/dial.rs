//! Connections that are used once: they never reconnect by themselves.

use async_nats::Client;
use moat_model::{ErrorKind, NodeId};

use super::{CONNECT_TIMEOUT, PING_INTERVAL, REQUEST_TIMEOUT, options};
use crate::config::NatsConfig;
use crate::error::{Error, Result};

/// Connects now or fails. `what` tells the connection apart in the server's list.
pub async fn connect_once(config: &NatsConfig, node: &NodeId, what: &str) -> Result<Client> {
    options(config)
        .await?
        .name(format!("moat-node {node} {what}"))
        .max_reconnects(1)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .connect(config.servers.clone())
        .await
        .map_err(|e| {
            Error::caused_by(ErrorKind::Unavailable, format!("connect to NATS at {}", config.servers.join(", ")), e)
        })
}
