//! Which addresses are this host's.

use std::net::{Ipv4Addr, UdpSocket};

/// Whether an address is one of this host's: the kernel says so when a socket is bound to it.
pub(super) fn is_own(address: Ipv4Addr) -> bool {
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return false;
    }
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_own_and_documentation_is_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST));
        for foreign in ["192.0.2.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
            assert!(!is_own(foreign.parse().unwrap()), "{foreign}");
        }
    }
}
