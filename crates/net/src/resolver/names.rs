//! Names that are ours: of sandboxes, within the namespace of whoever asks.

use std::net::Ipv4Addr;

use moat_model::network::is_forbidden;

use crate::table::{Attached, Table};

/// Most addresses of one answer: what a label is shared by may be the whole node.
const ADDRESSES_MAX: usize = 256;

/// Who has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// These addresses do.
    Addresses(Vec<Ipv4Addr>),
    /// It is an address turned round, of a sandbox with this name.
    Pointer(String),
    /// It is ours, and has no address.
    Bare,
    /// It would be ours, but nobody has it.
    Nobody,
    /// It is not ours.
    Foreign,
}

/// The zone of a node.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    /// Its name, lower case, no last dot.
    domain: String,
    /// Addresses of sandboxes, those chosen from elsewhere left out.
    subnet: ipnet::Ipv4Net,
    table: Table,
}

impl Zone {
    /// Of this table.
    pub fn new(domain: &str, subnet: ipnet::Ipv4Net, table: Table) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self { domain, subnet, table }
    }

    /// A name as rules name it: one without a dot stands for a sandbox's.
    pub fn full(&self, name: &str) -> String {
        if name.contains('.') { name.to_owned() } else { format!("{name}.{}", self.domain) }
    }

    /// Whom `asker` means by a name, which is lower case and has no last dot.
    pub fn find(&self, asker: &Attached, name: &str) -> Found {
        if name == "localhost" || name.ends_with(".localhost") {
            return Found::Addresses(vec![Ipv4Addr::LOCALHOST]);
        }
        if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
            return self.pointer(asker, reversed);
        }
        if is_nowhere(name) {
            return Found::Nobody;
        }
        match self.below(name) {
            Some("") => Found::Bare,
            Some(rest) => self.sandboxes(asker, rest),
            None if name.contains('.') => Found::Foreign,
            None => self.sandboxes(asker, name),
        }
    }

    /// What stands before our domain.
    fn below<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_suffix(self.domain.as_str())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
    }

    fn sandboxes(&self, asker: &Attached, name: &str) -> Found {
        let namespace = &asker.attachment.namespace;
        let Some((first, rest)) = name.split_once('.') else {
            let one = self.table.named(namespace, name);
            return one.map_or(Found::Nobody, |one| Found::Addresses(vec![one.lease.address]));
        };
        let Some(key) = rest.strip_suffix(".label") else { return Found::Nobody };
        let all = self.table.labelled(namespace, key, first);
        let addresses: Vec<_> = all.iter().take(ADDRESSES_MAX).map(|one| one.lease.address).collect();
        if addresses.is_empty() { Found::Nobody } else { Found::Addresses(addresses) }
    }

    fn pointer(&self, asker: &Attached, reversed: &str) -> Found {
        let Some(address) = turned(reversed) else { return Found::Nobody };
        match self.table.with_address(address) {
            Some(one) if !one.attachment.pooled && one.attachment.namespace == asker.attachment.namespace => {
                let name = one.attachment.spec.name.as_ref().map_or(one.attachment.id.as_str(), |n| n.as_str());
                Found::Pointer(format!("{name}.{}", self.domain))
            }
            Some(_) => Found::Nobody,
            // Whoever answers for private addresses answers about the operator's network.
            None if is_forbidden(address) || self.subnet.contains(&address) => Found::Nobody,
            None => Found::Foreign,
        }
    }

    /// Whether an address is somebody's in this network, or could become somebody's.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        self.subnet.contains(&address) || self.table.with_address(address).is_some()
    }
}

/// Names that are answered by no server of the internet: asking one would only tell it.
fn is_nowhere(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "" | "local" | "onion" | "invalid" | "alt") || name.ends_with("ip6.arpa")
}

fn turned(reversed: &str) -> Option<Ipv4Addr> {
    let mut parts = reversed.split('.').map(str::parse::<u8>);
    let octets = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
    let [d, c, b, a] = octets;
    parts.next().is_none().then_some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{attached, label};
    use super::*;
    use moat_model::network::NetworkMode;

    fn zone(all: &[Attached]) -> Zone {
        let table = Table::default();
        for one in all {
            table.put(one.lease, one.attachment.clone()).unwrap();
        }
        Zone::new("moat.internal", "10.100.0.0/16".parse().unwrap(), table)
    }

    #[test]
    fn names_end_at_the_namespace() {
        let mode = NetworkMode::Internal;
        let web = attached(1, "red", Some("web"), mode);
        let db = label(attached(2, "red", None, mode), "app.example/tier", "DB");
        let db2 = label(attached(3, "red", None, mode), "app.example/tier", "db");
        let blue = label(attached(4, "blue", Some("web"), mode), "app.example/tier", "db");
        let mut pooled = attached(5, "red", Some("pool"), mode);
        pooled.attachment.pooled = true;
        let zone = zone(&[web.clone(), db.clone(), db2.clone(), blue.clone(), pooled]);
        let addresses = |of: &[&Attached]| Found::Addresses(of.iter().map(|a| a.lease.address).collect());
        let id = db.attachment.id.as_str();
        let cases = [
            (&db, "web.moat.internal".to_owned(), addresses(&[&web])),
            (&db, "web".to_owned(), addresses(&[&web])),
            (&blue, "web".to_owned(), addresses(&[&blue])),
            (&web, format!("{id}.moat.internal"), addresses(&[&db])),
            (&blue, format!("{id}.moat.internal"), Found::Nobody),
            (&web, "pool".to_owned(), Found::Nobody),
            (&web, "a.web.moat.internal".to_owned(), Found::Nobody),
            (&web, "moat.internal".to_owned(), Found::Bare),
            (&web, "notmoat.internal".to_owned(), Found::Foreign),
            (&web, "web.moat.internal.example.org".to_owned(), Found::Foreign),
            (&web, "printer.local".to_owned(), Found::Nobody),
            (&web, String::new(), Found::Nobody),
            (&web, "localhost".to_owned(), Found::Addresses(vec![Ipv4Addr::LOCALHOST])),
        ];
        for (asker, name, found) in cases {
            assert_eq!(zone.find(asker, &name), found, "{name}");
        }
        // The slash of a key is no part of a host name, which is why such a key is asked for by API only.
        assert_eq!(zone.find(&web, "db.app.example/tier.label.moat.internal"), addresses(&[&db, &db2]));
    }

    #[test]
    fn addresses_are_turned_round_within_the_namespace() {
        let mode = NetworkMode::Internal;
        let (web, nameless) = (attached(1, "red", Some("web"), mode), attached(2, "red", None, mode));
        let blue = attached(3, "blue", Some("web"), mode);
        let zone = zone(&[web.clone(), nameless.clone(), blue.clone()]);
        let id = format!("{}.moat.internal", nameless.attachment.id);
        let cases = [
            ("1.0.100.10.in-addr.arpa", Found::Pointer("web.moat.internal".to_owned())),
            ("2.0.100.10.in-addr.arpa", Found::Pointer(id)),
            ("3.0.100.10.in-addr.arpa", Found::Nobody),
            ("9.0.100.10.in-addr.arpa", Found::Nobody),
            ("1.1.168.192.in-addr.arpa", Found::Nobody),
            ("8.8.8.8.in-addr.arpa", Found::Foreign),
            ("8.8.8.in-addr.arpa", Found::Nobody),
            ("8.8.8.8.8.in-addr.arpa", Found::Nobody),
            ("1.0.0.0.ip6.arpa", Found::Nobody),
        ];
        for (name, found) in cases {
            assert_eq!(zone.find(&web, name), found, "{name}");
        }
    }
}
