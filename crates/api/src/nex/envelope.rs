//! What every reply is wrapped in.
//!
//! `{"type", "data"?, "error"?}` is Nex's; `code`, the error's kind, is our addition, which Go ignores.

use moat_model::ErrorKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::WireError;

/// The `type` of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyType {
    /// To AUCTION.
    Auction,
    /// To PING, and to WPING.
    Ping,
    /// To INFO.
    Info,
    /// To DEPLOY.
    Run,
    /// To STOP.
    Stop,
    /// To LAMEDUCK.
    LameDuck,
    /// To our own verbs.
    Sandbox,
    /// To what nodes ask each other about allocations.
    Allocation,
}

impl ReplyType {
    /// Every one.
    pub const ALL: [Self; 8] =
        [Self::Auction, Self::Ping, Self::Info, Self::Run, Self::Stop, Self::LameDuck, Self::Sandbox, Self::Allocation];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auction => "io.nats.nex.v1.auction_response",
            Self::Ping => "io.nats.nex.v1.ping_response",
            Self::Info => "io.nats.nex.v1.info_response",
            Self::Run => "io.nats.nex.v1.run_response",
            Self::Stop => "io.nats.nex.v1.stop_response",
            Self::LameDuck => "io.nats.nex.v1.lameduck_response",
            Self::Sandbox => "io.moat.v1.sandbox_response",
            Self::Allocation => "io.moat.v1.allocation_response",
        }
    }
}

#[derive(Serialize)]
struct Out<'a, T> {
    #[serde(rename = "type")]
    reply_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorKind>,
}

#[derive(Deserialize)]
struct In {
    #[serde(default)]
    data: serde_json::Value,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// Wraps an answer.
pub fn encode<T: Serialize>(reply_type: ReplyType, data: &T) -> Vec<u8> {
    let out = Out { reply_type: reply_type.as_str(), data: Some(data), error: None, code: None };
    serde_json::to_vec(&out).unwrap_or_else(|e| {
        encode_error(reply_type, &WireError::new(ErrorKind::Internal, format!("reply does not serialise: {e}")))
    })
}

/// Wraps a failure.
pub fn encode_error(reply_type: ReplyType, error: &WireError) -> Vec<u8> {
    let out: Out<'_, ()> =
        Out { reply_type: reply_type.as_str(), data: None, error: Some(&error.message), code: Some(error.kind) };
    // Three strings always serialise; an empty reply would be taken for silence by Go.
    serde_json::to_vec(&out).unwrap_or_else(|_| br#"{"error":"internal error"}"#.to_vec())
}

/// Unwraps an answer. The type is not checked: Go mislabels some of its own replies.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let malformed = |e: &dyn std::fmt::Display| {
        WireError::new(ErrorKind::Unavailable, format!("the reply is not what this version understands: {e}"))
    };
    let envelope: In = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
    if let Some(message) = envelope.error {
        let kind = envelope.code.as_deref().and_then(ErrorKind::from_code);
        return Err(WireError { kind: kind.unwrap_or_else(|| super::quirks::kind_of_text(&message)), message });
    }
    serde_json::from_value(envelope.data).map_err(|e| malformed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nex::LameDuckResponse;

    #[test]
    fn failures_keep_the_shape_of_nex_and_carry_a_code() {
        let error = WireError::new(ErrorKind::Denied, "issuer is not on this node's list");
        let bytes = encode_error(ReplyType::Run, &error);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"type":"io.nats.nex.v1.run_response","error":"issuer is not on this node's list","code":"denied"}"#
        );
        assert_eq!(decode::<LameDuckResponse>(&bytes), Err(error));
    }

    #[test]
    fn failures_of_go_nodes_are_read() {
        let go = br#"{"type":"io.nats.nex.v1.run_response","data":"","error":"reason text"}"#;
        assert_eq!(decode::<LameDuckResponse>(go).unwrap_err().message, "reason text");
    }

    #[test]
    fn answers_that_make_no_sense_are_errors() {
        for bytes in [&b""[..], b"{}", b"[]", b"null", br#"{"data":{"node_id":1}}"#] {
            assert!(decode::<LameDuckResponse>(bytes).is_err());
        }
    }

    #[test]
    fn types_are_distinct() {
        let mut all: Vec<_> = ReplyType::ALL.iter().map(|t| t.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), ReplyType::ALL.len());
    }
}
