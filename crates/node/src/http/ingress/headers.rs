//! Which headers are passed on, and what is added to them.

use std::net::IpAddr;

use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, Version};

use super::admission::TOKEN;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Headers that say where a request came from. A client's own are not to be believed.
const ORIGINS: [HeaderName; 7] = [
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("forwarded"),
];

/// The protocol a client wants to go on with; one that only leads around the rules of HTTP is not heard.
pub(super) fn upgrade_of(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let wanted = version == Version::HTTP_11 && listed(headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| wanted)?;
    let h2c = protocol.as_bytes().split(|b| *b == b',').any(|p| p.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (!h2c).then(|| protocol.clone())
}

/// Names in `Connection`.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes what concerns one connection alone.
pub(super) fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = listed(headers).filter_map(|name| name.parse().ok()).collect();
    // What says where a message goes and how long it is concerns every connection, whatever somebody claims.
    for name in named.iter().filter(|name| **name != HOST && **name != CONTENT_LENGTH) {
        headers.remove(name);
    }
    for name in [CONNECTION, UPGRADE, TE, TRANSFER_ENCODING, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// Says where a request came from.
pub(super) fn say_origin(headers: &mut HeaderMap, peer: IpAddr, https: bool) {
    // With a server of the operator's in front, what it says of the client is true, and the peer is that server.
    let before: Vec<HeaderValue> =
        if https { headers.get_all(FORWARDED_FOR).iter().cloned().collect() } else { Vec::new() };
    for name in ORIGINS {
        headers.remove(name);
    }
    for value in before {
        headers.append(FORWARDED_FOR, value);
    }
    if let Ok(peer) = HeaderValue::from_str(&peer.to_canonical().to_string()) {
        headers.append(FORWARDED_FOR, peer);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if https { "https" } else { "http" }));
}

/// Cookies a sandbox sets are its own: not the proxy's, and not for the domain that it shares with other sandboxes.
pub(super) fn confine_cookies(headers: &mut HeaderMap) {
    let kept: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().filter_map(confined).collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

fn confined(value: &HeaderValue) -> Option<HeaderValue> {
    let name = |part: &[u8]| part.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let mut parts = value.as_bytes().split(|b| *b == b';');
    let pair = parts.next()?;
    if name(pair) == TOKEN.as_bytes() {
        return None;
    }
    let kept: Vec<&[u8]> = std::iter::once(pair).chain(parts.filter(|part| name(part) != b"domain")).collect();
    HeaderValue::from_bytes(&kept.join(&b";"[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut all = headers(&[
            ("connection", "close, X-Hop, host"),
            ("connection", "content-length"),
            ("x-hop", "1"),
            ("host", "a"),
            ("content-length", "3"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("accept", "x"),
        ]);
        strip_connection(&mut all);
        let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn a_client_does_not_say_where_it_comes_from() {
        let given = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1"), ("host", "h"), ("x-real-ip", "1.2.3.4")];
        for (https, expected) in [(false, vec!["10.0.0.1"]), (true, vec!["1.2.3.4", "10.0.0.1"])] {
            let mut all = headers(&given);
            say_origin(&mut all, "::ffff:10.0.0.1".parse().unwrap(), https);
            assert_eq!(all.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), expected);
            assert_eq!((all.contains_key("forwarded"), all.contains_key("x-real-ip")), (false, false));
            assert_eq!(all["x-forwarded-host"], "h");
            assert_eq!(all["x-forwarded-proto"], if https { "https" } else { "http" });
        }
    }

    #[test]
    fn upgrades_that_are_heard() {
        let of = |lines: &[(&str, &str)]| upgrade_of(&headers(lines), Version::HTTP_11);
        assert!(of(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).is_some());
        assert!(of(&[("upgrade", "websocket")]).is_none());
        assert!(of(&[("connection", "upgrade")]).is_none());
        assert!(of(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]).is_none());
        let old = headers(&[("connection", "upgrade"), ("upgrade", "x")]);
        assert!(upgrade_of(&old, Version::HTTP_10).is_none());
    }

    #[test]
    fn cookies_of_a_sandbox_are_its_own() {
        let mut all = headers(&[
            ("set-cookie", "a=1; Path=/; Domain=.example.com; Secure"),
            ("set-cookie", "moat_token=evil"),
            ("set-cookie", "b=\"domain=x\";DOMAIN =example.com"),
            ("set-cookie", "c"),
        ]);
        confine_cookies(&mut all);
        let left: Vec<_> = all.get_all(SET_COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; Path=/; Secure", "b=\"domain=x\"", "c"]);
    }
}
