//! `[proxy]`: the HTTP proxy before the ports of sandboxes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::Deserialize;

use super::reference::{Key, key};
use super::service::{OneOrMany, addresses};

/// Where it listens if nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// A host is at most 253 characters; `65535-sb-` and an id, and a dot, take 36 of them.
const DOMAIN_LEN_MAX: usize = 253 - 36;

/// The HTTP proxy before the ports of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Addresses; empty: it does not listen.
    pub listen: Vec<SocketAddr>,
    /// Somebody asked for these addresses: they are listened on without REST too, and one that is taken stops the start.
    pub explicit: bool,
    /// Hosts are `<port>-<sandbox id>.<domain>`; lower case.
    pub domain: String,
    /// A server stands before it that speaks TLS with the clients.
    pub https: bool,
}

impl ProxyConfig {
    /// None.
    pub fn off() -> Self {
        Self { listen: Vec::new(), explicit: true, ..Self::default() }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self { listen: vec![LISTEN], explicit: false, domain: "localhost".to_owned(), https: false }
    }
}

/// `[proxy]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProxy {
    pub listen: Option<OneOrMany>,
    pub domain: Option<String>,
    pub https: Option<bool>,
}

pub(super) fn proxy(raw: RawProxy) -> Result<ProxyConfig, (String, String)> {
    let base = ProxyConfig::default();
    let (listen, explicit) = match raw.listen {
        None => (base.listen, false),
        Some(given) => (addresses("proxy.listen", given, LISTEN)?, true),
    };
    let domain = raw.domain.unwrap_or(base.domain).to_ascii_lowercase();
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if domain.len() > DOMAIN_LEN_MAX || !domain.split('.').all(label) {
        return Err(("proxy.domain".to_owned(), format!("{domain:?} is not a domain such as sandboxes.example.com")));
    }
    Ok(ProxyConfig { listen, explicit, domain, https: raw.https.unwrap_or(base.https) })
}

pub(super) const KEYS: &[Key] = &[
    key(
        "listen",
        "`host:port`, or a list of them",
        "`127.0.0.1:8081` where REST is served",
        "Where the proxy listens; `[]`: nowhere. The default address is given up with a warning if it is taken; one that is written here must be free.",
    ),
    key(
        "domain",
        "domain",
        "`localhost`",
        "Port 8080 of a sandbox is the host `8080-<sandbox id>.<domain>`. Nothing else may be served below this domain: see `docs/ingress.md`.",
    ),
    key(
        "https",
        "true or false",
        "`false`",
        "A server stands before the proxy that speaks TLS with the clients. URLs then say `https`, without a port; cookies are for TLS only; the addresses that server names in `X-Forwarded-For` are passed on.",
    ),
];
