//! Signed claims: NATS JWT version 2 generic claims.
//!
//! Whoever starts, stops or enters a workload signs a token with an nkey. The token's subject is the workload's name, its
//! issuer the public half of the key, and the signature covers the ASCII text `header.payload`. Written by hand because
//! the whole of it is these lines, and because a verifier should be readable.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512_256};

use crate::id::InvalidId;
use crate::{Timestamp, WorkloadName};

/// Longest token read. A token with every member set is under 2 KiB; the rest is room for `extra`.
pub const TOKEN_LEN_MAX: usize = 16 << 10;

const ALGORITHM: &str = "ed25519-nkey";

/// Why a token is not accepted, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not three chunks of base64url holding JSON.
    #[error("claims token is not a NATS JWT: {what}")]
    Malformed {
        /// The part at fault.
        what: String,
    },
    /// The header names another type or algorithm.
    #[error("claims token header must be typ \"JWT\", alg \"ed25519-nkey\", not typ {typ:?}, alg {alg:?}")]
    Header {
        /// As given.
        typ: String,
        /// As given.
        alg: String,
    },
    /// `iss` is not a public nkey.
    #[error("claims token issuer {issuer:?} is not a public nkey")]
    Issuer {
        /// As given, cut to a printable length.
        issuer: String,
    },
    /// The signature does not belong to header, payload and issuer.
    #[error("claims token signature does not match its issuer")]
    Signature,
    /// `sub` breaks the rule of workload names.
    #[error("claims token subject: {0}")]
    Subject(InvalidId),
    /// `exp` has passed.
    #[error("claims token expired {ago_secs} s ago: sign a new one, or compare the clocks")]
    Expired {
        /// How long ago.
        ago_secs: i64,
    },
    /// `nbf` is still to come.
    #[error("claims token is not valid for another {in_secs} s: compare the clocks")]
    NotYetValid {
        /// How far away.
        in_secs: i64,
    },
    /// The key pair holds no seed.
    #[error("the issuer's key is public only: signing needs its seed (S...)")]
    Unsignable,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: name of the workload.
    pub subject: WorkloadName,
    /// `iss`: public nkey of the signer.
    pub issuer: String,
    /// `iat`, Unix seconds.
    pub issued_at: i64,
    /// `jti`: what tells one token from another.
    pub id: String,
    /// `nats.hash`: what the caller says the artifact's checksum is. Enforced only if it looks like one: the `nex`
    /// command line sends a fixed placeholder.
    pub hash: Option<String>,
    /// `exp`, Unix seconds.
    pub expires: Option<i64>,
    /// `nbf`, Unix seconds.
    pub not_before: Option<i64>,
    /// The other members of `nats`.
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Claims {
    /// The artifact's SHA-256 in lower case, if the hash claim is 64 hex digits; anything else promises nothing.
    pub fn sha256(&self) -> Option<String> {
        let hash = self.hash.as_deref()?;
        (hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit())).then(|| hash.to_ascii_lowercase())
    }
}

/// What to put into a token; the issuer is the key that signs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimsSpec {
    /// Name of the workload.
    pub subject: WorkloadName,
    /// Unix seconds.
    pub issued_at: i64,
    /// Checksum of the artifact, if there is one to name.
    pub hash: Option<String>,
    /// Unix seconds.
    pub expires: Option<i64>,
    /// Goes into `name`, the one standard member that is free: two tokens of the same second then differ in their `jti`.
    pub nonce: Option<String>,
}

impl ClaimsSpec {
    /// Claims about `subject`, issued at `now`, with nothing else in them.
    pub fn new(subject: WorkloadName, now: Timestamp) -> Self {
        Self { subject, issued_at: now.as_secs(), hash: None, expires: None, nonce: None }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
}

/// Members in the order the Go library writes them: `jti` is a digest over this very text.
#[derive(Serialize, Deserialize)]
struct Payload {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    aud: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    exp: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    jti: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    iat: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    nbf: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nats: Option<NatsPart>,
}

#[derive(Serialize, Deserialize)]
struct NatsPart {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(flatten)]
    extra: BTreeMap<String, serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Signs claims. The `jti` is the unpadded base32 of SHA-512/256 over the standard members.
pub fn sign(issuer: &KeyPair, spec: &ClaimsSpec) -> Result<String, ClaimsError> {
    let malformed = |e: serde_json::Error| ClaimsError::Malformed { what: e.to_string() };
    let mut payload = Payload {
        aud: String::new(),
        exp: spec.expires.unwrap_or(0),
        jti: String::new(),
        iat: spec.issued_at,
        iss: issuer.public_key(),
        name: spec.nonce.clone().unwrap_or_default(),
        nbf: 0,
        sub: spec.subject.to_string(),
        nats: None,
    };
    payload.jti = BASE32_NOPAD.encode(&Sha512_256::digest(serde_json::to_vec(&payload).map_err(malformed)?));
    payload.nats = Some(NatsPart { hash: spec.hash.clone(), version: Some(2), extra: BTreeMap::new() });

    let header = Header { typ: "JWT".to_owned(), alg: ALGORITHM.to_owned() };
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(&serde_json::to_vec(&header).map_err(malformed)?),
        BASE64URL_NOPAD.encode(&serde_json::to_vec(&payload).map_err(malformed)?),
    );
    let signature = issuer.sign(signed.as_bytes()).map_err(|_| ClaimsError::Unsignable)?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// Reads a token and checks all that can be checked from it alone: form, header, signature, subject, `exp` and `nbf`.
/// Whether its issuer may do what is asked is the caller's question.
pub fn decode_and_verify(token: &str, now: Timestamp) -> Result<Claims, ClaimsError> {
    let malformed = |what: &str| ClaimsError::Malformed { what: what.to_owned() };
    if token.len() > TOKEN_LEN_MAX {
        return Err(malformed("longer than 16 KiB"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or_else(|| malformed("not three chunks"))?;
    let (header, payload) = signed.split_once('.').ok_or_else(|| malformed("not three chunks"))?;

    let header: Header = decode_chunk("header", header)?;
    if !header.typ.eq_ignore_ascii_case("JWT") || !header.alg.eq_ignore_ascii_case(ALGORITHM) {
        return Err(ClaimsError::Header { typ: header.typ, alg: header.alg });
    }
    let payload: Payload = decode_chunk("payload", payload)?;
    let signature =
        BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| malformed("signature is not base64url"))?;
    let key = KeyPair::from_public_key(&payload.iss)
        .map_err(|_| ClaimsError::Issuer { issuer: payload.iss.chars().take(80).collect() })?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| ClaimsError::Signature)?;

    // Everything below was signed; nothing above may be reported as a fact about the issuer.
    let subject = WorkloadName::parse(&payload.sub).map_err(ClaimsError::Subject)?;
    let now = now.as_secs();
    if payload.exp != 0 && now > payload.exp {
        return Err(ClaimsError::Expired { ago_secs: now.saturating_sub(payload.exp) });
    }
    if payload.nbf != 0 && now < payload.nbf {
        return Err(ClaimsError::NotYetValid { in_secs: payload.nbf.saturating_sub(now) });
    }
    let (hash, extra) = payload.nats.map(|n| (n.hash, n.extra)).unwrap_or_default();
    Ok(Claims {
        subject,
        issuer: payload.iss,
        issued_at: payload.iat,
        id: payload.jti,
        hash,
        expires: (payload.exp != 0).then_some(payload.exp),
        not_before: (payload.nbf != 0).then_some(payload.nbf),
        extra,
    })
}

fn decode_chunk<T: serde::de::DeserializeOwned>(part: &str, chunk: &str) -> Result<T, ClaimsError> {
    let bytes = BASE64URL_NOPAD
        .decode(chunk.as_bytes())
        .map_err(|_| ClaimsError::Malformed { what: format!("{part} is not base64url") })?;
    serde_json::from_slice(&bytes).map_err(|e| ClaimsError::Malformed { what: format!("{part}: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    // specs A.5: fixed keys for tests, the token checked against the Go library's shape.
    const SEED: &str = "SAAMTSWLZTG45T6Q2HJNHVGV23L5RWO23PON3XW74DQ6FY7E4XTOP2CE7A";
    const PUBLIC: &str = "ACT7Z5645VKTDVNMHBOMPPNBUTVX2AGWESFH7D55RW5535Z2EHJKAUQZ";
    const JTI: &str = "M7L3L2XGBEVJ5M2QBXGVHFAMJLMYHDBQBZPFCPLFFOSKMNYP4E5Q";
    const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJNN0wzTDJYR0JFVko1TTJRQlhHVkhGQU1KTE1ZSERCUUJaUEZDUExGRk9TS01OWVA0RTVRIiwiaWF0IjoxNzIwMDAwMDAwLCJpc3MiOiJBQ1Q3WjU2NDVWS1REVk5NSEJPTVBQTkJVVFZYMkFHV0VTRkg3RDU1Ulc1NTM1WjJFSEpLQVVRWiIsInN1YiI6ImJpbGxpbmdfYXBpIiwibmF0cyI6eyJoYXNoIjoiZGVtbyIsInZlcnNpb24iOjJ9fQ.EDO8e_wbFo1YwFDWjC9Lke6pZLnzUf3Qyq3lRVaKRyHwhPKRJFDuYorloM3DwUJfiLzUuzaCPAPyNJvrWy68Dw";
    const NOW: Timestamp = Timestamp::from_millis(1_720_000_000_000);

    fn spec() -> ClaimsSpec {
        ClaimsSpec {
            hash: Some("demo".to_owned()),
            ..ClaimsSpec::new(WorkloadName::parse("billing_api").unwrap(), NOW)
        }
    }

    fn key() -> KeyPair {
        KeyPair::from_seed(SEED).unwrap()
    }

    #[test]
    fn the_vector_is_made_and_read_byte_for_byte() {
        assert_eq!(key().public_key(), PUBLIC);
        assert_eq!(sign(&key(), &spec()).unwrap(), TOKEN);
        let claims = decode_and_verify(TOKEN, NOW).unwrap();
        assert_eq!(claims.id, JTI);
        assert_eq!(claims.issuer, PUBLIC);
        assert_eq!(claims.subject.as_str(), "billing_api");
        assert_eq!(claims.issued_at, 1_720_000_000);
        assert_eq!(claims.hash.as_deref(), Some("demo"));
        assert_eq!(claims.sha256(), None, "a placeholder promises nothing");
        assert!(claims.extra.is_empty() && claims.expires.is_none());
    }

    #[test]
    fn every_changed_character_is_noticed() {
        for at in 0..TOKEN.len() {
            let mut bytes = TOKEN.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(decode_and_verify(&changed, NOW).is_err(), "character {at}");
        }
    }

    fn with_header(typ: &str, alg: &str) -> String {
        let header = BASE64URL_NOPAD.encode(format!(r#"{{"typ":"{typ}","alg":"{alg}"}}"#).as_bytes());
        let payload = TOKEN.split('.').nth(1).unwrap();
        let signature = key().sign(format!("{header}.{payload}").as_bytes()).unwrap();
        format!("{header}.{payload}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    #[test]
    fn another_algorithm_is_refused_even_if_signed() {
        assert!(decode_and_verify(&with_header("JWT", "ed25519-nkey"), NOW).is_ok());
        for (typ, alg) in [("JWT", "none"), ("JWT", "ed25519"), ("JWE", "ed25519-nkey")] {
            assert!(matches!(decode_and_verify(&with_header(typ, alg), NOW), Err(ClaimsError::Header { .. })), "{alg}");
        }
    }

    fn with_payload(json: &str) -> String {
        let header = TOKEN.split('.').next().unwrap();
        let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(json.as_bytes()));
        let signature = key().sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    #[test]
    fn subject_and_times_are_checked() {
        let payload = |rest: &str| with_payload(&format!(r#"{{"iss":"{PUBLIC}",{rest}}}"#));
        let read = |rest: &str| decode_and_verify(&payload(rest), NOW);
        assert!(matches!(read(r#""sub":"a.b""#), Err(ClaimsError::Subject(_))));
        assert!(matches!(read(r#""iat":1"#), Err(ClaimsError::Subject(_))));
        assert_eq!(read(r#""sub":"a","exp":1719999990"#), Err(ClaimsError::Expired { ago_secs: 10 }));
        assert!(read(r#""sub":"a","exp":1720000000"#).is_ok());
        assert_eq!(read(r#""sub":"a","nbf":1720000007"#), Err(ClaimsError::NotYetValid { in_secs: 7 }));
        let stop = read(r#""sub":"a","nats":{"version":2,"why":"x"}"#).unwrap();
        assert_eq!((stop.hash, stop.extra.len()), (None, 1));
    }

    #[test]
    fn nonsense_is_an_error_with_a_reason() {
        let other = KeyPair::new_account().public_key();
        for bad in ["", ".", "..", "a.b.c", "not a token", &"a".repeat(TOKEN_LEN_MAX + 1)] {
            assert!(matches!(decode_and_verify(bad, NOW), Err(ClaimsError::Malformed { .. })), "{bad}");
        }
        let foreign = with_payload(&format!(r#"{{"iss":"{other}","sub":"a"}}"#));
        assert_eq!(decode_and_verify(&foreign, NOW), Err(ClaimsError::Signature));
        let nobody = with_payload(r#"{"iss":"me","sub":"a"}"#);
        assert!(matches!(decode_and_verify(&nobody, NOW), Err(ClaimsError::Issuer { .. })));
        let public = KeyPair::from_public_key(PUBLIC).unwrap();
        assert_eq!(sign(&public, &spec()), Err(ClaimsError::Unsignable));
    }

    #[test]
    fn a_nonce_tells_tokens_of_one_second_apart() {
        let token = |nonce: &str| sign(&key(), &ClaimsSpec { nonce: Some(nonce.to_owned()), ..spec() }).unwrap();
        let id = |token: &str| decode_and_verify(token, NOW).unwrap().id;
        assert_ne!(id(&token("a")), id(&token("b")));
        assert_eq!(id(&token("a")), id(&token("a")));
    }

    #[test]
    fn only_a_real_checksum_counts() {
        let hash = "AB".repeat(32);
        let token = sign(&key(), &ClaimsSpec { hash: Some(hash.clone()), ..spec() }).unwrap();
        assert_eq!(decode_and_verify(&token, NOW).unwrap().sha256(), Some(hash.to_lowercase()));
    }
}
