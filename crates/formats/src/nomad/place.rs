//! Which nodes, rather which than others.

use moat_model::job::{Affinity, Constraint, Operator, Spread, SpreadTarget};

use crate::fields::Fields;

const OPERATORS: [(&str, Operator); 19] = [
    ("=", Operator::Equal),
    ("==", Operator::Equal),
    ("is", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("not", Operator::NotEqual),
    ("<", Operator::Less),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    (">=", Operator::GreaterOrEqual),
    ("regexp", Operator::Regexp),
    ("version", Operator::Version),
    ("semver", Operator::Semver),
    ("set_contains", Operator::SetContains),
    ("set_contains_all", Operator::SetContains),
    ("set_contains_any", Operator::SetContainsAny),
    ("is_set", Operator::IsSet),
    ("is_not_set", Operator::IsNotSet),
    ("distinct_hosts", Operator::DistinctHosts),
    ("distinct_property", Operator::DistinctProperty),
];

/// `regexp = "…"` for `operator = "regexp"  value = "…"`.
const SHORT: [(&str, Operator); 5] = [
    ("regexp", Operator::Regexp),
    ("version", Operator::Version),
    ("semver", Operator::Semver),
    ("set_contains", Operator::SetContains),
    ("set_contains_any", Operator::SetContainsAny),
];

pub(super) fn constraints(fields: &Fields<'_>) -> Vec<Constraint> {
    let parts = fields.blocks("constraint", 0);
    let one = |part: &crate::fields::Part<'_>| {
        let inner = Fields::of(part, fields, "constraint", "constraint".to_owned());
        let constraint = constraint(&inner);
        inner.finish(&[]);
        constraint
    };
    parts.iter().filter_map(one).collect()
}

fn constraint(fields: &Fields<'_>) -> Option<Constraint> {
    let mut attribute = fields.text("attribute").unwrap_or_default();
    let mut operator = fields.choice("operator", &OPERATORS);
    let mut value = fields.text("value").unwrap_or_default();
    for (name, short) in SHORT {
        if let Some(text) = fields.text(name) {
            (operator, value) = (Some(short), text);
        }
    }
    if let Some(hosts) = fields.flag("distinct_hosts") {
        if !hosts {
            return None;
        }
        operator = Some(Operator::DistinctHosts);
    }
    if let Some(text) = fields.text("distinct_property") {
        (operator, attribute) = (Some(Operator::DistinctProperty), text);
    }
    let operator = operator.unwrap_or(Operator::Equal);
    if operator == Operator::DistinctHosts {
        // `value = "false"` switches it off.
        return (value != "false").then(|| Constraint { attribute: String::new(), operator, value: String::new() });
    }
    if attribute.is_empty() {
        fields.refuse("attribute", "attribute is missing", "write attribute = \"${attr.kernel.name}\" or another one");
    }
    check(fields, operator, &value);
    Some(Constraint { attribute, operator, value })
}

fn check(fields: &Fields<'_>, operator: Operator, value: &str) {
    let alone = matches!(operator, Operator::IsSet | Operator::IsNotSet);
    match operator {
        Operator::IsSet | Operator::IsNotSet | Operator::DistinctHosts => {}
        Operator::DistinctProperty if value.is_empty() => {}
        Operator::DistinctProperty if value.parse::<u32>().is_ok_and(|count| count > 0) => {}
        Operator::DistinctProperty => {
            fields.refuse("value", "value is how many may share one: at least 1", "");
        }
        Operator::Regexp if !value.contains("${") && regex::Regex::new(value).is_err() => {
            fields.refuse("value", format!("{value:?} is not a regular expression (RE2's kind)"), "");
        }
        _ if value.is_empty() && !fields.has("value") => {
            fields.refuse("value", "value is missing", "write what it is compared with, or operator = \"is_set\"");
        }
        _ => {}
    }
    if alone && !value.is_empty() {
        fields.refuse("value", "this operator compares with nothing", "leave value out");
    }
}

pub(super) fn affinities(fields: &Fields<'_>) -> Vec<Affinity> {
    let parts = fields.blocks("affinity", 0);
    let one = |part: &crate::fields::Part<'_>| {
        let inner = Fields::of(part, fields, "affinity", "affinity".to_owned());
        let weight = inner.whole("weight", -100, 100).unwrap_or(50);
        if weight == 0 {
            inner.refuse("weight", "a weight of 0 prefers nothing", "give 1 to 100, or -100 to -1 to avoid nodes");
        }
        let constraint = constraint(&inner);
        if let Some(Operator::DistinctHosts | Operator::DistinctProperty) = constraint.as_ref().map(|c| c.operator) {
            inner.refuse("operator", "distinct_… is for constraints", "write it as a constraint, or as spread { }");
        }
        inner.finish(&[]);
        constraint.map(|constraint| Affinity { constraint, weight })
    };
    parts.iter().filter_map(one).collect()
}

pub(super) fn spreads(fields: &Fields<'_>) -> Vec<Spread> {
    let parts = fields.blocks("spread", 0);
    let one = |part: &crate::fields::Part<'_>| {
        let inner = Fields::of(part, fields, "spread", "spread".to_owned());
        let attribute = inner.text("attribute");
        let attribute = inner.needed("attribute", attribute, "\"${node.datacenter}\"").unwrap_or_default();
        let weight = inner.whole("weight", 1, 100).unwrap_or(50);
        let targets = targets(&inner);
        inner.finish(&[]);
        Spread { attribute, weight, targets }
    };
    parts.iter().map(one).collect()
}

fn targets(fields: &Fields<'_>) -> Vec<SpreadTarget> {
    let mut targets: Vec<SpreadTarget> = Vec::new();
    for part in fields.blocks("target", 1) {
        let inner = Fields::of(&part, fields, "target", format!("target {:?}", part.label()));
        let percent: Option<u8> = inner.whole("percent", 0, 100);
        let value = inner.text("value").unwrap_or_else(|| part.label().to_owned());
        targets.push(SpreadTarget { value, percent: percent.unwrap_or(0) });
        inner.finish(&[]);
    }
    if targets.iter().map(|target| u32::from(target.percent)).sum::<u32>() > 100 {
        fields.refuse("target", "the targets are more than 100 percent together", "");
    }
    targets
}
