//! Which sandboxes a list shows, page by page.

use std::collections::{BTreeMap, BTreeSet};

use moat_api::rest::sandbox::{ListSandboxes, Sandbox, SandboxList};
use moat_model::lifecycle::PhaseName;
use moat_model::{Namespace, SandboxId};

use crate::error::{Error, Result};

use super::Sandboxes;

/// Entries of a page if nothing is said, and at most.
const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

const PHASES: [PhaseName; 9] = [
    PhaseName::Pending,
    PhaseName::Preparing,
    PhaseName::Starting,
    PhaseName::Running,
    PhaseName::Paused,
    PhaseName::Stopping,
    PhaseName::Recovering,
    PhaseName::Stopped,
    PhaseName::Failed,
];

/// A query, checked.
#[derive(Debug)]
struct Filter {
    states: BTreeSet<&'static str>,
    template: Option<String>,
    metadata: BTreeMap<String, String>,
    limit: usize,
    after: Option<SandboxId>,
}

impl Filter {
    fn read(query: &ListSandboxes) -> Result<Self> {
        let limit = query.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Error::invalid("limit", format!("{limit}: must lie within 1 and {PAGE_MAX}")));
        }
        let after = query.after.as_deref().map(SandboxId::parse).transpose();
        Ok(Self {
            states: states(query.state.as_deref())?,
            template: query.template.clone(),
            metadata: pairs(query.metadata.as_deref())?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            after: after.map_err(|e| Error::invalid("after", e))?,
        })
    }

    fn takes(&self, sandbox: &Sandbox) -> bool {
        self.states.contains(sandbox.state.as_str())
            && self.template.as_ref().is_none_or(|wanted| sandbox.template.as_ref() == Some(wanted))
            && self.metadata.iter().all(|(key, value)| sandbox.metadata.get(key) == Some(value))
    }
}

fn states(text: Option<&str>) -> Result<BTreeSet<&'static str>> {
    let Some(text) = text else {
        return Ok(PHASES.into_iter().filter(|p| !p.is_terminal()).map(PhaseName::as_str).collect());
    };
    let known = |word: &str| {
        let found = PHASES.into_iter().map(PhaseName::as_str).find(|p| *p == word.trim());
        found.ok_or_else(|| {
            let shown: String = word.chars().take(40).collect();
            let all: Vec<&str> = PHASES.into_iter().map(PhaseName::as_str).collect();
            Error::invalid("state", format!("{shown:?} is none of {}", all.join(", ")))
        })
    };
    text.split(',').map(known).collect()
}

fn pairs(text: Option<&str>) -> Result<BTreeMap<String, String>> {
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::invalid("metadata", "must be key=value pairs separated by commas")),
    };
    text.filter(|t| !t.is_empty()).map_or_else(|| Ok(BTreeMap::new()), |text| text.split(',').map(pair).collect())
}

impl Sandboxes {
    /// A page.
    pub fn list(&self, namespace: &Namespace, query: &ListSandboxes) -> Result<SandboxList> {
        let filter = Filter::read(query)?;
        let ended = filter.states.iter().any(|s| ["stopped", "failed"].contains(s));
        let mut found: BTreeMap<SandboxId, Sandbox> = BTreeMap::new();
        if ended {
            found.extend(self.shared.history.of(namespace));
        }
        // One that is being forgotten is in both; what is remembered of it is the last word, but both say the same.
        found.extend(self.living(namespace));
        let mut page = Vec::new();
        let mut more = false;
        for (id, sandbox) in found {
            if filter.after.as_ref().is_some_and(|after| id <= *after) || !filter.takes(&sandbox) {
                continue;
            }
            if page.len() == filter.limit {
                more = true;
                break;
            }
            page.push(sandbox);
        }
        let next = page.last().filter(|_| more).map(|s| s.id.clone());
        Ok(SandboxList { sandboxes: page, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_checked() {
        let no = ListSandboxes::default;
        assert!(!Filter::read(&no()).unwrap().states.contains("stopped"));
        let both = Filter::read(&ListSandboxes { state: Some("running,stopped".to_owned()), ..no() }).unwrap();
        assert_eq!(both.states.len(), 2);
        let labels = Filter::read(&ListSandboxes { metadata: Some("a=b,c=d=e".to_owned()), ..no() }).unwrap();
        assert_eq!(labels.metadata["c"], "d=e");
        for (bad, field) in [
            (ListSandboxes { limit: Some(0), ..no() }, "limit"),
            (ListSandboxes { limit: Some(1001), ..no() }, "limit"),
            (ListSandboxes { state: Some("Running".to_owned()), ..no() }, "state"),
            (ListSandboxes { metadata: Some("a".to_owned()), ..no() }, "metadata"),
            (ListSandboxes { after: Some("../x".to_owned()), ..no() }, "after"),
        ] {
            let refusal = Filter::read(&bad).unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{field}: ")), "{refusal}");
        }
    }
}
