//! Networks as people read them: in the words in which they are asked for.

use moat_api::rest::network::{Publish, RefusedRanges, Rule};

pub use super::values::shown as rate;
use crate::failure::Failure;
use crate::output::Output;

/// `deny *.pypi.org:443`.
pub fn rule(rule: &Rule) -> String {
    let to = match (&rule.cidr, &rule.domain, &rule.domain_suffix, &rule.group) {
        (Some(cidr), ..) => cidr.clone(),
        (_, Some(domain), ..) => domain.clone(),
        (_, _, Some(suffix), _) => format!("*.{suffix}"),
        (.., Some(group)) => format!("group:{group}"),
        (None, None, None, None) => "any".to_owned(),
    };
    let ports = rule.ports.join(",");
    let of_it = match &rule.protocol {
        Some(protocol) if ports.is_empty() => format!(":{protocol}"),
        Some(protocol) => format!(":{protocol}/{ports}"),
        None if ports.is_empty() => String::new(),
        None => format!(":{ports}"),
    };
    format!("{:<5} {to}{of_it}", rule.action)
}

/// `127.0.0.1:8080 -> 80/tcp`.
pub fn published(publish: &Publish) -> String {
    let range = |first: u16| match publish.count {
        Some(count @ 2..) => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        _ => first.to_string(),
    };
    let host = publish.host_port.filter(|port| *port != 0).map_or_else(|| "?".to_owned(), range);
    let at = publish.host_address.map(|address| format!("{address}:")).unwrap_or_default();
    format!("{at}{host} -> {}/{}", range(publish.port), publish.protocol.as_deref().unwrap_or("tcp"))
}

/// What the operator decides for all.
pub fn refused(output: &Output, ranges: &RefusedRanges) -> Result<(), Failure> {
    if !ranges.refused.is_empty() {
        output.line(&format!("refused     {}", ranges.refused.join(" ")))?;
    }
    if !ranges.allowed.is_empty() {
        output.line(&format!("of it open  {}", ranges.allowed.join(" ")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_ports_read_as_they_are_written() {
        let open = Rule { action: "allow".to_owned(), ..Rule::default() };
        assert_eq!(rule(&open), "allow any");
        let narrow = Rule {
            action: "deny".to_owned(),
            domain_suffix: Some("pypi.org".to_owned()),
            ports: vec!["80".to_owned(), "443".to_owned()],
            protocol: Some("tcp".to_owned()),
            ..Rule::default()
        };
        assert_eq!(rule(&narrow), "deny  *.pypi.org:tcp/80,443");
        let range = Publish { port: 9000, host_port: Some(8000), count: Some(10), ..Publish::default() };
        assert_eq!(published(&range), "8000-8009 -> 9000-9009/tcp");
    }
}
