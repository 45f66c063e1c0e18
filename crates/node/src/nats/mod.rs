//! The connection to NATS and what its server can do.
//!
//! One client for the whole daemon, cloned. It connects in the background and reconnects for ever: a node without its NATS
//! keeps its workloads running and says so in its log. What the server can do is read at every connect and published in a
//! watch, because the next server may be another version.

mod capabilities;
mod dial;
mod intake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use moat_model::{ErrorKind, NodeId};
use tokio::sync::watch;

pub use capabilities::{Capabilities, Version};
pub use dial::{Once, connect_once};
pub use intake::{Handler, Intake, Verb};

use crate::config::NatsConfig;
use crate::error::{Error, Result};

/// A request of ours to the server that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that does not greet within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A dead connection is noticed after two missed pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Commands waiting for the connection; beyond it publishers wait. Log batches are the largest user.
const CLIENT_CAPACITY: usize = 4096;

/// Longest wait between two attempts: a node must be back within seconds after its server is.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);

/// State of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not connected; the client is trying.
    Down,
    /// Connected to a server that can do this.
    Up(Capabilities),
}

/// The daemon's connection.
#[derive(Debug, Clone)]
pub struct Connection {
    client: Client,
    link: watch::Receiver<Link>,
}

impl Connection {
    /// Begins to connect and returns at once; [`Connection::link`] tells when it is up.
    pub async fn open(config: &NatsConfig, node: &NodeId) -> Result<Self> {
        let (tell, link) = watch::channel(Link::Down);
        let tell = Arc::new(tell);
        let on_event = {
            let tell = tell.clone();
            let failures = Arc::new(AtomicU64::new(0));
            move |event: Event| {
                let (tell, failures) = (tell.clone(), failures.clone());
                async move { observe(&tell, &failures, event) }
            }
        };
        let client = options(config)
            .await?
            .name(format!("moat-node {node}"))
            .retry_on_initial_connect()
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .client_capacity(CLIENT_CAPACITY)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(on_event)
            .connect(config.servers.clone())
            .await
            .map_err(|e| {
                Error::caused_by(ErrorKind::Unavailable, format!("connect to NATS at {}", config.servers.join(", ")), e)
            })?;
        tokio::spawn(read_greetings(client.clone(), tell));
        Ok(Self { client, link })
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// State of the connection, now and from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// What the server can do, or nothing while there is none.
    pub fn capabilities(&self) -> Option<Capabilities> {
        match &*self.link.borrow() {
            Link::Up(c) if !c.is_unread() => Some(c.clone()),
            _ => None,
        }
    }

    /// Waits until the connection is up and its server known.
    pub async fn up(&self) -> Option<Capabilities> {
        let mut link = self.link.clone();
        let state = link.wait_for(|l| matches!(l, Link::Up(c) if !c.is_unread())).await.ok()?.clone();
        match state {
            Link::Up(capabilities) => Some(capabilities),
            Link::Down => None,
        }
    }
}

/// Events carry no facts about the server, and come before the client has stored them; a flush comes after.
async fn read_greetings(client: Client, tell: Arc<watch::Sender<Link>>) {
    let unread = |l: &Link| matches!(l, Link::Up(c) if c.is_unread());
    let mut link = tell.subscribe();
    while link.wait_for(unread).await.is_ok() {
        if client.flush().await.is_err() {
            return;
        }
        let read = Capabilities::of(&client.server_info());
        tracing::info!(server = %read.server_name, version = %read.version, jetstream = read.jetstream, "NATS is up");
        tell.send_if_modified(|l| {
            let still = unread(l);
            if still {
                *l = Link::Up(read);
            }
            still
        });
    }
}

/// `failures` counts attempts since the connection was last up, so that a long outage is one line now and then.
fn observe(tell: &watch::Sender<Link>, failures: &AtomicU64, event: Event) {
    match event {
        Event::Connected => {
            failures.store(0, Ordering::Relaxed);
            tell.send_replace(Link::Up(Capabilities::unread()));
        }
        Event::Disconnected | Event::Closed => {
            if tell.send_replace(Link::Down) != Link::Down {
                tracing::warn!("NATS is down: workloads run on, events and log lines are kept, trying to reconnect");
            }
        }
        Event::ServerError(error) => tracing::warn!(%error, "NATS server reports an error"),
        Event::ClientError(error) => {
            if failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
                tracing::warn!(%error, "NATS connection");
            }
        }
        Event::SlowConsumer(subscription) => {
            tracing::warn!(subscription, "requests come in faster than they are answered; some were dropped");
        }
        other => tracing::debug!(event = %other, "NATS"),
    }
}

/// Doubling from 100 ms, with up to a quarter of jitter so that nodes of one system do not come back in step.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let base = Duration::from_millis(100).saturating_mul(1 << doublings).min(RECONNECT_DELAY_MAX);
    base + base.mul_f64(rand::random_range(0.0..0.25))
}

/// Credentials and TLS; at most one way to log in, as the configuration has checked.
async fn options(config: &NatsConfig) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new();
    if let Some(path) = &config.creds {
        options = options
            .credentials_file(path)
            .await
            .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("nats.creds: {}", path.display()), e))?;
    }
    if let Some(path) = &config.nkey {
        let seed = tokio::fs::read_to_string(path)
            .await
            .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("nats.nkey: {}", path.display()), e))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some(user) = &config.user {
        let password = config.password.as_ref().map(|p| p.reveal().to_owned()).unwrap_or_default();
        options = options.user_and_password(user.clone(), password);
    }
    if let Some(token) = &config.token {
        options = options.token(token.reveal().to_owned());
    }
    if let Some(ca) = &config.tls_ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if config.tls_ca.is_some() || config.tls_cert.is_some() {
        options = options.require_tls(true);
    }
    Ok(if config.tls_first { options.tls_first() } else { options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_back_off_and_stay_bounded() {
        assert!(reconnect_delay(1) < Duration::from_millis(130));
        assert!(reconnect_delay(usize::MAX) <= RECONNECT_DELAY_MAX.mul_f64(1.25));
        assert!(reconnect_delay(5) >= Duration::from_millis(1600));
    }
}
