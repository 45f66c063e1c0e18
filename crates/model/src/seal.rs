//! Sealed environments: only the node they are meant for can read them.
//!
//! The plain text is a compact JSON object of strings; the box is nkeys' `xkv1` (NaCl box between two curve keys), in
//! standard base64. Randomness arrives as an argument.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use nkeys::XKey;
use zeroize::Zeroizing;

/// Longest sealed text read: what the kernel would take as an environment (2 MiB), in base64, with room for the box.
pub const SEALED_LEN_MAX: usize = 3 << 20;

/// Why an environment could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not base64, or longer than any environment.
    #[error("environment is not standard base64 of at most {SEALED_LEN_MAX} bytes")]
    Encoding,
    /// Not a public xkey.
    #[error("{whose} key {key:?} is not a public xkey (X...)")]
    PublicKey {
        /// `sender's` or `node's`.
        whose: &'static str,
        /// As given, cut to a printable length.
        key: String,
    },
    /// The box does not open.
    #[error("environment cannot be decrypted: it was sealed to another node's xkey, by another sender, or changed")]
    Decrypt,
    /// The key pair holds no seed.
    #[error("the sender's xkey is public only: sealing needs its seed (SX...)")]
    Unsealable,
    /// The plain text is not an object of strings.
    #[error("decrypted environment is not a JSON object of strings")]
    Content,
    /// A name or value that no process could be given.
    #[error("environment variable {name:?}: {rule}")]
    Variable {
        /// Its name, cut to a printable length.
        name: String,
        /// What would be accepted.
        rule: &'static str,
    },
}

/// Opens a sealed environment. JSON `null` is an empty one: that is what Go writes for a nil map.
pub fn open(sealed: &str, node: &XKey, sender_public: &str) -> Result<BTreeMap<String, String>, SealError> {
    if sealed.len() > SEALED_LEN_MAX {
        return Err(SealError::Encoding);
    }
    let bytes = BASE64.decode(sealed.as_bytes()).map_err(|_| SealError::Encoding)?;
    let sender = public_key("sender's", sender_public)?;
    let plain = Zeroizing::new(node.open(&bytes, &sender).map_err(|_| SealError::Decrypt)?);
    let environment: Option<BTreeMap<String, String>> =
        serde_json::from_slice(&plain).map_err(|_| SealError::Content)?;
    let environment = environment.unwrap_or_default();
    check(&environment)?;
    Ok(environment)
}

/// Seals an environment from `sender` to a node. A nonce must never be used twice with the same pair of keys: 24 random
/// bytes.
pub fn seal(
    environment: &BTreeMap<String, String>,
    sender: &XKey,
    node_public: &str,
    nonce: [u8; 24],
) -> Result<String, SealError> {
    check(environment)?;
    let node = public_key("node's", node_public)?;
    let plain = Zeroizing::new(serde_json::to_vec(environment).map_err(|_| SealError::Content)?);
    let sealed = sender.seal_with_nonce(&plain, &node, nonce.into()).map_err(|_| SealError::Unsealable)?;
    Ok(BASE64.encode(&sealed))
}

fn public_key(whose: &'static str, key: &str) -> Result<XKey, SealError> {
    XKey::from_public_key(key).map_err(|_| SealError::PublicKey { whose, key: key.chars().take(80).collect() })
}

fn check(environment: &BTreeMap<String, String>) -> Result<(), SealError> {
    for (name, value) in environment {
        let rule = if name.is_empty() || name.contains(['=', '\0']) {
            "a name is not empty and holds neither '=' nor a zero byte"
        } else if value.contains('\0') {
            "a value holds no zero byte"
        } else {
            continue;
        };
        return Err(SealError::Variable { name: name.chars().take(80).collect(), rule });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // specs A.5: fixed keys for tests, the box checked against the Go library's format.
    const SENDER_SEED: &str = "SXAACAQDAQCQMBYIBEFAWDANBYHRAEISCMKBKFQXDAMRUGY4DUPB6IC6WE";
    const SENDER: &str = "XAD2G7F4CQQJHSFXKXOBWEHINS2CMN2K2FVKQU7NBPP4BMVYNUOHZWPX";
    const NODE_SEED: &str = "SXAGKZTHNBUWU23MNVXG64DROJZXI5LWO54HS6T3PR6X474AQGBIHBH67I";
    const NODE: &str = "XBLRI5U5CFV7OZBWVZ2LY6J5FQYK2GIDYWNMKJZYAXD6E2MLIEGDMZ4H";
    const SEALED: &str = "eGt2MQABAgMEBQYHCAkKCwwNDg8QERITFBUWF8NjHjhSOM7GvDANKdakIRhxc083EbvLwv7yf3GWMljgdxxg+9320boKdHTCghtsdzORUSmNkx1qaTJFLelInBV7WWs=";

    fn environment() -> BTreeMap<String, String> {
        [("NATS_URL", "nats://192.0.2.10:4222"), ("TIER", "gold")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    fn keys() -> (XKey, XKey) {
        (XKey::from_seed(SENDER_SEED).unwrap(), XKey::from_seed(NODE_SEED).unwrap())
    }

    #[test]
    fn the_vector_is_made_and_opened_byte_for_byte() {
        let (sender, node) = keys();
        assert_eq!((sender.public_key().as_str(), node.public_key().as_str()), (SENDER, NODE));
        let nonce: [u8; 24] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(seal(&environment(), &sender, NODE, nonce).unwrap(), SEALED);
        assert_eq!(open(SEALED, &node, SENDER).unwrap(), environment());
    }

    #[test]
    fn an_empty_environment_comes_as_null_or_as_an_object() {
        let (sender, node) = keys();
        for plain in ["null", "{}"] {
            let sealed = BASE64.encode(&sender.seal(plain.as_bytes(), &node).unwrap());
            assert_eq!(open(&sealed, &node, SENDER), Ok(BTreeMap::new()), "{plain}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let (sender, node) = keys();
        let other = XKey::new();
        assert_eq!(open(SEALED, &other, SENDER), Err(SealError::Decrypt));
        assert_eq!(open(SEALED, &node, &other.public_key()), Err(SealError::Decrypt));
        assert_eq!(open("", &node, SENDER), Err(SealError::Decrypt));
        assert_eq!(open("%%%", &node, SENDER), Err(SealError::Encoding));
        assert!(matches!(open(SEALED, &node, "nobody"), Err(SealError::PublicKey { whose: "sender's", .. })));
        for plain in ["[]", r#"{"a":1}"#, "gold"] {
            let sealed = BASE64.encode(&sender.seal(plain.as_bytes(), &node).unwrap());
            assert_eq!(open(&sealed, &node, SENDER), Err(SealError::Content), "{plain}");
        }
    }

    #[test]
    fn impossible_variables_are_refused_on_both_sides() {
        let (sender, node) = keys();
        for (name, value) in [("", "x"), ("a=b", "x"), ("a", "\0")] {
            let bad = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(matches!(seal(&bad, &sender, NODE, [0; 24]), Err(SealError::Variable { .. })), "{name}");
            let sealed = BASE64.encode(&sender.seal(&serde_json::to_vec(&bad).unwrap(), &node).unwrap());
            assert!(matches!(open(&sealed, &node, SENDER), Err(SealError::Variable { .. })), "{name}");
        }
    }
}
