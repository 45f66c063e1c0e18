//! The form of tar archives: POSIX pax to write, that and GNU's long names to read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use tar::{EntryType, Header};

/// A block, the unit of archives.
pub const BLOCK_LEN: usize = 512;
/// Largest extension read or written: names and numbers need far less.
pub const EXTENSION_LEN_MAX: u64 = 64 << 10;
/// Largest number the header has room for in its seven octal digits.
const ID_MAX: u64 = 0o777_7777;
/// The same for lengths and times, which have eleven.
const SIZE_MAX: u64 = 0o777_7777_7777;

/// What an archive says of one thing.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it is.
    pub kind: EntryType,
    /// Its name, as written.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Bytes that follow.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last change, seconds since 1970.
    pub modified: i64,
}

impl Member {
    /// As blocks: an extension if the header has no room for something, and the header.
    pub fn to_blocks(&self) -> Vec<u8> {
        let mut blocks = Vec::new();
        let mut records = Vec::new();
        for (key, value) in [("path", &self.name), ("linkpath", &self.link)] {
            if value.len() > 100 {
                record(&mut records, key, value);
            }
        }
        for (key, value, max) in [("uid", self.uid, ID_MAX), ("gid", self.gid, ID_MAX), ("size", self.size, SIZE_MAX)] {
            if value > max {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if self.modified < 0 {
            record(&mut records, "mtime", self.modified.to_string().as_bytes());
        }
        if !records.is_empty() {
            let extension = Self {
                kind: EntryType::XHeader,
                name: b"././@PaxHeader".to_vec(),
                link: Vec::new(),
                size: records.len() as u64,
                mode: 0o644,
                uid: 0,
                gid: 0,
                modified: 0,
            };
            blocks.extend_from_slice(extension.header().as_bytes());
            let padding = padding(records.len() as u64);
            blocks.append(&mut records);
            blocks.resize(blocks.len() + padding, 0);
        }
        blocks.extend_from_slice(self.header().as_bytes());
        blocks
    }

    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_size(self.size.min(SIZE_MAX));
        header.set_mode(self.mode);
        header.set_uid(self.uid.min(ID_MAX));
        header.set_gid(self.gid.min(ID_MAX));
        header.set_mtime(u64::try_from(self.modified).unwrap_or(0).min(SIZE_MAX));
        let fields = header.as_old_mut();
        for (field, text) in [(&mut fields.name, &self.name), (&mut fields.linkname, &self.link)] {
            for (to, from) in field.iter_mut().zip(text) {
                *to = *from;
            }
        }
        header.set_cksum();
        header
    }
}

/// `length key=value`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The first record's key and value, and what follows it. Values may have anything in them, so the length decides.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(records.get(..digits)?).ok()?.parse().ok()?;
    let (record, later) = records.split_at_checked(length)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, later))
}

/// Zeros after so many bytes, up to the next block.
pub fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK_LEN as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK_LEN - over }
}

/// A header that can be believed, or why not.
pub fn read_header(block: &[u8; BLOCK_LEN]) -> Result<Member, &'static str> {
    let header = Header::from_byte_slice(block);
    // The sum is taken with spaces in its own place.
    let own = 148..156;
    let sum: u32 = (0..).zip(block).map(|(at, byte)| if own.contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().ok() != Some(sum) {
        return Err("not a tar archive (a header's checksum is wrong; is it compressed?)");
    }
    // What was never filled in is nought, as GNU tar and Go have it; `tar::Header` reads that as no number.
    let filled = |at: std::ops::Range<usize>| block.get(at).is_some_and(|field| field.iter().any(|byte| *byte != 0));
    let number = |at: std::ops::Range<usize>, field: std::io::Result<u64>| match field {
        Ok(number) => Ok(number),
        Err(_) if !filled(at) => Ok(0),
        Err(_) => Err("a number in a header cannot be read"),
    };
    let mode = number(100..108, header.mode().map(u64::from))? & 0o7777;
    Ok(Member {
        kind: header.entry_type(),
        name: header.path_bytes().into_owned(),
        link: header.link_name_bytes().unwrap_or_default().into_owned(),
        size: number(124..136, header.entry_size())?,
        mode: u32::try_from(mode).unwrap_or(0),
        uid: number(108..116, header.uid())?,
        gid: number(116..124, header.gid())?,
        modified: i64::try_from(number(136..148, header.mtime())?).unwrap_or(i64::MAX),
    })
}

/// What extensions say of the member that follows.
#[derive(Debug, Default)]
pub struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<i64>,
}

impl Extension {
    /// Takes one in.
    pub fn read(&mut self, kind: EntryType, content: &[u8]) -> Result<(), &'static str> {
        let text = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.name = Some(text(content)),
            EntryType::GNULongLink => self.link = Some(text(content)),
            _ => {
                let mut rest = content;
                while !rest.is_empty() {
                    let (key, value, later) = split_record(rest).ok_or("a pax extension cannot be read")?;
                    self.take(key, value)?;
                    rest = later;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || {
            let text = str::from_utf8(value).ok();
            text.and_then(|text| text.parse().ok()).ok_or("a number in a pax extension cannot be read")
        };
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                let whole = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                let text = str::from_utf8(whole).ok();
                let seconds = text.and_then(|text| text.parse().ok());
                self.modified = Some(seconds.ok_or("a time in a pax extension cannot be read")?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err("sparse files in archives are not supported"),
            // Comments, attributes, times nobody asks for.
            _ => {}
        }
        Ok(())
    }

    /// Applies it, for once.
    pub fn apply(&mut self, mut member: Member) -> Member {
        let said = std::mem::take(self);
        member.name = said.name.unwrap_or(member.name);
        member.link = said.link.unwrap_or(member.link);
        member.size = said.size.unwrap_or(member.size);
        member.uid = said.uid.unwrap_or(member.uid);
        member.gid = said.gid.unwrap_or(member.gid);
        member.modified = said.modified.unwrap_or(member.modified);
        member
    }
}

/// The parts of a name below where it is unpacked; none for that place itself.
pub fn parts(name: &[u8]) -> Result<Vec<&OsStr>, &'static str> {
    if name.len() >= moat_model::file::PATH_LEN_MAX {
        return Err("its name is too long");
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads out of the directory"),
            part if part.contains(&0) => return Err("its name has a zero byte in it"),
            part => parts.push(OsStr::from_bytes(part)),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(blocks: &[u8]) -> Member {
        let mut extension = Extension::default();
        let mut at = 0;
        loop {
            let member = read_header(blocks[at..at + BLOCK_LEN].try_into().unwrap()).unwrap();
            at += BLOCK_LEN;
            if member.kind != EntryType::XHeader {
                return extension.apply(member);
            }
            let size = usize::try_from(member.size).unwrap();
            extension.read(member.kind, &blocks[at..at + size]).unwrap();
            at += size + padding(member.size);
        }
    }

    proptest! {
        #[test]
        fn members_read_back(
            name in prop::collection::vec(1_u8..=255, 1..400),
            link in prop::collection::vec(1_u8..=255, 0..400),
            (size, uid, gid) in any::<(u64, u32, u32)>(),
            modified in -(1_i64 << 40)..(1_i64 << 33),
        ) {
            let member = Member {
                kind: EntryType::Regular, name, link, size, mode: 0o4755,
                uid: uid.into(), gid: gid.into(), modified,
            };
            let read = read_back(&member.to_blocks());
            prop_assert_eq!(
                (read.name, read.link, read.size, read.mode, read.uid, read.gid, read.modified),
                (member.name, member.link, member.size, member.mode, member.uid, member.gid, member.modified)
            );
        }

        #[test]
        fn arbitrary_blocks_never_panic(block in prop::collection::vec(any::<u8>(), BLOCK_LEN), kind in 0_u8..3) {
            let kind = [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink][usize::from(kind)];
            let _ = read_header(block.as_slice().try_into().unwrap());
            let _ = Extension::default().read(kind, &block);
            let _ = parts(&block);
        }
    }

    #[test]
    fn a_number_that_was_never_filled_in_is_nought() {
        let mut header = Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o640);
        header.set_path("file").unwrap();
        header.set_cksum();
        let member = read_header(header.as_bytes()).unwrap();
        assert_eq!((member.size, member.mode, member.uid, member.gid, member.modified), (3, 0o640, 0, 0, 0));
        header.as_old_mut().uid = *b"12x45670";
        header.set_cksum();
        assert!(read_header(header.as_bytes()).is_err());
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(parts(b"./a//b/./c/").unwrap(), ["a", "b", "c"]);
        assert_eq!(parts(b"/etc/passwd").unwrap(), ["etc", "passwd"]);
        assert_eq!(parts(b"./").unwrap(), Vec::<&OsStr>::new());
        for bad in [&b"a/../b"[..], b"..", b"a\0b", &[b'x'; 5000]] {
            assert!(parts(bad).is_err());
        }
    }
}
