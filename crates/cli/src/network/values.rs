//! Addresses, ports and rates as they are written on the command line.

use std::net::Ipv4Addr;

use moat_api::rest::network::Publish;
use moat_model::network::PortRange;

/// An address of IPv4, which is all a sandbox has.
pub fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "an IPv4 address is needed, such as 10.1.2.3; sandboxes have no IPv6".to_owned())
}

/// `8080:80`, `0.0.0.0:8080:80`, `5353:53/udp`, `8000-8009:9000-9009`, `:80`.
pub fn publish(text: &str) -> Result<Publish, String> {
    let refuse = |why: &str| format!("{why}. For one: 8080:80, 0.0.0.0:8080:80, :80, 5353:53/udp, 8000-8009:9000-9009");
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol @ ("tcp" | "udp"))) => (ports, Some(protocol.to_owned())),
        Some((_, other)) => return Err(refuse(&format!("{other:?} is neither tcp nor udp"))),
        None => (text, None),
    };
    let Some((host, inside)) = ports.rsplit_once(':') else {
        return Err(refuse("a port of the host and one of the sandbox are needed, with a colon between them"));
    };
    let (host_address, host_port) = match host.rsplit_once(':') {
        Some((at, port)) => (Some(address(at).map_err(|why| refuse(&why))?), port),
        None => (None, host),
    };
    let range = |text: &str| PortRange::parse(text).ok_or_else(|| refuse(&format!("{text:?} is no port")));
    let inside = range(inside)?;
    let length = |range: PortRange| range.last() - range.first() + 1;
    let host_port = match host_port {
        "" => None,
        port => Some(range(port)?),
    };
    if host_port.is_some_and(|host| length(host) != length(inside)) {
        return Err(refuse("both ranges need the same number of ports"));
    }
    Ok(Publish {
        port: inside.first(),
        host_port: host_port.map(PortRange::first),
        host_address,
        protocol,
        count: (length(inside) > 1).then(|| length(inside)),
    })
}

/// `500kbit`, `10mbit`, `1gbit`, `1.5mbit`: bits per second, in thousands.
pub fn rate(text: &str) -> Result<u64, String> {
    let refuse = || "a rate in bits per second is needed, such as 500kbit, 10mbit or 1gbit".to_owned();
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
    let (number, unit) = lower.split_at(digits);
    let scale: u64 = match unit {
        "bit" => 1,
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(refuse()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Three digits are as exact as the unit below.
    if fraction.is_empty() || fraction.len() > 3 || (unit == "bit" && number.contains('.')) {
        return Err(refuse());
    }
    let whole: u64 = whole.parse().map_err(|_| refuse())?;
    let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| refuse())?;
    let bits = whole.checked_mul(scale).and_then(|bits| bits.checked_add(thousandths * (scale / 1000)));
    bits.filter(|bits| *bits > 0).ok_or_else(refuse)
}

/// A rate as people write it.
pub fn shown(bits: u64) -> String {
    let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)];
    let unit = units.into_iter().find(|(_, scale)| bits >= *scale && bits.is_multiple_of(*scale / 1_000));
    match unit {
        Some((unit, scale)) if bits.is_multiple_of(scale) => format!("{}{unit}", bits / scale),
        Some((unit, scale)) => {
            let thousandths = format!("{:03}", bits % scale / (scale / 1_000));
            format!("{}.{}{unit}", bits / scale, thousandths.trim_end_matches('0'))
        }
        None => format!("{bits}bit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let any = Publish::default();
        for (text, wanted) in [
            ("8080:80", Publish { port: 80, host_port: Some(8080), ..any.clone() }),
            (":80", Publish { port: 80, ..any.clone() }),
            (
                "5353:53/udp",
                Publish { port: 53, host_port: Some(5353), protocol: Some("udp".to_owned()), ..any.clone() },
            ),
            ("8000-8009:9000-9009", Publish { port: 9000, host_port: Some(8000), count: Some(10), ..any.clone() }),
            (":9000-9001", Publish { port: 9000, count: Some(2), ..any.clone() }),
            (
                "0.0.0.0:8080:80/tcp",
                Publish {
                    port: 80,
                    host_port: Some(8080),
                    host_address: Some(Ipv4Addr::UNSPECIFIED),
                    protocol: Some("tcp".to_owned()),
                    ..any.clone()
                },
            ),
            ("127.0.0.1::80", Publish { port: 80, host_address: Some(Ipv4Addr::LOCALHOST), ..any }),
        ] {
            assert_eq!(publish(text).unwrap(), wanted, "{text}");
        }
        for bad in ["80", "", ":", "a:80", "80:", "0:80", "80:65536", "1-2:3", "8080:80/icmp", "::1:80:80", "x:1:2"] {
            assert!(publish(bad).unwrap_err().contains("For one: 8080:80"), "{bad}");
        }
    }

    #[test]
    fn rates_there_and_back() {
        for (text, bits) in [
            ("10mbit", 10_000_000),
            ("500kbit", 500_000),
            ("1gbit", 1_000_000_000),
            ("1.5mbit", 1_500_000),
            ("1.25gbit", 1_250_000_000),
            ("9600bit", 9_600),
        ] {
            assert_eq!(rate(text), Ok(bits), "{text}");
            assert_eq!(rate(&shown(bits)), Ok(bits), "{text}");
        }
        assert_eq!([shown(10_000_000), shown(1_500_000), shown(1_234_567)].join(" "), "10mbit 1.5mbit 1234.567kbit");
        for bad in
            ["", "10", "mbit", "0mbit", "-1mbit", "1.mbit", "1.2345mbit", "10MB", "1.5bit", "99999999999999999999bit"]
        {
            assert!(rate(bad).unwrap_err().contains("10mbit"), "{bad}");
        }
    }
}
