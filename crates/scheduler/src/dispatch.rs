//! Starting a parameterized job: what comes along is checked, and a child is made of both.

use std::collections::BTreeMap;

use moat_model::job::{Job, Payload};
use moat_model::{JobId, Timestamp};

/// Most bytes of a payload, Nomad's bound: it is kept in the job's own record.
pub const PAYLOAD_MAX: usize = 16 * 1024;

/// Why a dispatch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The job takes none.
    #[error("job {0} is not parameterized: only a job with a parameterized block can be dispatched")]
    NotParameterized(JobId),
    /// A payload that may not, or has to, come along.
    #[error("{0}")]
    Payload(String),
    /// Meta that may not, or has to, come along.
    #[error("{0}")]
    Meta(String),
    /// The child would have no valid name.
    #[error("a child of job {parent} cannot be named: {reason}")]
    Name {
        /// Whose child.
        parent: JobId,
        /// Why not.
        reason: String,
    },
}

/// What comes along with a dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dispatch {
    /// Base64.
    pub payload: Option<String>,
    /// Values for the keys the job names.
    pub meta: BTreeMap<String, String>,
}

/// The child that is started. `random` makes its name its own.
pub fn dispatch(parent: &Job, with: &Dispatch, at: Timestamp, random: [u8; 4]) -> Result<Job, DispatchError> {
    let Some(rules) = &parent.parameterized else {
        return Err(DispatchError::NotParameterized(parent.id.clone()));
    };
    check_payload(rules.payload, with.payload.as_deref())?;
    let known = |key: &String| rules.meta_required.contains(key) || rules.meta_optional.contains(key);
    if let Some(key) = with.meta.keys().find(|key| !known(key)) {
        let all: Vec<_> = rules.meta_required.iter().chain(&rules.meta_optional).map(String::as_str).collect();
        let message = format!("meta {key:?} is not one that job {} takes; it takes [{}]", parent.id, all.join(", "));
        return Err(DispatchError::Meta(message));
    }
    if let Some(key) = rules.meta_required.iter().find(|key| !with.meta.contains_key(*key)) {
        return Err(DispatchError::Meta(format!("meta {key:?} is required by job {} and missing", parent.id)));
    }
    let random = u32::from_be_bytes(random);
    let id = JobId::parse(&format!("{}/dispatch-{}-{random:08x}", parent.id, at.as_secs()))
        .map_err(|error| DispatchError::Name { parent: parent.id.clone(), reason: error.to_string() })?;
    let mut child = parent.clone();
    child.name = id.to_string();
    child.id = id;
    child.parent = Some(parent.id.clone());
    child.parameterized = None;
    child.payload.clone_from(&with.payload);
    child.meta.extend(with.meta.iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(child)
}

fn check_payload(rule: Payload, payload: Option<&str>) -> Result<(), DispatchError> {
    let refuse = |message: String| Err(DispatchError::Payload(message));
    match (rule, payload) {
        (Payload::Forbidden, Some(_)) => refuse("a payload came along, and the job forbids one".to_owned()),
        (Payload::Required, None) => refuse("no payload came along, and the job requires one".to_owned()),
        (_, None) => Ok(()),
        (_, Some(text)) => {
            // Every four characters are three bytes, up to two of them padding.
            let bytes = text.len() / 4 * 3
                - text.bytes().rev().take(2).filter(|byte| *byte == b'=').count().min(text.len() / 4);
            let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
            if text.len() % 4 != 0 || !text.bytes().all(alphabet) {
                return refuse("the payload is not base64 with padding".to_owned());
            }
            if bytes > PAYLOAD_MAX {
                return refuse(format!("the payload has {bytes} bytes, and {PAYLOAD_MAX} is the most"));
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use moat_model::job::{JobType, Parameterized};

    use super::*;
    use crate::testing::job;

    const NOW: Timestamp = Timestamp::from_millis(7_000);

    fn parent(payload: Payload) -> Job {
        let keys = |key: &str| vec![key.to_owned()];
        let rules = Parameterized { payload, meta_required: keys("who"), meta_optional: keys("how") };
        Job { parameterized: Some(rules), ..job("hello", JobType::Batch, 1) }
    }

    fn with(payload: Option<&str>, meta: &[(&str, &str)]) -> Dispatch {
        let meta = meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Dispatch { payload: payload.map(str::to_owned), meta }
    }

    #[test]
    fn a_child_is_the_parent_with_what_came_along() {
        let given = dispatch(&parent(Payload::Optional), &with(Some("aGk="), &[("who", "you")]), NOW, [0, 0, 1, 255]);
        let child = given.unwrap();
        assert_eq!(child.id.as_str(), "hello/dispatch-7-000001ff");
        assert_eq!((child.parent.unwrap().as_str(), child.payload.as_deref()), ("hello", Some("aGk=")));
        assert_eq!((child.parameterized, child.meta["who"].as_str()), (None, "you"));
    }

    #[test]
    fn what_does_not_fit_the_rules_is_refused_by_name() {
        let long = "AAAA".repeat(PAYLOAD_MAX / 3 + 1);
        let who = [("who", "you")];
        let table = [
            (Payload::Forbidden, with(Some("aGk="), &who), "forbids one"),
            (Payload::Required, with(None, &who), "requires one"),
            (Payload::Optional, with(Some("?"), &who), "not base64"),
            (Payload::Optional, with(Some(&long), &who), "is the most"),
            (Payload::Optional, with(None, &[]), "\"who\" is required"),
            (Payload::Optional, with(None, &[("who", "a"), ("why", "b")]), "\"why\" is not one"),
        ];
        for (rule, with, expected) in table {
            let refused = dispatch(&parent(rule), &with, NOW, [0; 4]).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        let refused = dispatch(&job("plain", JobType::Batch, 1), &with(None, &[]), NOW, [0; 4]);
        assert!(matches!(refused, Err(DispatchError::NotParameterized(_))));
    }
}
