//! One member of a tar archive as it is written: ustar, with pax records for what that has no room for.

use std::path::Path;

use moat_engine::error::Result;
use moat_image::erofs::tar::RECORD;

use super::refused;

/// Largest length and time in eleven octal digits.
const NUMBER_MAX: u64 = 0o777_7777_7777;
/// Room for a name.
const NAME_LEN: usize = 100;

/// What is said of a member.
#[derive(Debug, Default)]
pub(super) struct Member<'a> {
    /// `b'0'` and so on.
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) size: u64,
    pub(super) mode: u32,
    /// Inside, so below 65,536.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Zeros after so many bytes, up to the next block.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % RECORD as u64).unwrap_or_default();
    if over == 0 { 0 } else { RECORD - over }
}

impl Member<'_> {
    /// Its blocks, with those of the records before it.
    pub(super) fn blocks(&self, path: &Path) -> Result<Vec<u8>> {
        let mut records = Vec::new();
        for (key, value) in [("path", self.name), ("linkpath", self.link)] {
            if value.len() > NAME_LEN {
                record(&mut records, key.as_bytes(), value);
            }
        }
        if self.size > NUMBER_MAX {
            record(&mut records, b"size", self.size.to_string().as_bytes());
        }
        let (seconds, nanos) = self.mtime;
        if seconds < 0 || nanos > 0 {
            record(&mut records, b"mtime", time(seconds, nanos).as_bytes());
        }
        for (name, value) in self.xattrs {
            if name.contains(&b'=') {
                return Err(refused(path, "an archive has no room for an attribute with an '=' in its name"));
            }
            record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let about = Member { kind: b'x', name: b"PaxHeader", size: records.len() as u64, ..Member::default() };
            blocks.extend_from_slice(&about.header());
            blocks.extend_from_slice(&records);
            blocks.resize(blocks.len() + padding(records.len() as u64), 0);
        }
        blocks.extend_from_slice(&self.header());
        Ok(blocks)
    }

    fn header(&self) -> [u8; RECORD] {
        let mut block = [0; RECORD];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in block.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        let seconds = u64::try_from(self.mtime.0).unwrap_or_default().min(NUMBER_MAX);
        put(0, self.name.get(..NAME_LEN).unwrap_or(self.name));
        put(100, format!("{:07o}", self.mode).as_bytes());
        put(108, format!("{:07o}", self.uid).as_bytes());
        put(116, format!("{:07o}", self.gid).as_bytes());
        put(124, format!("{:011o}", self.size.min(NUMBER_MAX)).as_bytes());
        put(136, format!("{seconds:011o}").as_bytes());
        // The sum is taken with spaces in its own place.
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link.get(..NAME_LEN).unwrap_or(self.link));
        put(257, b"ustar\x0000");
        put(329, b"0000000\x000000000\0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
            *to = from;
        }
        block
    }
}

/// `length key=value`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction, negative before 1970.
fn time(seconds: i64, nanos: u32) -> String {
    match (seconds, nanos) {
        (seconds, 0) => seconds.to_string(),
        (0.., nanos) => format!("{seconds}.{nanos:09}"),
        (-1, nanos) => format!("-0.{:09}", 1_000_000_000 - nanos),
        (seconds, nanos) => format!("{}.{:09}", seconds + 1, 1_000_000_000 - nanos),
    }
}
