//! The peculiarities of the Go programs of Nex 0.2.x, and nothing else.
//!
//! 1. `location` is a Go `url.URL` struct: its fields appear in JSON under their capitalised Go names.
//! 2. A failed reply carries `"data":""`: an empty byte slice.
//! 3. Members with a Go zero value may be missing, `""` or `null`.
//! 4. Errors have no code: the kind is guessed from the text, so that scripts can decide by it.
//! 5. Maps that are nil are written as `null`.

use moat_model::ErrorKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::deploy::Location;

/// A Go `url.URL`, all fields of it, in Go's order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GoUrl {
    scheme: String,
    opaque: String,
    user: serde_json::Value,
    host: String,
    path: String,
    raw_path: String,
    omit_host: bool,
    force_query: bool,
    raw_query: String,
    fragment: String,
    raw_fragment: String,
}

impl Default for GoUrl {
    fn default() -> Self {
        Self {
            scheme: String::new(),
            opaque: String::new(),
            user: serde_json::Value::Null,
            host: String::new(),
            path: String::new(),
            raw_path: String::new(),
            omit_host: false,
            force_query: false,
            raw_query: String::new(),
            fragment: String::new(),
            raw_fragment: String::new(),
        }
    }
}

/// Writes a location as Go does.
pub(super) fn serialize_location<S: Serializer>(location: &Location, serializer: S) -> Result<S::Ok, S::Error> {
    GoUrl {
        scheme: "nats".to_owned(),
        host: location.bucket().to_owned(),
        path: format!("/{}", location.key()),
        ..GoUrl::default()
    }
    .serialize(serializer)
}

/// Reads a location as Go writes it, or as a plain string.
pub(super) fn deserialize_location<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Location>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Go(Box<GoUrl>),
    }
    let location = match Option::<Either>::deserialize(d)? {
        None => return Ok(None),
        Some(Either::Text(text)) if text.is_empty() => return Ok(None),
        Some(Either::Text(text)) => Location::parse(&text),
        Some(Either::Go(url)) => Location::new(&url.scheme, &url.host, &url.path),
    };
    location.map(Some).map_err(serde::de::Error::custom)
}

/// Reads `null` as the type's default.
pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Reads a missing member, `null` and `""` alike as nothing.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|text| !text.is_empty()))
}

/// Writes nothing as `""`.
pub(super) fn none_is_empty<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_deref().unwrap_or_default())
}

/// The kind of a failure that came without a code, from words the Go node uses.
pub(super) fn kind_of_text(message: &str) -> ErrorKind {
    const WORDS: [(&str, ErrorKind); 9] = [
        ("no such workload", ErrorKind::NotFound),
        ("not found", ErrorKind::NotFound),
        ("lame duck", ErrorKind::Unavailable),
        ("limit", ErrorKind::Exhausted),
        ("agent client from pool", ErrorKind::Exhausted),
        ("unsupported workload type", ErrorKind::Unsupported),
        ("issuer", ErrorKind::Denied),
        ("jwt", ErrorKind::Denied),
        ("decrypt", ErrorKind::InvalidSpec),
    ];
    let text = message.to_ascii_lowercase();
    WORDS.into_iter().find(|(word, _)| text.contains(word)).map_or(ErrorKind::InvalidSpec, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_errors_get_a_kind() {
        assert_eq!(kind_of_text("No such workload"), ErrorKind::NotFound);
        assert_eq!(kind_of_text("Node is in lame duck mode"), ErrorKind::Unavailable);
        assert_eq!(kind_of_text("anything else"), ErrorKind::InvalidSpec);
    }
}
