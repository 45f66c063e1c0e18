//! One block of a tar archive: ustar, GNU and the forms before them.

use moat_model::ErrorKind;

use crate::error::{Error, Result};

/// Size of a header, and what content is padded to.
pub const RECORD: usize = 512;

/// A header block.
#[derive(Debug, Clone)]
pub struct Header(pub [u8; RECORD]);

/// Which dialect a header speaks: what lies behind the first 257 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Old,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Whether it marks the end of the archive.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether its sum is right; without that, it is no header.
    pub fn check(&self) -> Result<()> {
        let stated = self.number(148, 8, "checksum")?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            // Some old writers added signed characters.
            signed += i64::from(byte.cast_signed());
        }
        if stated == unsigned || stated == signed { Ok(()) } else { Err(invalid("the header has a wrong checksum")) }
    }

    /// What kind of entry.
    pub fn kind(&self) -> u8 {
        self.0.get(156).copied().unwrap_or_default()
    }

    /// Its name, with the prefix if it has one.
    pub fn name(&self) -> Vec<u8> {
        let prefix = match self.dialect() {
            Dialect::Ustar => self.text(345, 155),
            Dialect::Star => self.text(345, 131),
            Dialect::Old | Dialect::Gnu => b"",
        };
        let mut name = prefix.to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(self.text(0, 100));
        name
    }

    /// Target of a link.
    pub fn link(&self) -> &[u8] {
        self.text(157, 100)
    }

    /// Permission bits.
    pub fn mode(&self) -> Result<u16> {
        // Some writers put the type in here too.
        Ok((self.number(100, 8, "mode")? & 0o7777) as u16)
    }

    /// Owner.
    pub fn uid(&self) -> Result<u32> {
        u32::try_from(self.number(108, 8, "uid")?).map_err(|_| invalid("uid: not a number of 32 bits"))
    }

    /// Group.
    pub fn gid(&self) -> Result<u32> {
        u32::try_from(self.number(116, 8, "gid")?).map_err(|_| invalid("gid: not a number of 32 bits"))
    }

    /// Bytes of content that follow.
    pub fn size(&self) -> Result<u64> {
        u64::try_from(self.number(124, 12, "size")?).map_err(|_| invalid("size: negative"))
    }

    /// Time of change.
    pub fn mtime(&self) -> Result<i64> {
        self.number(136, 12, "mtime")
    }

    /// Of a device.
    pub fn device(&self) -> Result<(i64, i64)> {
        if self.dialect() == Dialect::Old {
            return Ok((0, 0));
        }
        Ok((self.number(329, 8, "major number")?, self.number(337, 8, "minor number")?))
    }

    /// Size of a GNU sparse file with its holes.
    pub fn real_size(&self) -> Result<u64> {
        u64::try_from(self.number(483, 12, "real size")?).map_err(|_| invalid("real size: negative"))
    }

    /// The pieces of a GNU sparse file that the header itself lists, and whether more blocks of them follow.
    pub fn pieces(&self, into: &mut Vec<(u64, u64)>) -> Result<bool> {
        self.pieces_at(386, 4, into)?;
        Ok(self.0.get(482).is_some_and(|b| *b != 0))
    }

    /// The same of a block that follows.
    pub fn more_pieces(&self, into: &mut Vec<(u64, u64)>) -> Result<bool> {
        self.pieces_at(0, 21, into)?;
        Ok(self.0.get(504).is_some_and(|b| *b != 0))
    }

    fn pieces_at(&self, at: usize, count: usize, into: &mut Vec<(u64, u64)>) -> Result<()> {
        let negative = |_| invalid("a piece of a sparse file: negative");
        for at in (at..).step_by(24).take(count) {
            if self.0.get(at).is_none_or(|b| *b == 0) {
                break;
            }
            let offset = u64::try_from(self.number(at, 12, "offset")?).map_err(negative)?;
            into.push((offset, u64::try_from(self.number(at + 12, 12, "length")?).map_err(negative)?));
        }
        Ok(())
    }

    fn dialect(&self) -> Dialect {
        match (self.0.get(257..265).unwrap_or_default(), self.0.get(508..512).unwrap_or_default()) {
            (b"ustar  \0", _) => Dialect::Gnu,
            ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Dialect::Star,
            ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Dialect::Ustar,
            _ => Dialect::Old,
        }
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = self.0.get(at..at + length).unwrap_or_default();
        field.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Octal digits, or big-endian binary if the first bit says so.
    fn number(&self, at: usize, length: usize, what: &str) -> Result<i64> {
        let field = self.0.get(at..at + length).unwrap_or_default();
        let wrong = || invalid(&format!("{what}: not a number"));
        if field.first().is_some_and(|b| b & 0x80 != 0) {
            return binary(field).ok_or_else(wrong);
        }
        let text: &[u8] = field.trim_ascii_start();
        let text = text.split(|b| *b == 0 || *b == b' ').next().unwrap_or_default();
        text.iter().try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8).map(|v| v + i64::from(digit - b'0')).ok_or_else(wrong),
            _ => Err(wrong()),
        })
    }
}

/// Two's complement with the first bit as a mark, of 8 or 12 bytes.
fn binary(field: &[u8]) -> Option<i64> {
    let negative = field.first().is_some_and(|b| b & 0x40 != 0);
    let mut value = if negative { -1_i64 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
        // What is shifted out must have been nothing but sign.
        if value >> 55 != 0 && value >> 55 != -1 {
            return None;
        }
        value = (value << 8) | i64::from(byte);
    }
    ((value < 0) == negative).then_some(value)
}

/// A refusal that the caller completes with the name of the entry.
pub fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidSpec, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(at: usize, bytes: &[u8]) -> Header {
        let mut header = Header([0; RECORD]);
        header.0[at..at + bytes.len()].copy_from_slice(bytes);
        header
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(with(124, b"00000000017\0").size().unwrap(), 15);
        assert_eq!(with(124, b"      17 \0\0\0").size().unwrap(), 15);
        assert_eq!(with(124, &[0; 12]).size().unwrap(), 0);
        assert_eq!(with(124, &[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]).size().unwrap(), 2 << 32);
        assert_eq!(with(136, &[0xff; 12]).mtime().unwrap(), -1);
        assert_eq!(with(108, &[0x80, 0, 0, 0, 0, 1, 0, 0]).uid().unwrap(), 65536);
        assert_eq!(with(124, b"777777777777").size().unwrap(), 0o777_777_777_777);
        for bad in [&[0xff_u8; 12][..], b"00000000018\0", b"-1\0", &[0x9f; 12], b"0x1\0"] {
            assert!(with(124, bad).size().is_err(), "{bad:?}");
        }
        assert!(with(108, &[0x80, 0, 0, 1, 0, 0, 0, 0]).uid().is_err());
    }
}
