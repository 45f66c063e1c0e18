//! `--allow` and `--deny`, which are one list: their order on the command line is the order of the rules.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use moat_api::rest::network::Rule;

/// Both flags, and what they do.
const FLAGS: [(&str, &str); 2] = [
    ("allow", "Let it talk to DESTINATION, of what the mode lets it reach; may be given several times"),
    ("deny", "Do not let it talk to DESTINATION; may be given several times"),
];

const SYNTAX: &str = "\
A destination is any, an address, a range (10.0.0.0/8), a name (pypi.org), every name below one (*.pypi.org), or a group \
(group:public, private, link_local, metadata, multicast or namespace), and then, if not all of it is meant, \
:443, :80,443, :8000-8100, :tcp/5432, :udp, :icmp. The first rule that fits decides: the order of --allow and --deny is \
the order of the rules.";

/// Rules in the order they were written.
#[derive(Debug, Clone, Default)]
pub struct RuleArgs(Vec<Rule>);

impl RuleArgs {
    /// The rules.
    pub fn in_order(&self) -> &[Rule] {
        &self.0
    }
}

impl Args for RuleArgs {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (name, help)| {
            let long = if name == "allow" { format!("{help}. {SYNTAX}") } else { help.to_owned() };
            let arg = Arg::new(name).long(name).value_name("DESTINATION").action(ArgAction::Append);
            command.arg(arg.help(help).long_help(long).value_parser(destination))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut placed: Vec<(usize, Rule)> = Vec::new();
        for (action, _) in FLAGS {
            if matches.value_source(action) != Some(ValueSource::CommandLine) {
                continue;
            }
            let places = matches.indices_of(action).unwrap_or_default();
            let rules = matches.get_many::<Rule>(action).unwrap_or_default();
            placed.extend(places.zip(rules.map(|rule| Rule { action: action.to_owned(), ..rule.clone() })));
        }
        placed.sort_by_key(|(place, _)| *place);
        Ok(Self(placed.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A rule without its action: `any`, `pypi.org:443`, `*.pypi.org`, `10.0.0.0/8:tcp/5432`, `group:private`.
fn destination(text: &str) -> Result<Rule, String> {
    let mut rule = Rule::default();
    let after_group = text.strip_prefix("group:");
    let (to, of_it) = match after_group.unwrap_or(text).split_once(':') {
        Some((to, of_it)) => (to, Some(of_it)),
        None => (after_group.unwrap_or(text), None),
    };
    if of_it.is_some_and(|of_it| of_it.contains(':')) {
        return Err("one colon at most; sandboxes have no IPv6. For one: pypi.org:443, 10.0.0.0/8:tcp/5432".to_owned());
    }
    if to.is_empty() || to.contains(char::is_whitespace) {
        return Err("where to? For one: pypi.org:443, 10.0.0.0/8, group:private, any".to_owned());
    }
    if after_group.is_some() {
        rule.group = Some(to.to_owned());
    } else if let Some(suffix) = to.strip_prefix("*.") {
        rule.domain_suffix = Some(suffix.to_owned());
    } else if is_range(to) {
        rule.cidr = Some(to.to_owned());
    } else if to != "any" && to != "*" {
        rule.domain = Some(to.to_owned());
    }
    match of_it {
        Some(of_it) => with_ports(rule, of_it),
        None => Ok(rule),
    }
}

/// Whether it is meant as an address or a range of them: no top-level domain is all digits, no name has a slash.
fn is_range(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    text.contains('/') || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

/// `443`, `80,443`, `8000-8100`, `tcp/5432`, `udp`, `icmp`.
fn with_ports(rule: Rule, text: &str) -> Result<Rule, String> {
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (Some(protocol), ports),
        None if ["tcp", "udp", "icmp"].contains(&text) => return Ok(Rule { protocol: Some(text.to_owned()), ..rule }),
        None => (None, text),
    };
    if protocol.is_some_and(|protocol| !["tcp", "udp"].contains(&protocol)) {
        return Err(format!("{text:?}: only tcp and udp have ports. For one: :tcp/5432, :udp/53, :icmp"));
    }
    let ports: Vec<String> = ports.split(',').map(str::to_owned).collect();
    match ports.iter().find(|port| moat_model::network::PortRange::parse(port).is_none()) {
        Some(bad) => Err(format!("{bad:?} is no port. For one: :443, :80,443, :8000-8100, :tcp/5432, :icmp")),
        None => Ok(Rule { protocol: protocol.map(str::to_owned), ports, ..rule }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        rules: RuleArgs,
    }

    fn told(text: &str) -> String {
        serde_json::to_string(&destination(text).unwrap()).unwrap().replace(r#""action":"","#, "").replace('"', "")
    }

    #[test]
    fn destinations_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("pypi.org:443", "{domain:pypi.org,ports:[443]}"),
            ("*.pypi.org", "{domain_suffix:pypi.org}"),
            ("10.0.0.0/8:tcp/5432", "{cidr:10.0.0.0/8,ports:[5432],protocol:tcp}"),
            ("1.2.3.4:80,8000-8100", "{cidr:1.2.3.4,ports:[80,8000-8100]}"),
            ("group:private", "{group:private}"),
            ("group:public:udp/53", "{group:public,ports:[53],protocol:udp}"),
            ("any:icmp", "{protocol:icmp}"),
            ("8.8.8.8:udp", "{cidr:8.8.8.8,protocol:udp}"),
            ("3com.com", "{domain:3com.com}"),
            ("web", "{domain:web}"),
        ] {
            assert_eq!(told(text), wanted, "{text}");
        }
        assert_eq!(destination("any").unwrap(), Rule::default());
        assert_eq!(destination("*").unwrap(), Rule::default());
        for bad in ["", ":443", "group:", "a:b", "a:0", "a:1-", "a:icmp/3", "::1", "[::1]:80", "a b", "a:tcp/"] {
            assert!(destination(bad).unwrap_err().contains("For one"), "{bad}");
        }
    }

    #[test]
    fn the_order_on_the_command_line_is_that_of_the_rules() {
        let line = ["", "--deny", "a.org:80", "--allow", "*.org", "--deny", "any", "--allow", "group:namespace"];
        let rules = Line::try_parse_from(line).unwrap().rules;
        let actions: Vec<_> = rules.in_order().iter().map(|rule| rule.action.as_str()).collect();
        assert_eq!(actions, ["deny", "allow", "deny", "allow"]);
        assert_eq!(rules.in_order()[1].domain_suffix.as_deref(), Some("org"));
        let error = Line::try_parse_from(["", "--deny", "a:b"]).unwrap_err().to_string();
        assert!(error.contains("--deny <DESTINATION>") && error.contains("For one: :443"), "{error}");
    }
}
