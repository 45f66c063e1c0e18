//! A writer of cpio archives (`newc`), the format of an initramfs, whose bytes depend on nothing but what is put in.

use std::io::Write;

/// Archives behind one another are told apart by their length being a multiple of this.
const BLOCK: usize = 512;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written. Everything in it belongs to root and is of the year 1970.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// A directory.
    pub fn directory(&mut self, name: &str, permissions: u32) {
        self.entry(&Entry { name, mode: DIRECTORY | permissions, device: (0, 0), data: &[] });
    }

    /// A file; its length must fit 32 bits, which its callers' bounds see to.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(&Entry { name, mode: REGULAR | permissions, device: (0, 0), data });
    }

    /// A character device.
    pub fn character(&mut self, name: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(&Entry { name, mode: CHARACTER | permissions, device: (major, minor), data: &[] });
    }

    /// The archive with its end, padded so that another may follow.
    pub fn finish(mut self) -> Vec<u8> {
        // The end has no inode of its own, as other writers have it.
        self.header("TRAILER!!!", &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.pad(BLOCK);
        self.bytes
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        self.entries += 1;
        let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
        let (major, minor) = entry.device;
        self.header(entry.name, &[self.entries, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor]);
        self.bytes.extend_from_slice(entry.data);
        self.pad(4);
    }

    /// Inode, mode, uid, gid, links, time, size, device of the archive, device of the entry; then the name's length and a
    /// sum that this format leaves 0.
    fn header(&mut self, name: &str, fields: &[u32; 11]) {
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        for field in fields.iter().chain([&name_length, &0]) {
            // Writing into memory cannot fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0);
    }
}
