//! Which names a sandbox may ask the outside for, and which rules a name is a matter of.
//!
//! A question is a packet that leaves the node: what may not be reached by any rule is not asked for either, or a sandbox with
//! no way out could spell its secrets in names.

use ipnet::Ipv4Net;
use moat_model::network::{
    Action, Ceiling, Destination, Domain, EgressRule, Group, NetworkMode, NetworkSpec, Reason, ranges_of,
};

/// Whether the outside is asked for a name that is not ours; if not, why.
///
/// The rules are walked as a packet would walk them, to an address nobody knows yet: an allow rule that could fit lets the
/// question out; a deny rule that fits every packet to that name ends the walk.
pub(super) fn may_ask(spec: &NetworkSpec, ceiling: &Ceiling, name: &Domain) -> Result<(), Reason> {
    if spec.mode != NetworkMode::Internet {
        return Err(Reason::Mode);
    }
    for (index, rule) in spec.egress.rules.iter().enumerate() {
        match rule.action {
            Action::Allow if could_fit(&rule.to, ceiling, name) => return Ok(()),
            Action::Deny if is_whole(rule) && names(&rule.to, name) => return Err(Reason::Rule { index }),
            Action::Allow | Action::Deny => {}
        }
    }
    match spec.egress.default {
        Action::Allow => Ok(()),
        Action::Deny => Err(Reason::Default),
    }
}

/// The rules that name a name, whatever they say of it: its addresses are to be known to each.
pub(super) fn rules_naming(spec: &NetworkSpec, name: &Domain) -> Vec<usize> {
    let by_name = |rule: &EgressRule| !matches!(rule.to, Destination::Any) && names(&rule.to, name);
    spec.egress.rules.iter().enumerate().filter(|(_, rule)| by_name(rule)).map(|(index, _)| index).collect()
}

/// Nothing to that destination escapes the rule.
fn is_whole(rule: &EgressRule) -> bool {
    rule.ports.is_empty() && rule.protocol.is_none()
}

/// Every address of this name is what the rule is about.
fn names(to: &Destination, name: &Domain) -> bool {
    match to {
        Destination::Any => true,
        Destination::Domain(domain) => domain == name,
        Destination::DomainSuffix(domain) => domain.is_above(name),
        Destination::Cidr(_) | Destination::Group(_) => false,
    }
}

/// Some address of this name could be.
fn could_fit(to: &Destination, ceiling: &Ceiling, name: &Domain) -> bool {
    match to {
        Destination::Any | Destination::Domain(_) | Destination::DomainSuffix(_) => names(to, name),
        Destination::Cidr(range) => is_reachable(range, ceiling),
        Destination::Group(Group::Public) => true,
        // The names of sandboxes are ours; the outside never answers with their addresses.
        Destination::Group(Group::Namespace) => false,
        Destination::Group(group) => ranges_of(*group).iter().any(|range| is_reachable(range, ceiling)),
    }
}

/// Whether anything in a range may be reached by anybody: it is not all refused, or the operator allows some of it.
fn is_reachable(range: &Ipv4Net, ceiling: &Ceiling) -> bool {
    let groups = [Group::Private, Group::LinkLocal, Group::Metadata, Group::Multicast];
    let refused = groups.into_iter().flat_map(ranges_of).any(|refused| refused.contains(range));
    !refused || ceiling.allow.iter().any(|allowed| allowed.contains(range) || range.contains(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::network::{EgressPolicy, PortRange, Protocol};

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn rule(action: Action, to: Destination) -> EgressRule {
        EgressRule { action, to, ports: Vec::new(), protocol: None }
    }

    fn asked(default: Action, rules: Vec<EgressRule>, name: &str) -> Result<(), Reason> {
        let spec = NetworkSpec { egress: EgressPolicy { default, rules }, ..NetworkSpec::new(NetworkMode::Internet) };
        may_ask(&spec, &Ceiling::default(), &domain(name))
    }

    #[test]
    fn a_closed_policy_asks_for_what_its_rules_name_only() {
        use Action::{Allow, Deny};
        let exact = || rule(Allow, Destination::Domain(domain("pypi.org")));
        let below = || rule(Allow, Destination::DomainSuffix(domain("pypi.org")));
        let cidr = |text: &str| rule(Allow, Destination::Cidr(text.parse().unwrap()));
        let cases = [
            (Deny, vec![], "a.org", Err(Reason::Default)),
            (Allow, vec![], "a.org", Ok(())),
            (Deny, vec![exact()], "pypi.org", Ok(())),
            (Deny, vec![exact()], "secret.pypi.org", Err(Reason::Default)),
            (Deny, vec![below()], "files.pypi.org", Ok(())),
            (Deny, vec![below()], "pypi.org", Err(Reason::Default)),
            (Deny, vec![below()], "evilpypi.org", Err(Reason::Default)),
            (Deny, vec![cidr("8.8.8.0/24")], "a.org", Ok(())),
            (Deny, vec![cidr("10.0.0.0/8")], "a.org", Err(Reason::Default)),
            (Deny, vec![rule(Allow, Destination::Group(Group::Public))], "a.org", Ok(())),
            (Deny, vec![rule(Allow, Destination::Group(Group::Private))], "a.org", Err(Reason::Default)),
            (Deny, vec![rule(Allow, Destination::Group(Group::Namespace))], "a.org", Err(Reason::Default)),
            (Deny, vec![rule(Allow, Destination::Any)], "a.org", Ok(())),
        ];
        for (default, rules, name, expected) in cases {
            assert_eq!(asked(default, rules.clone(), name), expected, "{name} {rules:?}");
        }
    }

    #[test]
    fn what_is_denied_as_a_whole_is_not_asked_for() {
        let deny = || rule(Action::Deny, Destination::DomainSuffix(domain("evil.org")));
        let first = Err(Reason::Rule { index: 0 });
        assert_eq!(asked(Action::Allow, vec![deny()], "x.evil.org"), first);
        assert_eq!(asked(Action::Allow, vec![deny()], "evil.org"), Ok(()));
        let but = rule(Action::Allow, Destination::Domain(domain("good.evil.org")));
        assert_eq!(asked(Action::Allow, vec![but.clone(), deny()], "good.evil.org"), Ok(()));
        assert_eq!(asked(Action::Allow, vec![deny(), but], "good.evil.org"), first);
        let some = EgressRule { ports: vec![PortRange::new(25, 25).unwrap()], ..deny() };
        assert_eq!(asked(Action::Allow, vec![some], "x.evil.org"), Ok(()), "other ports remain");
        let udp = EgressRule { protocol: Some(Protocol::Udp), ..deny() };
        assert_eq!(asked(Action::Allow, vec![udp], "x.evil.org"), Ok(()), "TCP remains");
    }

    #[test]
    fn no_way_out_no_question() {
        let spec = NetworkSpec::new(NetworkMode::Internal);
        assert_eq!(may_ask(&spec, &Ceiling::default(), &domain("a.org")), Err(Reason::Mode));
        let open = Ceiling { allow: vec!["10.1.0.0/16".parse().unwrap()], deny: vec![] };
        let private = vec![rule(Action::Allow, Destination::Cidr("10.0.0.0/8".parse().unwrap()))];
        let egress = EgressPolicy { default: Action::Deny, rules: private };
        let spec = NetworkSpec { egress, ..NetworkSpec::new(NetworkMode::Internet) };
        assert_eq!(may_ask(&spec, &open, &domain("db.corp")), Ok(()), "what the operator opened has names");
    }

    #[test]
    fn a_name_is_a_matter_of_every_rule_that_names_it() {
        let rules = vec![
            rule(Action::Allow, Destination::Domain(domain("a.org"))),
            rule(Action::Deny, Destination::Any),
            rule(Action::Deny, Destination::DomainSuffix(domain("org"))),
            rule(Action::Allow, Destination::Domain(domain("b.org"))),
        ];
        let egress = EgressPolicy { default: Action::Deny, rules };
        let spec = NetworkSpec { egress, ..NetworkSpec::new(NetworkMode::Internet) };
        assert_eq!(rules_naming(&spec, &domain("a.org")), [0, 2]);
        assert_eq!(rules_naming(&spec, &domain("b.org")), [2, 3]);
        assert_eq!(rules_naming(&spec, &domain("c.com")), [0usize; 0]);
    }
}
