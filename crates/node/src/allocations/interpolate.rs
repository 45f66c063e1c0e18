//! `${…}` in the texts of a job, replaced on the node. What is unknown stays as it was written.

use std::collections::BTreeMap;

use moat_model::job::NodeFacts;

/// What `${…}` may stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    /// The node's `attr`, `meta` and `node`.
    pub facts: &'a NodeFacts,
    /// The task's environment, as far as it is known: `NOMAD_…` and `env["…"]`.
    pub env: &'a BTreeMap<String, String>,
}

impl Names<'_> {
    /// The text with everything known replaced. What was put in is not looked at again.
    pub(super) fn replaced(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let Some(end) = from.find('}') else {
                out.push_str(from);
                return out;
            };
            let (whole, after) = from.split_at(end + 1);
            let name = whole.trim_start_matches("${").trim_end_matches('}');
            match self.value(name.trim()) {
                Some(value) => out.push_str(&value),
                None => out.push_str(whole),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn value(&self, name: &str) -> Option<String> {
        let facts = self.facts;
        if let Some(key) = name.strip_prefix("env[").and_then(|n| n.strip_suffix(']')) {
            return self.env.get(key.trim_matches('"')).cloned();
        }
        if let Some(attribute) = name.strip_prefix("attr.") {
            return facts.attributes.get(attribute).cloned();
        }
        if let Some(key) = name.strip_prefix("meta.") {
            return facts.meta.get(key).cloned();
        }
        match name {
            "node.unique.id" => Some(facts.id.to_string()),
            "node.unique.name" => Some(facts.name.clone()),
            "node.datacenter" => Some(facts.datacenter.clone()),
            "node.region" => Some(facts.region.clone()),
            "node.class" => Some(facts.class.clone()),
            "node.pool" => Some(facts.pool.clone()),
            other => self.env.get(other).cloned(),
        }
    }
}
