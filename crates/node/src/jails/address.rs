//! Addresses of jails as people type them.

use std::net::Ipv4Addr;

use moat_model::ErrorKind;

use crate::error::{Error, Result};

/// What was typed, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    pub address: Ipv4Addr,
    /// What of it has no meaning here.
    pub note: Option<String>,
}

/// Reads `10.0.0.1` or `10.0.0.1/24`. What else Bastille takes is refused by its name, with what to do instead.
pub(super) fn read(text: &str) -> Result<Typed> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::Unsupported, format!("address: {text} {why}")));
    match text.to_ascii_lowercase().as_str() {
        "inherit" | "ip_hostname" => {
            return refuse(
                "would share the host's network, which no jail does: give it an address, and lead ports of the host \
                 to it with moat jail rdr",
            );
        }
        "dhcp" | "syncdhcp" | "slaac" | "0.0.0.0" => {
            return refuse("asks somebody else for an address: leave it out, and the node gives one that stays");
        }
        _ => {}
    }
    let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
    if address.contains(':') {
        return refuse("is IPv6, which sandboxes do not have: give an IPv4 address, or none");
    }
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        let shown: String = text.chars().take(60).collect();
        return Err(Error::invalid("address", format!("{shown:?} is not an address such as 10.0.0.1")));
    };
    match mask.map(str::parse::<u8>) {
        None => Ok(Typed { address, note: None }),
        Some(Ok(1..=32)) => {
            let note = format!("the mask of {text} means nothing here: a jail has {address} alone");
            Ok(Typed { address, note: Some(note) })
        }
        Some(_) => Err(Error::invalid("address", format!("{text}: after / stands a number of bits, 1 to 32"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_taken_and_a_mask_is_named() {
        assert_eq!(read("10.0.0.1").unwrap(), Typed { address: Ipv4Addr::new(10, 0, 0, 1), note: None });
        assert!(read("10.0.0.1/24").unwrap().note.unwrap().contains("10.0.0.1 alone"));
        for (bad, kind) in [
            ("inherit", ErrorKind::Unsupported),
            ("DHCP", ErrorKind::Unsupported),
            ("fd00::1/64", ErrorKind::Unsupported),
            ("10.0.0", ErrorKind::InvalidSpec),
            ("10.0.0.1/33", ErrorKind::InvalidSpec),
        ] {
            assert_eq!(read(bad).unwrap_err().kind, kind, "{bad}");
        }
    }
}
