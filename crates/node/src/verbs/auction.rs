//! Whether this node could run what an auction asks for.

use std::collections::BTreeMap;

use moat_api::nex::{AuctionRequest, tags};

/// What this node has.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) tags: &'a BTreeMap<String, String>,
    pub(super) workload_types: &'a [String],
    pub(super) sandboxed: bool,
}

/// Every member of the request that is there must hold. Lame duck does not matter here: only the tag tells of it.
pub(super) fn matches(request: &AuctionRequest, offer: &Offer<'_>) -> bool {
    let tag = |name: &str, wanted: &str| offer.tags.get(name).is_some_and(|have| have.eq_ignore_ascii_case(wanted));
    let wanted =
        |value: &Option<String>, name: &str| value.as_deref().filter(|v| !v.is_empty()).is_none_or(|v| tag(name, v));
    wanted(&request.arch, tags::ARCH)
        && wanted(&request.os, tags::OS)
        && request.sandboxed.is_none_or(|s| s == offer.sandboxed)
        && request.tags.iter().all(|(name, value)| tag(name, value))
        && request.workload_types.iter().all(|t| offer.workload_types.contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_narrows() {
        let tags: BTreeMap<String, String> = [("nex.os", "linux"), ("nex.arch", "amd64"), ("zone", "Eu")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let offer = Offer { tags: &tags, workload_types: &["native".to_owned()], sandboxed: true };
        for (text, expected) in [
            ("{}", true),
            (r#"{"arch":"AMD64","os":"linux","workload_types":["native"]}"#, true),
            (r#"{"arch":""}"#, true),
            (r#"{"arch":"arm64"}"#, false),
            (r#"{"os":"windows"}"#, false),
            (r#"{"sandboxed":true}"#, true),
            (r#"{"sandboxed":false}"#, false),
            (r#"{"tags":{"zone":"eu"}}"#, true),
            (r#"{"tags":{"zone":"us"}}"#, false),
            (r#"{"tags":{"rack":"1"}}"#, false),
            (r#"{"tags":null}"#, true),
            (r#"{"workload_types":["native","v8"]}"#, false),
        ] {
            let request: AuctionRequest = serde_json::from_str(text).unwrap();
            assert_eq!(matches(&request, &offer), expected, "{text}");
        }
    }
}
