//! Whether a client may reach a port: the sandbox is public, or the client has its token.
//!
//! The token is looked at before the sandbox is, so that a wrong one, and one of a sandbox that does not exist, look the
//! same from outside.

use axum::http::header::{COOKIE, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use moat_model::ErrorKind;

use super::super::answer::{Answer, Failure};
use super::Ingress;
use super::target::{Target, of_host};

/// Header of a token.
pub(super) const TOKEN_HEADER: &str = "moat-token";
/// Cookie, and member of a query, of a token.
pub(super) const TOKEN: &str = "moat_token";

/// What becomes of a request whose client may.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is passed on.
    Through,
    /// The token stood in the URL: it becomes a cookie, and the browser asks again without it.
    Remember(String),
}

/// Decides. `upgrade`: the connection is to become another protocol's.
pub(super) fn decide(ingress: &Ingress, target: &Target, parts: &Parts, upgrade: bool) -> Answer<Admission> {
    if ingress.doors.public(&target.id) {
        return Ok(Admission::Through);
    }
    let fits = |given: &[u8]| ingress.tokens.fits(&target.id, given);
    let mut values = parts.headers.get_all(TOKEN_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => return Err(Failure::invalid("Moat-Token", "give it once")),
        (Some(value), None) => return fits(value.as_bytes()).then_some(Admission::Through).ok_or_else(refused),
        (None, _) => {}
    }
    // Whoever chooses one header can choose another; and a cookie of a host that is not one sandbox's would be sent to all.
    if !target.by_host {
        return Err(refused());
    }
    if matches!(parts.method, Method::GET | Method::HEAD)
        && let Some(given) = in_query(&parts.uri)
    {
        if !fits(given.as_bytes()) {
            return Err(refused());
        }
        // A WebSocket follows no redirection.
        return Ok(if upgrade { Admission::Through } else { Admission::Remember(given.to_owned()) });
    }
    // Another sandbox's page may add cookies of the same name for the whole domain: any that fits counts.
    if !cookies(&parts.headers).any(|(name, value)| name == TOKEN.as_bytes() && fits(value)) {
        return Err(refused());
    }
    let harmless = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) && !upgrade;
    if !harmless && !same_sandbox(&parts.headers, target, &ingress.domain) {
        let why = "Origin: a page from elsewhere may not use this browser's cookie";
        return Err(Failure::new(ErrorKind::Denied, why).with_hint("send the token in the header Moat-Token"));
    }
    Ok(Admission::Through)
}

fn refused() -> Failure {
    Failure::new(ErrorKind::Denied, "the token of this sandbox is needed")
        .with_status(StatusCode::UNAUTHORIZED)
        .with_hint("send it in the header Moat-Token, or open the page once with ?moat_token=<token>; `proxy.token` of a sandbox shows it")
}

/// Browsers send the cookie along whoever's page asks, and say whose it is. Programs that are no browser say nothing.
fn same_sandbox(headers: &HeaderMap, target: &Target, domain: &str) -> bool {
    headers.get_all(ORIGIN).iter().all(|origin| {
        let host = origin.to_str().ok().and_then(|text| text.split_once("://")).map(|(_, host)| host);
        host.and_then(|host| of_host(host, domain)).is_some_and(|(_, id)| id == target.id)
    })
}

/// The pairs of all cookie headers.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = headers.get_all(COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    all.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        Some((pair.get(..at)?, pair.get(at + 1..)?))
    })
}

fn in_query(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|member| member.strip_prefix(TOKEN)?.strip_prefix('='))
}

/// Path and query without a token.
pub(super) fn without_token(uri: &Uri) -> String {
    let ours = |member: &&str| member.strip_prefix(TOKEN).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    match uri.query() {
        None => path.to_owned(),
        Some(query) if !query.split('&').any(|member| ours(&member)) => format!("{path}?{query}"),
        Some(query) => {
            let rest: Vec<&str> = query.split('&').filter(|member| !ours(member)).collect();
            if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) }
        }
    }
}

/// Removes every token of ours from what the sandbox sees.
pub(super) fn strip(headers: &mut HeaderMap) {
    headers.remove(TOKEN_HEADER);
    headers.remove(super::target::SANDBOX);
    let kept: Vec<_> = headers.get_all(COOKIE).iter().filter_map(without_cookie).collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

fn without_cookie(value: &axum::http::HeaderValue) -> Option<axum::http::HeaderValue> {
    let ours =
        |pair: &[u8]| pair.split(|b| *b == b'=').next().is_some_and(|name| name.trim_ascii() == TOKEN.as_bytes());
    let pairs = || value.as_bytes().split(|b| *b == b';');
    if !pairs().any(ours) {
        return Some(value.clone());
    }
    let rest: Vec<&[u8]> = pairs().filter(|pair| !ours(pair)).map(<[u8]>::trim_ascii).collect();
    let rest = rest.join(&b"; "[..]);
    axum::http::HeaderValue::from_bytes(&rest).ok().filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_the_token_and_nothing_else() {
        for (given, left) in [
            ("/", "/"),
            ("/a?b=1&c", "/a?b=1&c"),
            ("/a?moat_token=x", "/a"),
            ("/a?moat_token=x&b=1", "/a?b=1"),
            ("/a?b=1&moat_token=x&&c=&moat_token=y", "/a?b=1&&c="),
            ("/a?moat_tokens=1&moat_token", "/a?moat_tokens=1"),
            ("http://h?moat_token=x", "/"),
        ] {
            assert_eq!(without_token(&given.parse().unwrap()), left, "{given}");
        }
    }

    #[test]
    fn cookies_lose_the_token_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for value in ["a=1; moat_token=x; b=2", "moat_token=y", "c=moat_token=3;d", " moat_token = z;e=\"5\""] {
            headers.append(COOKIE, value.parse().unwrap());
        }
        assert_eq!(cookies(&headers).filter(|(name, _)| *name == b"moat_token").count(), 2);
        strip(&mut headers);
        let left: Vec<_> = headers.get_all(COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; b=2", "c=moat_token=3;d", "e=\"5\""]);
    }
}
