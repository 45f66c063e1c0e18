//! What the things of a slot are called. Everything can be said of a slot by its number alone, so that it can be removed
//! by somebody who knows nothing else.

use std::path::PathBuf;

use crate::NetConfig;

/// Group of the links of every node on a host: "moat". By it a node knows the sandboxes of another, whose packets are not
/// its to drop.
pub const GROUP: u32 = 0x6d6f_6174;

/// The link inside every namespace.
pub const INNER: &str = "eth0";

/// The tap inside the namespace of a machine.
pub const TAP: &str = "tap0";

/// The link on the host that leads to a slot.
pub fn link(config: &NetConfig, slot: u32) -> String {
    format!("{}{slot:x}", config.name)
}

/// The slot a link leads to, if it is one of ours.
pub fn slot_of(config: &NetConfig, link: &str) -> Option<u32> {
    let digits = link.strip_prefix(config.name.as_str())?;
    let slot = u32::from_str_radix(digits, 16).ok()?;
    // One spelling each: another node's name may begin with ours.
    (slot > 0 && self::link(config, slot) == link).then_some(slot)
}

/// Where the namespace of a slot is entered.
pub fn way(config: &NetConfig, slot: u32) -> PathBuf {
    config.run_dir.join("ns").join(format!("{slot:x}"))
}

/// The hardware address of the link inside a namespace: locally administered, the same for a slot at any time.
pub fn inner_mac(slot: u32) -> [u8; 6] {
    mac(0x10, slot)
}

/// The hardware address of the host's end.
pub fn host_mac(slot: u32) -> [u8; 6] {
    mac(0x20, slot)
}

fn mac(end: u8, slot: u32) -> [u8; 6] {
    let [a, b, c, d] = slot.to_be_bytes();
    [0x02, end, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_tells_its_slot_and_others_tell_none() {
        let config = NetConfig::new("/run/moat/net");
        assert_eq!(link(&config, 0x1f), "moat1f");
        assert_eq!(slot_of(&config, "moat1f"), Some(0x1f));
        for other in ["moat", "moat0", "moat01", "moat1F", "moatx", "eth0", "moat+1"] {
            assert_eq!(slot_of(&config, other), None, "{other}");
        }
        assert_ne!(inner_mac(5), host_mac(5));
    }
}
