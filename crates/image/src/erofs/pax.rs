//! Extended headers: lines of `length key=value` before the entry they are about.

use moat_model::ErrorKind;

use super::header::invalid;
use super::index::Xattrs;
use super::limits::Limits;
use crate::error::{Error, Result};

/// The longest extended header or long name. Readers of OCI layers agree on 1 MiB.
pub const EXTENDED_MAX: u64 = 1 << 20;

/// What comes before an entry and is about it.
#[derive(Debug, Default)]
pub struct Extended {
    /// Instead of the name.
    pub path: Option<Vec<u8>>,
    /// Instead of the target.
    pub link: Option<Vec<u8>>,
    /// Instead of the size.
    pub size: Option<u64>,
    /// Instead of the owner.
    pub uid: Option<u32>,
    /// Instead of the group.
    pub gid: Option<u32>,
    /// Instead of the time, with nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Something was said at all.
    pub any: bool,
}

impl Extended {
    /// Adds what the records say; a later one wins.
    pub fn add(&mut self, mut records: &[u8], limits: &Limits) -> Result<()> {
        self.any = true;
        while !records.is_empty() {
            let (key, value, rest) = record(records)?;
            self.take(key, value)?;
            records = rest;
        }
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > limits.xattr_bytes_max {
            let most = limits.xattr_bytes_max;
            let what = format!("more than {most} bytes of extended attributes");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let set = !value.is_empty();
        match key {
            b"path" => self.path = set.then(|| value.to_vec()),
            b"linkpath" => self.link = set.then(|| value.to_vec()),
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "uid")?,
            b"gid" => self.gid = number(value, "gid")?,
            b"mtime" => self.mtime = if set { Some(time(value)?) } else { None },
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(invalid("a sparse file in pax form: write it with tar --format=gnu, or without --sparse"));
            }
            key => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) || name.len() > super::limits::NAME_LEN_MAX {
                        return Err(invalid("the name of an extended attribute is empty or too long"));
                    }
                    self.xattrs.insert(name.into(), value.into());
                }
                // Anything else (atime, uname, comments) says nothing that a root keeps.
            }
        }
        Ok(())
    }
}

/// Whether a header for all entries says something about them. Readers of layers pass over such headers, other readers of
/// tar do not: what means two things is refused.
pub fn says_nothing(mut records: &[u8]) -> Result<bool> {
    while !records.is_empty() {
        let (key, _, rest) = record(records)?;
        let known = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime");
        if known || key.starts_with(b"SCHILY.xattr.") || key.starts_with(b"GNU.sparse.") {
            return Ok(false);
        }
        records = rest;
    }
    Ok(true)
}

fn record(records: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let wrong = || invalid("an extended header is not of records \"length key=value\"");
    let space = records.iter().take(8).position(|b| *b == b' ').ok_or_else(wrong)?;
    let length: usize = number(records.get(..space).unwrap_or_default(), "length")?.ok_or_else(wrong)?;
    let line = records.get(space + 1..length).ok_or_else(wrong)?;
    let rest = records.get(length..).unwrap_or_default();
    let line = line.strip_suffix(b"\n").ok_or_else(wrong)?;
    let equals = line.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(wrong)?;
    Ok((line.get(..equals).unwrap_or_default(), line.get(equals + 1..).unwrap_or_default(), rest))
}

fn number<T: std::str::FromStr>(digits: &[u8], what: &str) -> Result<Option<T>> {
    if digits.is_empty() {
        return Ok(None);
    }
    let wrong = || invalid(&format!("{what}: not a number"));
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(wrong)
}

/// Seconds with an optional fraction, negative before 1970.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let wrong = || invalid("mtime: not a time");
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |b| *b == b'.');
    let whole: i64 = number(parts.next().unwrap_or_default(), "mtime")?.ok_or_else(wrong)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(records: &[u8]) -> Result<Extended> {
        let mut extended = Extended::default();
        extended.add(records, &Limits::default()).map(|()| extended)
    }

    #[test]
    fn records_are_read() {
        let extended = parsed(b"10 path=a\n28 mtime=1700000000.000001\n").unwrap_err();
        assert!(extended.doing.contains("records"), "a wrong length: {extended}");
        let extended = parsed(b"11 path=ab\n26 mtime=1700000000.00001\n15 mtime=-1.25\n11 size=10\n").unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(extended.mtime, Some((-2, 750_000_000)));
        assert_eq!(extended.size, Some(10));
        let extended = parsed(b"28 SCHILY.xattr.user.a=\0=\n\xff\n").unwrap();
        assert_eq!(extended.xattrs.get(&b"user.a"[..]).map(|v| &**v), Some(&b"\0=\n\xff"[..]));
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"0 a=b\n",
            b"3 a=b\n",
            b"99 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 a=b\n7 a=b\n",
            b"7 path\n",
            b"5 =b\n",
            b"+6 a=b\n",
            b"10 size=-1\n",
            b"31 size=18446744073709551616000\n",
            b"11 mtime=x\n",
            b"20 GNU.sparse.map=\n",
        ] {
            assert!(parsed(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
