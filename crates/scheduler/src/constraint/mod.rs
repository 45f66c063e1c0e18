//! Whether a node fulfils a constraint: A22's operators, and `${…}` read from what the node says of itself.

mod compare;

use std::borrow::Cow;

use moat_model::job::{Constraint, NodeFacts, Operator};
use regex::{Regex, RegexBuilder};

use compare::{Requirements, order};

/// Most bytes a compiled expression may take: a job's author must not fill the controller's memory.
const REGEX_SIZE_MAX: usize = 256 * 1024;

/// A constraint made ready to be asked of thousands of nodes.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    constraint: Constraint,
    right: Right,
}

#[derive(Debug, Clone)]
enum Right {
    /// Compared as it is.
    Text,
    /// Compiled once.
    Regex(Regex),
    /// Read once.
    Requirements(Requirements),
    /// Depends on the node, so it is read for each.
    OfNode,
    /// Cannot be read: no node fulfils it.
    Unreadable,
}

/// Why a constraint can be fulfilled by nobody.
pub fn validate(constraint: &Constraint) -> Result<(), String> {
    let value = &constraint.value;
    match constraint.operator {
        _ if value.contains("${") => Ok(()),
        Operator::Regexp => regex(value).map(drop),
        Operator::Version => Requirements::parse(value, false).map(drop),
        Operator::Semver => Requirements::parse(value, true).map(drop),
        Operator::DistinctProperty if !value.is_empty() => match value.parse::<u32>() {
            Ok(most) if most > 0 => Ok(()),
            _ => Err(format!("distinct_property takes a number above 0, not {value:?}")),
        },
        _ => Ok(()),
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(REGEX_SIZE_MAX).build();
    built.map_err(|error| format!("{text:?} is not a regular expression that is accepted: {error}"))
}

impl Check {
    pub(crate) fn new(constraint: &Constraint) -> Self {
        let value = &constraint.value;
        let right = match constraint.operator {
            _ if value.contains("${") => Right::OfNode,
            Operator::Regexp => regex(value).map_or(Right::Unreadable, Right::Regex),
            Operator::Version => Requirements::parse(value, false).map_or(Right::Unreadable, Right::Requirements),
            Operator::Semver => Requirements::parse(value, true).map_or(Right::Unreadable, Right::Requirements),
            _ => Right::Text,
        };
        Self { constraint: constraint.clone(), right }
    }

    /// As people read it.
    pub(crate) fn words(&self) -> String {
        let Constraint { attribute, operator, value } = &self.constraint;
        match operator {
            Operator::IsSet | Operator::IsNotSet => format!("{attribute} {}", word(*operator)),
            _ => format!("{attribute} {} {value}", word(*operator)),
        }
    }

    /// Whether the node fulfils it. `distinct_…` concern several instances and hold for every node as such.
    pub(crate) fn holds(&self, facts: &NodeFacts) -> bool {
        let left = resolve(&self.constraint.attribute, facts);
        let operator = self.constraint.operator;
        match operator {
            Operator::DistinctHosts | Operator::DistinctProperty => return true,
            Operator::IsSet => return left.is_some(),
            Operator::IsNotSet => return left.is_none(),
            // What a node does not have is different from anything.
            Operator::NotEqual => return left != resolve(&self.constraint.value, facts),
            _ => {}
        }
        let Some(left) = left else { return false };
        match &self.right {
            Right::Regex(regex) => return regex.is_match(&left),
            Right::Requirements(requirements) => return requirements.met_by(&left),
            Right::Unreadable => return false,
            Right::Text | Right::OfNode => {}
        }
        let Some(right) = resolve(&self.constraint.value, facts) else { return false };
        match operator {
            Operator::Regexp => regex(&right).is_ok_and(|regex| regex.is_match(&left)),
            Operator::Version => Requirements::parse(&right, false).is_ok_and(|all| all.met_by(&left)),
            Operator::Semver => Requirements::parse(&right, true).is_ok_and(|all| all.met_by(&left)),
            Operator::Equal => left == right,
            Operator::Less => order(&left, &right).is_lt(),
            Operator::LessOrEqual => order(&left, &right).is_le(),
            Operator::Greater => order(&left, &right).is_gt(),
            Operator::GreaterOrEqual => order(&left, &right).is_ge(),
            Operator::SetContains => items(&right).all(|wanted| items(&left).any(|item| item == wanted)),
            Operator::SetContainsAny => items(&right).any(|wanted| items(&left).any(|item| item == wanted)),
            Operator::NotEqual
            | Operator::IsSet
            | Operator::IsNotSet
            | Operator::DistinctHosts
            | Operator::DistinctProperty => true,
        }
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// The operator as it stands in a job file.
pub(crate) fn word(operator: Operator) -> &'static str {
    match operator {
        Operator::Equal => "=",
        Operator::NotEqual => "!=",
        Operator::Less => "<",
        Operator::LessOrEqual => "<=",
        Operator::Greater => ">",
        Operator::GreaterOrEqual => ">=",
        Operator::Regexp => "regexp",
        Operator::Version => "version",
        Operator::Semver => "semver",
        Operator::SetContains => "set_contains",
        Operator::SetContainsAny => "set_contains_any",
        Operator::IsSet => "is_set",
        Operator::IsNotSet => "is_not_set",
        Operator::DistinctHosts => "distinct_hosts",
        Operator::DistinctProperty => "distinct_property",
    }
}

/// `text` with each `${…}` replaced by what the node says; none if it does not have one of them.
pub(crate) fn resolve<'a>(text: &'a str, facts: &'a NodeFacts) -> Option<Cow<'a, str>> {
    let Some((before, rest)) = text.split_once("${") else { return Some(Cow::Borrowed(text)) };
    let (name, after) = rest.split_once('}')?;
    let value = lookup(name.trim(), facts)?;
    if before.is_empty() && after.is_empty() {
        return Some(Cow::Borrowed(value));
    }
    Some(Cow::Owned(format!("{before}{value}{}", resolve(after, facts)?)))
}

fn lookup<'a>(name: &str, facts: &'a NodeFacts) -> Option<&'a str> {
    if let Some(attribute) = name.strip_prefix("attr.") {
        return facts.attributes.get(attribute).map(String::as_str);
    }
    if let Some(key) = name.strip_prefix("meta.") {
        return facts.meta.get(key).map(String::as_str);
    }
    let value = match name {
        "node.unique.id" => facts.id.as_str(),
        "node.unique.name" => &facts.name,
        "node.datacenter" => &facts.datacenter,
        "node.region" => &facts.region,
        "node.class" => &facts.class,
        "node.pool" => &facts.pool,
        _ => return None,
    };
    // A node without a class has none, rather than one without letters.
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::facts;

    /// J06: each operator, on what a node has and has not.
    #[test]
    fn j06_operators_decide_as_the_table_says() {
        use Operator::*;
        let mut node = facts(1);
        for (key, value) in [
            ("kernel.name", "linux"),
            ("cpu.numcores", "8"),
            ("kernel.version", "6.1.9"),
            ("os.version", "12"),
            ("tools", "git, curl,tar"),
            ("app", "1.7.0-beta"),
            ("zero", "0.10.0"),
        ] {
            node.attributes.insert(key.to_owned(), value.to_owned());
        }
        node.meta.insert("rack".to_owned(), "r7".to_owned());
        node.class = "big".to_owned();
        let table = [
            ("${attr.kernel.name}", Equal, "linux", true),
            ("${attr.kernel.name}", Equal, "Linux", false),
            ("${attr.absent}", Equal, "", false),
            ("${attr.kernel.name}", NotEqual, "windows", true),
            ("${attr.absent}", NotEqual, "anything", true),
            ("${attr.cpu.numcores}", Greater, "10", false),
            ("${attr.cpu.numcores}", Less, "10", true),
            ("${attr.cpu.numcores}", GreaterOrEqual, "8.0", true),
            ("${attr.cpu.numcores}", LessOrEqual, "7.5", false),
            ("${attr.kernel.version}", GreaterOrEqual, "6.1.10", false),
            ("${attr.kernel.version}", Greater, "5.15", true),
            ("${attr.kernel.name}", Less, "mac", true),
            ("${attr.absent}", Less, "9", false),
            ("${attr.kernel.name}", Regexp, "^lin", true),
            ("${attr.kernel.name}", Regexp, "^inu", false),
            ("${attr.kernel.name}", Regexp, "(", false),
            ("${attr.kernel.version}", Version, ">= 6.1, < 6.2", true),
            ("${attr.kernel.version}", Version, "~> 6.1.2", true),
            ("${attr.kernel.version}", Version, "~> 6.0.2", false),
            ("${attr.os.version}", Version, ">= 11", true),
            ("${attr.app}", Version, ">= 1.6", false),
            ("${attr.app}", Version, ">= 1.7.0-alpha", true),
            ("${attr.app}", Semver, ">= 1.6.0", true),
            ("${attr.app}", Semver, ">= 1.7.0", false),
            ("${attr.os.version}", Semver, ">= 11.0.0", false),
            ("${attr.zero}", Semver, "!= 0.9.0, > 0.9.0", true),
            ("${attr.tools}", SetContains, "tar,git", true),
            ("${attr.tools}", SetContains, "tar,zip", false),
            ("${attr.tools}", SetContainsAny, "zip,tar", true),
            ("${attr.tools}", SetContainsAny, "zip,xz", false),
            ("${meta.rack}", IsSet, "", true),
            ("${meta.row}", IsSet, "", false),
            ("${meta.rack}", IsNotSet, "", false),
            ("${meta.row}", IsNotSet, "", true),
            ("${node.class}", Equal, "big", true),
            ("${node.datacenter}-${meta.rack}", Equal, "dc1-r7", true),
            ("r7", Equal, "${meta.rack}", true),
            ("${meta.rack}", Regexp, "${meta.rack}", true),
            ("${nothing.known}", IsSet, "", false),
        ];
        for (attribute, operator, value, expected) in table {
            let constraint = Constraint { attribute: attribute.to_owned(), operator, value: value.to_owned() };
            let check = Check::new(&constraint);
            assert_eq!(check.holds(&node), expected, "{}", check.words());
        }
    }

    #[test]
    fn an_expression_that_would_fill_memory_is_refused() {
        let constraint =
            Constraint { attribute: String::new(), operator: Operator::Regexp, value: "(a{1000}){1000}".to_owned() };
        assert!(
            validate(&constraint).is_err_and(|reason| reason.contains("not a regular expression that is accepted"))
        );
        let number = Constraint { operator: Operator::DistinctProperty, value: "0".to_owned(), ..constraint };
        assert!(validate(&number).is_err());
    }
}
