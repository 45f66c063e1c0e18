//! Names into addresses that may be fetched from. What was allowed here is what is connected to: nothing resolves twice.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::Failure;
use crate::config::{HostAddress, NetworkPolicy};
use crate::error::FetchErrorKind;

/// An address that may not be fetched from.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{host} is {address}, {why}: an operator can allow it")]
pub(super) struct Denied {
    host: String,
    address: IpAddr,
    why: &'static str,
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::new(FetchErrorKind::AddressDenied, denied.to_string())
    }
}

/// Refuses an address that stands in `url` itself: those are never resolved.
pub(super) fn check_literal(url: &Url, policy: &NetworkPolicy) -> Result<(), Denied> {
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(v4)) => v4.into(),
        Some(Host::Ipv6(v6)) => v6.into(),
        _ => return Ok(()),
    };
    match policy.refusal(address) {
        Some(why) => Err(Denied { host: address.to_string(), address, why }),
        None => Ok(()),
    }
}

/// Refuses a port in `url` that is not the one its name leads to: `hosts` opens one server, not a host.
pub(super) fn check_port(url: &Url, port: Option<u16>, policy: &NetworkPolicy) -> Result<(), Failure> {
    let host = url.host_str().unwrap_or_default();
    match (policy.named(host).and_then(|to| to.port), port) {
        (Some(only), Some(port)) if port != only => {
            let detail = format!("the operator leads {host} to port {only} of a server, and to no port {port}");
            Err(Failure::new(FetchErrorKind::AddressDenied, detail))
        }
        _ => Ok(()),
    }
}

/// What `host` resolves to: what the operator says, else what a resolver does.
async fn found(host: &str, port: u16, policy: &NetworkPolicy) -> Result<Vec<SocketAddr>, Unresolved> {
    match policy.named(host) {
        Some(to) => Ok(vec![SocketAddr::new(to.address, port)]),
        None => Ok(tokio::net::lookup_host((host, port)).await.map_err(Unresolved::Name)?.collect()),
    }
}

/// The addresses of `host` that may be fetched from; an error if it has only others.
pub(super) async fn allowed(host: &str, port: u16, policy: &NetworkPolicy) -> Result<Vec<SocketAddr>, Unresolved> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Some(HostAddress { address, port: Some(port) }) = policy.named(bare) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut denied = None;
    let mut allowed = Vec::new();
    for address in found(bare, port, policy).await? {
        match policy.refusal(address.ip()) {
            None => allowed.push(address),
            Some(why) => denied = Some(Denied { host: host.to_owned(), address: address.ip(), why }),
        }
    }
    match (allowed.is_empty(), denied) {
        (false, _) => Ok(allowed),
        (true, Some(denied)) => Err(Unresolved::Denied(denied)),
        (true, None) => Err(Unresolved::Name(std::io::Error::other("it has no address"))),
    }
}

/// Why a name led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unresolved {
    #[error(transparent)]
    Denied(Denied),
    #[error("its name does not resolve: {0}")]
    Name(std::io::Error),
}

/// The resolver of the HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Resolver(pub Arc<NetworkPolicy>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            match allowed(name.as_str(), 0, &policy).await {
                Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                Err(Unresolved::Denied(denied)) => Err(Box::new(denied) as Box<dyn Error + Send + Sync>),
                Err(error) => Err(Box::new(error) as Box<dyn Error + Send + Sync>),
            }
        })
    }
}
