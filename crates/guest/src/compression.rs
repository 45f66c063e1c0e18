//! The formats kernels and their modules are packed with, behind one reader with a bound on what comes out.
//!
//! What goes in may come from anybody (`--kernel` names any file), so a file of a few bytes must not fill the memory.

use std::io::{self, Read};

use crate::Error;

/// The largest dictionary an xz file may ask for: kernels use 128 MiB at most.
const XZ_MEMORY_KIB: u32 = 160 * 1024;
/// Size of a block of lz4's legacy frame once unpacked: fixed by the format.
const LZ4_BLOCK: usize = 8 << 20;
/// The most such a block can have packed, when nothing in it repeats.
const LZ4_PACKED_MAX: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// The legacy frame of lz4, which the kernel's build uses.
    Lz4,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gzip, Self::Xz, Self::Lz4, Self::Zstd, Self::Bzip2];

    /// What a stream of it begins with.
    pub const fn magic(self) -> &'static [u8] {
        match self {
            Self::Gzip => &[0x1f, 0x8b, 0x08],
            Self::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
            Self::Lz4 => &[0x02, 0x21, 0x4c, 0x18],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Self::Bzip2 => b"BZh",
        }
    }

    /// What these bytes are, by how they begin.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| bytes.starts_with(kind.magic()))
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }

    /// What the first stream in `packed` holds. Bytes after it are not looked at: a kernel's length stands there.
    pub fn reader<'a>(self, packed: &'a [u8], end: End) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_MEMORY_KIB)),
            Self::Lz4 => Box::new(Lz4Legacy::new(packed, end)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?.single_frame()),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
        })
    }

    /// Unpacks all of it, at most `limit` bytes.
    pub fn unpack(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        let mut reader =
            self.reader(packed, End::Known).map_err(|e| Error::unusable(format!("{}: {e}", self.name())))?;
        read_bounded(&mut reader, Vec::new(), limit).map_err(|e| Error::unusable(format!("{}: {e}", self.name())))
    }
}

/// Reads on to the end, behind what `begun` already holds; more than `limit` bytes altogether are an error.
pub fn read_bounded(reader: &mut dyn Read, mut begun: Vec<u8>, limit: usize) -> io::Result<Vec<u8>> {
    let left = limit.saturating_sub(begun.len());
    // One more than allowed shows that there is more.
    let got = reader.take(left as u64 + 1).read_to_end(&mut begun)?;
    if got > left {
        return Err(io::Error::other(format!("more than {} MiB unpacked", limit >> 20)));
    }
    Ok(begun)
}

/// Whether it is known where the packed bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// They end where the slice ends, but for the length the kernel's build appends.
    Known,
    /// Anything may follow. lz4's legacy frame has no end of its own: it is over where no block can be read any more, and
    /// whether that was too early is for the reader of the contents to find.
    Unknown,
}

/// Blocks of at most 8 MiB, each with its packed length before it, and no end mark.
struct Lz4Legacy<'a> {
    packed: &'a [u8],
    end: End,
    block: Vec<u8>,
    given: usize,
    any: bool,
}

impl<'a> Lz4Legacy<'a> {
    fn new(packed: &'a [u8], end: End) -> Self {
        let packed = packed.strip_prefix(Compression::Lz4.magic()).unwrap_or(packed);
        Self { packed, end, block: Vec::new(), given: 0, any: false }
    }

    /// Unpacks the next block; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        self.given = 0;
        self.block.clear();
        let Some((length, rest)) = self.packed.split_first_chunk::<4>() else { return Ok(false) };
        // The four last bytes are the unpacked length of everything.
        if rest.is_empty() {
            return Ok(false);
        }
        match unpack_block(u32::from_le_bytes(*length), rest) {
            Ok((block, rest)) => {
                (self.block, self.packed, self.any) = (block, rest, true);
                Ok(true)
            }
            Err(_) if self.end == End::Unknown && self.any => {
                self.packed = &[];
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn unpack_block(length: u32, rest: &[u8]) -> io::Result<(Vec<u8>, &[u8])> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length == 0 || length > LZ4_PACKED_MAX {
        return Err(wrong("a block has an impossible length"));
    }
    let (packed, rest) = rest.split_at_checked(length).ok_or_else(|| wrong("the last block is cut off"))?;
    let mut block = vec![0; LZ4_BLOCK];
    let written = lz4_flex::block::decompress_into(packed, &mut block).map_err(|e| wrong(&e.to_string()))?;
    block.truncate(written);
    Ok((block, rest))
}

impl Read for Lz4Legacy<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        // A block may be empty; the loop ends because each takes bytes away.
        while self.given >= self.block.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let mut left = self.block.get(self.given..).unwrap_or_default();
        let count = left.read(to)?;
        self.given += count;
        Ok(count)
    }
}
