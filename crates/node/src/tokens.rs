//! Tokens of sandboxes for the HTTP proxy: whoever has one reaches the ports of that sandbox, and of no other.
//!
//! A token is a MAC of the sandbox's id under a secret of the node, so nothing is kept for each, and tokens stay valid when
//! the daemon is killed or the machine restarted. Removing the secret's file makes all of them void.

use std::path::Path;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use moat_model::{ErrorKind, SandboxId};
use ring::hmac;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::identity::{read_seed, write_seed};

/// Name of the file with the secret, in hex.
const FILE: &str = "proxy.key";
/// What the MAC is about, so that the secret could serve another purpose without one's tokens being the other's.
const PURPOSE: &[u8] = b"moat proxy token 1\n";

/// Makes and checks tokens.
pub struct Tokens {
    key: hmac::Key,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Reads the secret below `dir`, which only the daemon's user may enter, or makes it. Blocking.
    pub fn load_or_create(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let secret = match read_seed(&path)? {
            Some(text) => Zeroizing::new(HEXLOWER.decode(text.as_bytes()).unwrap_or_default()),
            None => {
                let secret = Zeroizing::new(rand::random::<[u8; 32]>().to_vec());
                write_seed(&path, &Zeroizing::new(HEXLOWER.encode(&secret)))?;
                secret
            }
        };
        if secret.len() != 32 {
            let what = format!("{}: not 64 hex digits; remove the file to get a new secret", path.display());
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) })
    }

    /// The token of a sandbox.
    pub fn of(&self, id: &SandboxId) -> String {
        BASE64URL_NOPAD.encode(hmac::sign(&self.key, &message(id)).as_ref())
    }

    /// Whether this is the token of the sandbox; takes as long for a near miss as for a wild guess.
    pub fn fits(&self, id: &SandboxId, given: &[u8]) -> bool {
        // Decoding takes time by length alone, and the length is no secret.
        BASE64URL_NOPAD.decode(given).is_ok_and(|tag| hmac::verify(&self.key, &message(id), &tag).is_ok())
    }
}

fn message(id: &SandboxId) -> Vec<u8> {
    [PURPOSE, id.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn id(n: u8) -> SandboxId {
        SandboxId::from_parts(moat_model::Timestamp::default(), [n; 10])
    }

    #[test]
    fn a_token_is_one_sandboxes_and_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::load_or_create(dir.path()).unwrap();
        let token = tokens.of(&id(1));
        assert_eq!(token.len(), 43);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let later = Tokens::load_or_create(dir.path()).unwrap();
        assert!(later.fits(&id(1), token.as_bytes()));
        assert!(!later.fits(&id(2), token.as_bytes()));
        for bad in ["", "a", &token[1..], &format!("{token}="), &token.to_uppercase(), &"A".repeat(43)] {
            assert!(!later.fits(&id(1), bad.as_bytes()), "{bad}");
        }
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert!(!Tokens::load_or_create(other.path()).unwrap().fits(&id(1), token.as_bytes()));
    }

    #[test]
    fn a_broken_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_seed(&dir.path().join(FILE), "abc").unwrap();
        assert!(Tokens::load_or_create(dir.path()).unwrap_err().to_string().contains("remove the file"));
    }
}
