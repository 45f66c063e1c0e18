//! Which port of which sandbox a request is for.

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};
use moat_model::SandboxId;

use super::super::answer::{Answer, Failure};

/// Header that names port and sandbox for clients that cannot choose the host.
pub(super) const SANDBOX: &str = "moat-sandbox";

/// A port of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub port: u16,
    pub id: SandboxId,
    /// The host names it, as opposed to the header: cookies of this host are the sandbox's alone.
    pub by_host: bool,
    /// The host as the client wrote it.
    pub host: String,
}

/// Reads the target. The header wins.
pub(super) fn of(headers: &HeaderMap, uri: &Uri, domain: &str) -> Answer<Target> {
    let host = host(headers, uri)?;
    let named = match one(headers, SANDBOX, "Moat-Sandbox")? {
        Some(text) => {
            let why = "must be <port>-<sandbox id>, such as 8080-sb-01j8…";
            (parse(text).ok_or_else(|| Failure::invalid("Moat-Sandbox", why))?, false)
        }
        None => {
            let unknown = || Failure::not_found("no sandbox is served under this host").with_hint(HINT);
            (of_host(&host, domain).ok_or_else(unknown)?, true)
        }
    };
    let ((port, id), by_host) = named;
    Ok(Target { port, id, by_host, host })
}

const HINT: &str = "the host is <port>-<sandbox id>.<domain>: `proxy.url_template` of a sandbox shows it; or send Moat-Sandbox: <port>-<sandbox id>";

/// The sandbox that a host of this domain names, and the port.
pub(super) fn of_host(host: &str, domain: &str) -> Option<(u16, SandboxId)> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return None,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let (label, rest) = name.split_once('.')?;
    rest.eq_ignore_ascii_case(domain).then(|| parse(label))?
}

/// `<port>-<sandbox id>`.
fn parse(text: &str) -> Option<(u16, SandboxId)> {
    let (port, id) = text.split_once('-')?;
    if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((port.parse().ok()?, SandboxId::parse(&id.to_ascii_lowercase()).ok()?))
}

/// The one host a request names.
fn host(headers: &HeaderMap, uri: &Uri) -> Answer<String> {
    let host = one(headers, HOST.as_str(), "Host")?.ok_or_else(|| Failure::invalid("Host", "is missing"))?;
    match uri.authority() {
        // Two answers to the same question are how requests are smuggled.
        Some(other) if !other.as_str().eq_ignore_ascii_case(host) => {
            Err(Failure::invalid("Host", "the URL names another host"))
        }
        _ => Ok(host.to_owned()),
    }
}

/// The value of a header that is there at most once.
fn one<'h>(headers: &'h HeaderMap, name: &str, shown: &str) -> Answer<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Failure::invalid(shown, "not text")),
        (Some(_), Some(_)) => Err(Failure::invalid(shown, "give it once")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sb-01j8z3k4m5n6p7q8r9s0t1v2w3";

    fn read(host: &str, header: &[&str]) -> Result<(u16, bool), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        for value in header {
            headers.append(SANDBOX, value.parse().unwrap());
        }
        let target = of(&headers, &Uri::from_static("/"), "box.example.com").map_err(|f| f.status.as_u16())?;
        assert_eq!(target.id.as_str(), ID);
        Ok((target.port, target.by_host))
    }

    #[test]
    fn hosts_that_are_ports_of_sandboxes_and_others() {
        for good in ["8080-ID.box.example.com", "8080-ID.BOX.example.com:8081", "8080-ID.box.example.com.:1"] {
            assert_eq!(read(&good.replace("ID", ID), &[]), Ok((8080, true)), "{good}");
            assert_eq!(read(&good.replace("ID", ID).to_uppercase(), &[]), Ok((8080, true)), "{good}");
        }
        for bad in [
            "box.example.com",
            "8080-ID",
            "8080-ID.example.com",
            "8080-ID.evil.com",
            "8080-ID.box.example.com.evil.com",
            "a.8080-ID.box.example.com",
            "8080-ID.box.example.com:http",
            "8080-ID.box.example.com:80:80",
            "8080-ID.box.example.com..",
            "8080-IDx.box.example.com",
            "08080-ID.box.example.com",
            "+80-ID.box.example.com",
            "0-ID.box.example.com",
            "65536-ID.box.example.com",
            "-ID.box.example.com",
            "ID.box.example.com",
            "8080--ID.box.example.com",
            "user@8080-ID.box.example.com",
            "127.0.0.1:8081",
            "[::1]:8081",
            "",
        ] {
            assert_eq!(read(&bad.replace("ID", ID), &[]), Err(404), "{bad}");
        }
    }

    #[test]
    fn the_header_wins_and_is_read_strictly() {
        let other = format!("1-{}.box.example.com", ID.replace('z', "y"));
        let right = format!("443-{ID}");
        assert_eq!(read(&other, &[&right]), Ok((443, false)));
        assert_eq!(read("anything", &[&right]), Ok((443, false)));
        for bad in [&["nonsense"][..], &[""], &[&right, &right], &[&format!("{right}.box.example.com")], &[ID]] {
            assert_eq!(read(&other, bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let read = |hosts: &[&str], uri: &'static str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.replace("ID", ID).parse().unwrap());
            }
            of(&headers, &uri.parse().unwrap(), "a").map(|t| t.port).map_err(|f| f.status.as_u16())
        };
        assert_eq!(read(&["1-ID.a"], "/"), Ok(1));
        assert_eq!(read(&[], "/"), Err(400));
        assert_eq!(read(&["1-ID.a", "1-ID.a"], "/"), Err(400));
        assert_eq!(read(&["1-ID.a"], "http://2-sb-01j8z3k4m5n6p7q8r9s0t1v2w3.a/"), Err(400));
        assert_eq!(read(&["1-ID.a"], "http://1-sb-01j8z3k4m5n6p7q8r9s0t1v2w3.a/"), Ok(1));
    }
}
