//! From the file a distribution installs to the ELF kernel a virtual machine monitor starts.
//!
//! A bzImage is a small program that unpacks the kernel: with the ELF kernel in hand, a guest starts without doing that
//! again. The file may be anybody's, so everything read from it is checked and everything unpacked bounded.

mod boot_header;
mod image;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use memchr::memmem;

pub use image::Image;

use crate::compression::{Compression, End, read_bounded};
use crate::{Error, at};
use boot_header::BootHeader;

/// The largest kernel taken: a distribution's has 30 to 80 MB, one with all its symbols 400.
pub const MAX_KERNEL: usize = 512 << 20;
const ELF_MAGIC: &[u8] = b"\x7fELF";
/// How many places that look like the beginning of packed bytes are tried: bytes that happen to look so are rare, and the
/// kernel is among the first.
const MAX_PLACES: usize = 64;

/// A kernel that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// As `uname -r` says.
    pub version: String,
    /// Whether it can be entered the PVH way: what QEMU needs of an ELF kernel.
    pub pvh: bool,
}

/// Version of the kernel in a file, without unpacking it where its header says so.
pub fn version(file: &[u8]) -> Result<String, Error> {
    let said = if file.starts_with(ELF_MAGIC) {
        banner(file)
    } else {
        BootHeader::read(file).and_then(|header| header.version(file))
    };
    said.map_or_else(|| extract(file.to_vec()).map(|kernel| kernel.version), Ok)
}

/// Reads a file that may be a kernel.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(MAX_KERNEL as u64 + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() > MAX_KERNEL {
        return Err(Error::unusable(format!("{}: more than {} MiB is no kernel", path.display(), MAX_KERNEL >> 20)));
    }
    Ok(bytes)
}

/// Takes the ELF kernel out of a bzImage; an ELF file is taken as it is.
pub fn extract(file: Vec<u8>) -> Result<Kernel, Error> {
    if file.starts_with(ELF_MAGIC) {
        return kernel(file, None);
    }
    let header = BootHeader::read(&file).ok_or_else(|| {
        Error::unusable("neither an ELF file nor a bzImage: name the vmlinuz of a kernel package for x86-64")
    })?;
    let version = header.version(&file);
    if let Some(payload) = header.payload(&file) {
        return kernel(unpack_payload(payload)?, version);
    }
    kernel(scan(&file)?, version)
}

fn kernel(elf: Vec<u8>, version: Option<String>) -> Result<Kernel, Error> {
    let image = Image::read(&elf)?;
    let version = version
        .or_else(|| banner(&elf))
        .ok_or_else(|| Error::unusable("the kernel does not say its version: no line \"Linux version ...\" in it"))?;
    Ok(Kernel { elf, version, pvh: image.pvh })
}

/// What the header points at.
fn unpack_payload(payload: &[u8]) -> Result<Vec<u8>, Error> {
    if payload.starts_with(ELF_MAGIC) {
        return Ok(payload.to_vec());
    }
    let kind = Compression::of(payload).ok_or_else(|| {
        let known: Vec<_> = Compression::ALL.iter().map(|kind| kind.name()).collect();
        Error::unusable(format!("the kernel is packed in a way that is not known; known are {}", known.join(", ")))
    })?;
    unpack_at(kind, payload, End::Known)?
        .ok_or_else(|| Error::unusable(format!("what is packed with {} in it is not an ELF kernel", kind.name())))
}

/// Looks for packed bytes that hold an ELF file: boot protocols before 2.08 do not say where they are.
fn scan(file: &[u8]) -> Result<Vec<u8>, Error> {
    for (at, kind) in places(file) {
        let packed = file.get(at..).unwrap_or_default();
        // Most places are bytes that only look like a beginning; what matters is whether one of them is a kernel.
        if let Ok(Some(elf)) = unpack_at(kind, packed, End::Unknown)
            && Image::read(&elf).is_ok()
        {
            return Ok(elf);
        }
    }
    Err(Error::unusable("no packed kernel was found in it"))
}

/// Where something packed may begin, in the order in which they stand in the file.
fn places(file: &[u8]) -> Vec<(usize, Compression)> {
    let of = |kind: Compression| memmem::find_iter(file, kind.magic()).take(MAX_PLACES).map(move |at| (at, kind));
    let mut places: Vec<_> = Compression::ALL.into_iter().flat_map(of).collect();
    places.sort_unstable_by_key(|(at, _)| *at);
    places.truncate(MAX_PLACES);
    places
}

/// Unpacks if the first bytes are those of an ELF file: nothing else is unpacked whole.
fn unpack_at(kind: Compression, packed: &[u8], end: End) -> Result<Option<Vec<u8>>, Error> {
    let failed = |e: std::io::Error| Error::unusable(format!("unpack the kernel ({}): {e}", kind.name()));
    let mut reader = kind.reader(packed, end).map_err(failed)?;
    let mut begun = vec![0; ELF_MAGIC.len()];
    reader.read_exact(&mut begun).map_err(failed)?;
    if begun != ELF_MAGIC {
        return Ok(None);
    }
    read_bounded(&mut reader, begun, MAX_KERNEL).map(Some).map_err(failed)
}

/// The version in the line every kernel writes first.
fn banner(elf: &[u8]) -> Option<String> {
    const WORDS: &[u8] = b"Linux version ";
    memmem::find_iter(elf, WORDS).take(MAX_PLACES).find_map(|at| {
        let text = elf.get(at + WORDS.len()..)?;
        version_word(text)
    })
}

/// The first word, if it can be a version: it becomes part of a path and of messages.
fn version_word(text: &[u8]) -> Option<String> {
    const MAX: usize = 128;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(byte);
    let word: Vec<u8> = text.iter().copied().take(MAX).take_while(allowed).collect();
    let ends = matches!(text.get(word.len()), Some(b' ' | 0));
    let begins = word.first().is_some_and(u8::is_ascii_digit);
    if begins && ends { String::from_utf8(word).ok() } else { None }
}
