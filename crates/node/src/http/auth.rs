//! Who asks, and in which namespace.
//!
//! With a key in the file, every request needs one. Without any, whoever is on this machine may do everything; then a
//! web page must not be able to use its reader's machine, so `Host` and `Origin` have to name the loopback.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use moat_model::{ErrorKind, Namespace};

use super::App;
use super::answer::{Answer, Failure};
use crate::api_keys::Scope;

/// Header that names the namespace, for callers that may choose.
const NAMESPACE: &str = "x-moat-namespace";
/// The other header a key may stand in.
const API_KEY: &str = "x-api-key";

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub scope: Scope,
    pub namespace: Namespace,
}

impl Caller {
    /// Whether the caller may see and change what belongs to the node.
    pub(super) fn is_administrator(&self) -> bool {
        matches!(self.scope, Scope::Admin)
    }

    /// Refuses a caller who may not change what belongs to the node.
    fn administers(&self) -> Answer<()> {
        match self.scope {
            Scope::Admin => Ok(()),
            Scope::Namespace { .. } => Err(Failure::new(ErrorKind::Denied, "this needs a key with the scope admin")
                .with_hint("templates and images belong to the node, not to a namespace")),
        }
    }
}

/// A caller who may change what belongs to the node. Asked for before anything else of the request is read.
#[derive(Debug)]
pub(super) struct Administrator;

impl<S: Sync> FromRequestParts<S> for Administrator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        Caller::from_request_parts(parts, state).await?.administers().map(|()| Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Failure::bug("a route that asks nobody who they are"))
    }
}

/// Finds out, and refuses those who may not ask at all.
pub(super) async fn identify(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    match caller(&app, request.headers(), request.uri(), peer) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

/// The same for `/metrics`, which a scraper on this machine reads without a key.
pub(super) fn may_scrape(app: &App, headers: &HeaderMap, uri: &Uri, peer: Option<IpAddr>) -> Answer<()> {
    if presented(headers)?.is_none() && peer.is_some_and(|ip| ip.is_loopback()) {
        return from_this_machine(headers, uri);
    }
    caller(app, headers, uri, peer)?.administers()
}

fn caller(app: &App, headers: &HeaderMap, uri: &Uri, peer: Option<IpAddr>) -> Answer<Caller> {
    let keys = &app.services.keys;
    let scope = match presented(headers)? {
        Some(secret) => keys.check(&secret).ok_or_else(|| unauthorised("this key is not known here"))?.scope,
        None if !keys.is_empty()? => return Err(unauthorised("a key is needed")),
        None if !peer.is_some_and(|ip| ip.is_loopback()) => {
            return Err(unauthorised("a key is needed from other machines"));
        }
        None => {
            from_this_machine(headers, uri)?;
            Scope::Admin
        }
    };
    let namespace = namespace(headers, &scope)?;
    Ok(Caller { scope, namespace })
}

fn presented(headers: &HeaderMap) -> Answer<Option<String>> {
    let bearer = match headers.get(AUTHORIZATION) {
        None => None,
        Some(value) => {
            let bearer = value.to_str().ok().and_then(|text| text.split_once(' '));
            let token =
                bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
            Some(token.ok_or_else(|| unauthorised("Authorization: only Bearer is understood"))?.to_owned())
        }
    };
    let header = match headers.get(API_KEY) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| unauthorised("X-API-Key: not a key"))?.trim().to_owned()),
    };
    match (bearer, header) {
        (Some(_), Some(_)) => Err(Failure::invalid("X-API-Key", "give it or Authorization, not both")),
        (bearer, header) => Ok(bearer.or(header)),
    }
}

fn namespace(headers: &HeaderMap, scope: &Scope) -> Answer<Namespace> {
    let asked = match headers.get(NAMESPACE) {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|_| Failure::invalid("X-Moat-Namespace", "not text"))?;
            Some(Namespace::parse(text).map_err(|error| Failure::invalid("X-Moat-Namespace", error))?)
        }
    };
    match (scope, asked) {
        (Scope::Admin, asked) => Ok(asked.unwrap_or_else(Namespace::default_namespace)),
        (Scope::Namespace { namespace }, asked) if asked.as_ref().is_none_or(|asked| asked == namespace) => {
            Ok(namespace.clone())
        }
        (Scope::Namespace { .. }, _) => {
            Err(Failure::new(ErrorKind::Denied, "X-Moat-Namespace: this key is for another namespace"))
        }
    }
}

/// A name that leads here from elsewhere (DNS rebinding), or a page from elsewhere, is refused.
fn from_this_machine(headers: &HeaderMap, uri: &Uri) -> Answer<()> {
    let denied = |what: &str| {
        Failure::new(
            ErrorKind::Denied,
            format!("{what}: without API keys only this machine is served, by a loopback name"),
        )
        .with_hint("`moat api-key create` makes a key")
    };
    let host = match uri.host() {
        Some(host) => Some(host),
        None => headers.get(HOST).and_then(|host| host.to_str().ok()).map(without_port),
    };
    if headers.get_all(HOST).iter().count() > 1 || !host.is_some_and(is_loopback) {
        return Err(denied("Host"));
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, rest)| without_port(rest));
        if !origin.is_some_and(is_loopback) {
            return Err(denied("Origin"));
        }
    }
    Ok(())
}

fn without_port(authority: &str) -> &str {
    let Some((host, port)) = authority.rsplit_once(':') else { return authority };
    // An IPv6 address without brackets has colons, and no port.
    let whole = host.ends_with(']') || !host.contains(':');
    if whole && port.bytes().all(|b| b.is_ascii_digit()) { host } else { authority }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn unauthorised(message: &str) -> Failure {
    Failure::new(ErrorKind::Denied, message)
        .with_status(StatusCode::UNAUTHORIZED)
        .with_hint("send `Authorization: Bearer <key>`; `moat api-key create` makes a key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_and_others() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "127.9.9.9", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(without_port(good)), "{good}");
        }
        for bad in
            ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "10.0.0.1", "", "::", "0.0.0.0"]
        {
            assert!(!is_loopback(without_port(bad)), "{bad}");
        }
    }

    #[test]
    fn a_page_from_elsewhere_is_refused() {
        let ask = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            from_this_machine(&headers, &Uri::from_static("/api/v1/nodes")).is_ok()
        };
        assert!(ask("localhost:8080", None));
        assert!(ask("localhost:8080", Some("http://127.0.0.1:3000")));
        assert!(!ask("localhost:8080", Some("http://evil.example")));
        assert!(!ask("localhost:8080", Some("null")));
        assert!(!ask("rebound.example:8080", None));
    }
}
