//! A module's file: unpacked, and what it says about itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::compression::Compression;
use crate::{Error, at};

/// The largest module taken; the largest of a distribution has some 10 MB.
const MAX_MODULE: usize = 64 << 20;

/// What `.modinfo` says, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules that had better be loaded before it.
    pub before: Vec<String>,
    /// Version of the kernel it was built for.
    pub version: Option<String>,
}

/// Reads and unpacks.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(MAX_MODULE as u64 + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > MAX_MODULE {
        return Err(Error::unusable(format!("{}: more than {} MiB", path.display(), MAX_MODULE >> 20)));
    }
    match Compression::of(&bytes) {
        Some(kind) => kind.unpack(&bytes, MAX_MODULE).map_err(|e| Error::unusable(format!("{}: {e}", path.display()))),
        None => Ok(bytes),
    }
}

impl Info {
    /// Reads the section.
    pub fn read(module: &[u8]) -> Result<Self, Error> {
        let broken = |e: elf::ParseError| Error::unusable(format!("broken ELF file: {e}"));
        let file = ElfBytes::<LittleEndian>::minimal_parse(module).map_err(broken)?;
        let section = file.section_header_by_name(".modinfo").map_err(broken)?;
        let section = section.ok_or_else(|| Error::unusable("no module: the section .modinfo is not there"))?;
        let (bytes, _) = file.section_data(&section).map_err(broken)?;
        let mut info = Self::default();
        for entry in bytes.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(entry);
            match text.split_once('=') {
                Some(("depends", names)) => info.depends.extend(names.split(',').filter_map(name)),
                Some(("softdep", words)) => info.before.extend(before(words)),
                Some(("vermagic", words)) => info.version = words.split_whitespace().next().map(str::to_owned),
                _ => {}
            }
        }
        Ok(info)
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| super::tree::canonical(text))
}

/// Of `pre: a b post: c` the words after `pre:`.
fn before(words: &str) -> Vec<String> {
    let mut is_before = false;
    let mut names = Vec::new();
    for word in words.split_whitespace() {
        match word {
            "pre:" => is_before = true,
            "post:" => is_before = false,
            _ if is_before => names.extend(name(word)),
            _ => {}
        }
    }
    names
}
