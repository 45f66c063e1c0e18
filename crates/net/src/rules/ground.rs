//! The table without any sandbox.

use std::fmt::Write;

use ipnet::Ipv4Net;
use moat_model::network::{Group, ranges_of};

use crate::NetConfig;
use crate::slots::naming::GROUP;

/// Groups that are made of ranges, each with the set that has them.
pub(super) const RANGES: [(Group, &str); 4] = [
    (Group::Private, "private"),
    (Group::LinkLocal, "link_local"),
    (Group::Metadata, "metadata"),
    (Group::Multicast, "multicast"),
];

/// How our links are matched, quoted.
pub(super) fn links(config: &NetConfig) -> String {
    format!("\"{}*\"", config.name)
}

/// Commands that put the table in place of whatever bore its name.
pub(super) fn text(config: &NetConfig, guard: bool) -> String {
    let links = links(config);
    let uplink = config.uplink.as_ref();
    let uplink = uplink.map(|link| format!("    oifname != \"{link}\" counter name drops drop")).unwrap_or_default();
    // Another node on this host has sandboxes too, and rules of its own for them.
    let others = format!("iifgroup != {GROUP} oifgroup != {GROUP}");
    let guard = if guard { format!("    iifname != {links} {others} counter name drops drop") } else { String::new() };
    include_str!("ground.nft")
        .replace("$RANGES", &ranges(config))
        .replace("$UPLINK", &uplink)
        .replace("$GUARD", &guard)
        .replace("$LINKS", &links)
        .replace("$GATEWAY", &config.gateway.to_string())
        .replace("$NAME", &config.name)
}

fn ranges(config: &NetConfig) -> String {
    let mut text = String::new();
    for (group, name) in RANGES {
        set(&mut text, name, ranges_of(group).iter());
    }
    set(&mut text, "special", RANGES.iter().flat_map(|(group, _)| ranges_of(*group)));
    set(&mut text, "ceiling_allow", config.ceiling.allow.iter());
    set(&mut text, "ceiling_deny", config.ceiling.deny.iter());
    text
}

fn set<'a>(text: &mut String, name: &str, ranges: impl Iterator<Item = &'a Ipv4Net>) {
    // Ranges within ranges are refused by some versions, merged by others; 0.0.0.0/0 is no element.
    let merged = Ipv4Net::aggregate(&ranges.map(Ipv4Net::trunc).collect::<Vec<_>>());
    let elements: Vec<String> = merged.iter().map(element).collect();
    let elements =
        if elements.is_empty() { String::new() } else { format!(" elements = {{ {} }};", elements.join(", ")) };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  set {name} {{ type ipv4_addr; flags interval;{elements} }}");
}

fn element(range: &Ipv4Net) -> String {
    if range.prefix_len() == 0 { "0.0.0.0-255.255.255.255".to_owned() } else { range.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        let mut config = NetConfig::new("/run/moat/net");
        assert!(!text(&config, true).contains('$'));
        assert!(!text(&config, true).contains("oifname != \"eth7\""));
        config.uplink = Some("eth7".to_owned());
        config.ceiling.deny = vec!["8.8.0.0/16".parse().unwrap(), "8.8.8.0/24".parse().unwrap()];
        let all = text(&config, false);
        assert!(all.contains("oifname != \"eth7\" counter") && all.contains("elements = { 8.8.0.0/16 };"), "{all}");
    }
}
