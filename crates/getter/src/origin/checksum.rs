//! Checksums: how they are written, and how they are taken.

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::error::{FetchError, FetchErrorKind};

/// A digest that bytes must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    /// How it is taken.
    pub algorithm: Algorithm,
    /// What it must be.
    pub digest: Vec<u8>,
}

/// How a checksum is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Why a checksum's text is none.
#[derive(Debug)]
pub(crate) struct BadChecksum {
    kind: FetchErrorKind,
    detail: String,
}

impl BadChecksum {
    pub(crate) fn about(self, source: &str) -> FetchError {
        FetchError::new(self.kind, source, self.detail)
    }
}

impl Checksum {
    pub(crate) fn parse(text: &str) -> Result<Self, BadChecksum> {
        let syntax = |why: &str| BadChecksum {
            kind: FetchErrorKind::ChecksumSyntax,
            detail: format!("options.checksum {text:?}: {why}; write it as sha256:<hex digits>"),
        };
        let (name, digits) = text.split_once(':').ok_or_else(|| syntax("no type before a colon"))?;
        let algorithm = Algorithm::ALL.into_iter().find(|a| a.name() == name);
        let algorithm = algorithm.ok_or_else(|| syntax("its type is none of md5, sha1, sha256, sha512"))?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(syntax("not only hexadecimal digits"));
        }
        let wanted = algorithm.length() * 2;
        if digits.len() != wanted {
            let detail = format!("options.checksum: {name} has {wanted} digits, given are {}", digits.len());
            return Err(BadChecksum { kind: FetchErrorKind::ChecksumLength, detail });
        }
        let digest = hex::decode(digits).map_err(|_| syntax("not only hexadecimal digits"))?;
        Ok(Self { algorithm, digest })
    }

    pub(crate) fn hex(&self) -> String {
        hex::encode(&self.digest)
    }

    /// What bytes must be fed to.
    pub(crate) fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Md5 => Hasher::Md5(Md5::new()),
            Algorithm::Sha1 => Hasher::Sha1(Sha1::new()),
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(Sha512::new())),
        }
    }

    /// Why `got` is not the digest.
    pub(crate) fn compare(&self, got: &[u8]) -> Result<(), String> {
        if got == self.digest {
            return Ok(());
        }
        Err(format!("{} is {}, wanted is {}", self.algorithm.name(), hex::encode(got), self.hex()))
    }
}

/// A digest being taken.
#[derive(Debug)]
pub(crate) enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(h) => h.update(bytes),
            Self::Sha1(h) => h.update(bytes),
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(h) => h.finalize().to_vec(),
            Self::Sha1(h) => h.finalize().to_vec(),
            Self::Sha256(h) => h.finalize().to_vec(),
            Self::Sha512(h) => h.finalize().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_takes_the_digest_it_names() {
        for text in [
            "md5:900150983cd24fb0d6963f7d28e17f72",
            "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ] {
            let checksum = Checksum::parse(text).unwrap();
            let mut hasher = checksum.hasher();
            hasher.update(b"a");
            hasher.update(b"bc");
            checksum.compare(&hasher.finish()).unwrap();
            assert!(checksum.compare(&checksum.hasher().finish()).unwrap_err().contains(&checksum.hex()));
        }
        assert_eq!(Checksum::parse(&format!("sha512:{}", "0".repeat(128))).unwrap().hasher().finish().len(), 64);
    }

    #[test]
    fn syntax_and_length_are_two_things() {
        for text in ["abc", "", "crc:00", "file:http://x", "sha256:zz", "SHA256:00"] {
            assert_eq!(Checksum::parse(text).unwrap_err().kind, FetchErrorKind::ChecksumSyntax, "{text}");
        }
        for text in ["sha256:00", "md5:", "sha1:a9993e364706816aba3e25717850c26c9cd0d89d00"] {
            assert_eq!(Checksum::parse(text).unwrap_err().kind, FetchErrorKind::ChecksumLength, "{text}");
        }
    }
}
