//! What `rdr` takes: a port of the host, or a range, and where in the jail it leads.

use std::net::Ipv4Addr;

use moat_model::jail::Redirect;
use moat_model::network::Protocol;

use super::Refusal;

/// What stands before the target of `rdr`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RedirectOptions<'a> {
    /// `-i`
    pub interface: Option<&'a str>,
    /// `-s`
    pub source: Option<&'a str>,
    /// `-d`
    pub destination: Option<&'a str>,
    /// `-t`
    pub family: Option<&'a str>,
}

const USAGE: &str = "write tcp|udp HOSTPORT JAILPORT";
/// Ports of one redirect. Each is held by a socket of the node.
const COUNT_MAX: u16 = 1024;

/// Reads `tcp|udp HOSTPORT JAILPORT`, or the long form `ipv4|ipv6|dual INTERFACE SOURCE DESTINATION tcp|udp HOSTPORT JAILPORT`.
/// Ports may be ranges as pf writes them: `8000:8010` with `9000:*`. Counted words of an error are those of `words`.
pub fn redirect(options: &RedirectOptions<'_>, words: &[&str]) -> Result<Redirect, Refusal> {
    if let Some(index) = words.iter().position(|word| *word == "log") {
        return Err(Refusal::at(index, "packets of redirects are not logged", "leave out log and what follows it"));
    }
    match words {
        [protocol, host, jail] => read(options, [protocol, host, jail], 0),
        [family, interface, source, destination, protocol, host, jail] => {
            let options = RedirectOptions {
                interface: Some(interface),
                source: Some(source),
                destination: Some(destination),
                family: Some(family),
            };
            read(&options, [protocol, host, jail], 4)
        }
        _ => Err(Refusal::new(format!("rdr takes three words; here are {}", words.len()), USAGE)),
    }
}

fn read(options: &RedirectOptions<'_>, [protocol, host, jail]: [&str; 3], first: usize) -> Result<Redirect, Refusal> {
    // Options are no words of the short form.
    let word = |index: usize| (first > 0).then_some(index);
    let refused = |index, message: String, fix: &str| Refusal { word: word(index), ..Refusal::new(message, fix) };
    match options.family {
        None | Some("ipv4" | "dual") => {}
        Some("ipv6") => return Err(refused(0, "jails have no IPv6".to_owned(), "write ipv4")),
        Some(other) => return Err(refused(0, format!("{other:?} is no family of addresses"), "write ipv4 or dual")),
    }
    if let Some(interface) = options.interface.filter(|name| *name != "any") {
        let message = format!("a redirect is not bound to an interface ({interface:?})");
        return Err(refused(1, message, "write any, and an address of the host as destination"));
    }
    if let Some(source) = options.source.filter(|name| *name != "any") {
        let message = format!("a redirect does not look at where a packet is from ({source:?})");
        return Err(refused(2, message, "write any; who may reach a port is the host's firewall's to say"));
    }
    let host_address = match options.destination {
        None => None,
        Some("any") => Some(Ipv4Addr::UNSPECIFIED),
        Some(text) => {
            let what = |_| refused(3, format!("{text:?} is no IPv4 address"), "write any, or an address of the host");
            Some(text.parse().map_err(what)?)
        }
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(Refusal::at(first, format!("{other:?} is no protocol with ports"), "write tcp or udp")),
    };
    let (host_port, count) = host_ports(host).map_err(|(message, fix)| Refusal::at(first + 1, message, fix))?;
    let port = jail_port(jail, count).map_err(|(message, fix)| Refusal::at(first + 2, message, fix))?;
    Ok(Redirect { protocol, host_address, host_port, port, count })
}

type Wrong = (String, &'static str);

fn port(text: &str) -> Result<u16, Wrong> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number
        .filter(|n| *n > 0)
        .ok_or_else(|| (format!("{text:?} is no port"), "write a number from 1 to 65535, or a range FIRST:LAST"))
}

fn host_ports(text: &str) -> Result<(u16, u16), Wrong> {
    let Some((first, last)) = text.split_once(':') else {
        return Ok((port(text)?, 1));
    };
    let (first, last) = (port(first)?, port(last)?);
    let count = last.checked_sub(first).map(|more| more.saturating_add(1));
    match count {
        Some(count) if count <= COUNT_MAX => Ok((first, count)),
        Some(count) => Err((format!("{count} ports in one redirect; at most {COUNT_MAX}"), "write a smaller range")),
        None => Err((format!("{text:?} ends before it begins"), "write FIRST:LAST")),
    }
}

fn jail_port(text: &str, count: u16) -> Result<u16, Wrong> {
    let range = "write FIRST:* or FIRST:LAST with as many ports";
    let first = match text.split_once(':') {
        None if count > 1 => return Err((format!("{count} ports of the host and one of the jail"), range)),
        None => port(text)?,
        Some((first, "*")) => port(first)?,
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            if last.checked_sub(first) != Some(count.saturating_sub(1)) {
                return Err((format!("{text:?} has not as many ports as the host's range"), range));
            }
            first
        }
    };
    match first.checked_add(count.saturating_sub(1)) {
        Some(_) => Ok(first),
        None => Err((format!("{text:?} goes beyond port 65535"), range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Result<Redirect, Refusal> {
        redirect(&RedirectOptions::default(), &line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn ports_and_ranges() {
        let any = Some(Ipv4Addr::UNSPECIFIED);
        for (line, protocol, host_address, host_port, port, count) in [
            ("tcp 8080 80", Protocol::Tcp, None, 8080, 80, 1),
            ("udp 53 5353", Protocol::Udp, None, 53, 5353, 1),
            ("tcp 8000:8010 9000:*", Protocol::Tcp, None, 8000, 9000, 11),
            ("tcp 8000:8001 80:81", Protocol::Tcp, None, 8000, 80, 2),
            ("ipv4 any any 192.0.2.1 tcp 80 80", Protocol::Tcp, Some([192, 0, 2, 1].into()), 80, 80, 1),
            ("dual any any any udp 1 2", Protocol::Udp, any, 1, 2, 1),
        ] {
            assert_eq!(ask(line), Ok(Redirect { protocol, host_address, host_port, port, count }), "{line}");
        }
        let options = RedirectOptions { destination: Some("192.0.2.1"), family: Some("ipv4"), ..Default::default() };
        assert_eq!(redirect(&options, &["tcp", "80", "80"]).unwrap().host_address, Some([192, 0, 2, 1].into()));
    }

    #[test]
    fn what_is_no_redirect_names_the_word() {
        for (line, word) in [
            ("", None),
            ("tcp 80", None),
            ("icmp 80 80", Some(0)),
            ("tcp 0 80", Some(1)),
            ("tcp +80 80", Some(1)),
            ("tcp 65536 80", Some(1)),
            ("tcp 90:80 80", Some(1)),
            ("tcp 1:60000 1:*", Some(1)),
            ("tcp 8000:8010 80", Some(2)),
            ("tcp 8000:8010 80:81", Some(2)),
            ("tcp 8000:8010 65530:*", Some(2)),
            ("tcp 80 http", Some(2)),
            ("tcp 80 80 log", Some(3)),
            ("ipv6 any any any tcp 80 80", Some(0)),
            ("ipv4 em0 any any tcp 80 80", Some(1)),
            ("ipv4 any 10.0.0.0/8 any tcp 80 80", Some(2)),
            ("ipv4 any any ::1 tcp 80 80", Some(3)),
            ("ipv4 any any any sctp 80 80", Some(4)),
            ("ipv4 any any any tcp x 80", Some(5)),
        ] {
            assert_eq!(ask(line).unwrap_err().word, word, "{line}");
        }
        let options = RedirectOptions { interface: Some("em0"), ..Default::default() };
        assert_eq!(redirect(&options, &["tcp", "80", "80"]).unwrap_err().word, None);
    }
}
