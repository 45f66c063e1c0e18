//! The members of a tar archive: where each lies in the file, so that nothing is unpacked to look at one.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Component, Path, PathBuf};

use moat_model::ErrorKind;

use super::Part;
use crate::disk;
use crate::erofs::Compression;
use crate::error::{Error, Result};

/// Members of an archive of images: a few for each layer.
const MEMBERS_MAX: usize = 100_000;

/// Links followed from one member to another.
const LINKS_MAX: usize = 8;

/// Members by name.
#[derive(Debug)]
pub(super) struct Members {
    file: PathBuf,
    parts: HashMap<PathBuf, Part>,
    links: HashMap<PathBuf, PathBuf>,
}

impl Members {
    /// Reads the headers of an archive.
    pub fn read(path: &Path) -> Result<Self> {
        if Part::whole(path.to_owned())?.compression()? != Compression::None {
            let text = format!("{}: compressed archives of images are not read; decompress it first", path.display());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let failed = |e| Error::caused_by(ErrorKind::InvalidSpec, format!("read the archive {}", path.display()), e);
        let file = File::open(path).map_err(|e| disk::failed("read", path, e))?;
        // With seeking, content is passed over, not read.
        let mut archive = tar::Archive::new(BufReader::new(file));
        let mut members = Self { file: path.to_owned(), parts: HashMap::new(), links: HashMap::new() };
        for entry in archive.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = plain(&entry.path().map_err(failed)?);
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let part = Part { file: path.to_owned(), offset: entry.raw_file_position(), len: entry.size() };
                members.parts.insert(name, part);
            } else if kind.is_symlink() {
                let target = entry.link_name().map_err(failed)?.unwrap_or_default().into_owned();
                let dir = name.parent().unwrap_or(Path::new("")).to_owned();
                members.links.insert(name, plain(&dir.join(target)));
            } else if kind.is_hard_link() {
                let target = entry.link_name().map_err(failed)?.unwrap_or_default().into_owned();
                members.links.insert(name, plain(&target));
            }
            if members.parts.len() + members.links.len() > MEMBERS_MAX {
                let text = format!("{}: more than {MEMBERS_MAX} members", path.display());
                return Err(Error::new(ErrorKind::InvalidSpec, text));
            }
        }
        Ok(members)
    }

    /// A member, through links within the archive.
    pub fn get(&self, name: &str) -> Option<&Part> {
        let mut name = plain(Path::new(name));
        for _ in 0..LINKS_MAX {
            match self.links.get(&name) {
                Some(target) => name = target.clone(),
                None => return self.parts.get(&name),
            }
        }
        None
    }

    /// A member that has to be there.
    pub fn need(&self, name: &str) -> Result<&Part> {
        let missing = || Error::new(ErrorKind::InvalidSpec, format!("{}: {name} is not in it", self.file.display()));
        self.get(name).ok_or_else(missing)
    }
}

/// Without `.` and with `..` taken back: names of members, not of files.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    plain
}
