//! Archives into a tree, compressed files into one.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};

use super::Failure;
use super::tree::{Budget, Tree, broken, shown};
use crate::config::Limits;
use crate::error::FetchErrorKind;

/// Most bytes of a header that extends the next one: names, no more.
const EXTENSION_MAX: u64 = 64 << 10;

/// Largest window of a decoder, in KiB and as a power of two.
const XZ_WINDOW_KIB: u32 = 192 << 10;
const ZSTD_WINDOW_LOG: u32 = 27;

/// All formats, by the ends of names; longer ones first.
const FORMATS: [(&str, Format); 15] = [
    ("tar.gz", Format::Tar(Packing::Gzip)),
    ("tar.bz2", Format::Tar(Packing::Bzip2)),
    ("tar.xz", Format::Tar(Packing::Xz)),
    ("tar.zst", Format::Tar(Packing::Zstd)),
    ("tgz", Format::Tar(Packing::Gzip)),
    ("tbz2", Format::Tar(Packing::Bzip2)),
    ("txz", Format::Tar(Packing::Xz)),
    ("tzst", Format::Tar(Packing::Zstd)),
    ("tar.tzst", Format::Tar(Packing::Zstd)),
    ("tar", Format::Tar(Packing::None)),
    ("zip", Format::Zip),
    ("gz", Format::One(Packing::Gzip)),
    ("bz2", Format::One(Packing::Bzip2)),
    ("xz", Format::One(Packing::Xz)),
    ("zst", Format::One(Packing::Zstd)),
];

/// What something can be unpacked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Zip,
    Tar(Packing),
    /// One file.
    One(Packing),
}

/// How bytes are made fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

/// Whether `extension` names a format that can be unpacked.
pub(crate) fn is_archive(extension: &str) -> bool {
    FORMATS.iter().any(|(known, _)| *known == extension)
}

/// All formats that can be unpacked, in words.
pub(crate) fn formats() -> String {
    FORMATS.map(|(name, _)| name).join(", ")
}

/// The format of an extension.
pub(super) fn format_of(extension: &str) -> Option<Format> {
    FORMATS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// The format a file's name says.
pub(super) fn format_by_name(name: &str) -> Option<Format> {
    let lower = name.to_ascii_lowercase();
    let ends = |known: &str| lower.strip_suffix(known).is_some_and(|before| before.ends_with('.'));
    FORMATS.iter().find(|(known, _)| ends(known)).map(|(_, format)| *format)
}

/// The name of the one file that `name` is unpacked to.
pub(crate) fn unpacked_name(name: &str) -> &str {
    let packed = ["gz", "bz2", "xz", "zst"];
    match name.rsplit_once('.') {
        Some((before, end)) if packed.contains(&end.to_ascii_lowercase().as_str()) && !before.is_empty() => before,
        _ => name,
    }
}

/// Unpacks `file`, from its beginning, into `tree`.
pub(super) fn into_tree(mut file: File, format: Format, tree: &mut Tree<'_>, limits: &Limits) -> Result<(), Failure> {
    let packed = rewind(&mut file)?;
    let mut budget = Budget::new(limits, packed);
    match format {
        Format::Zip => zip(file, packed, tree, &mut budget),
        Format::Tar(packing) | Format::One(packing) => tar(decoder(file, packing)?, tree, &mut budget),
    }
}

/// Unpacks the one file in `file` to `to`.
pub(super) fn into_file(mut file: File, packing: Packing, to: &mut File, limits: &Limits) -> Result<(), Failure> {
    let packed = rewind(&mut file)?;
    Budget::new(limits, packed).copy(&mut decoder(file, packing)?, to)
}

fn rewind(file: &mut File) -> Result<u64, Failure> {
    let length = file.seek(SeekFrom::End(0)).map_err(|e| Failure::node("read the download", e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| Failure::node("read the download", e))?;
    Ok(length)
}

fn decoder(file: File, packing: Packing) -> Result<Box<dyn Read>, Failure> {
    let file = BufReader::with_capacity(64 << 10, file);
    Ok(match packing {
        Packing::None => Box::new(file),
        // All of them may be several streams after one another.
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_WINDOW_KIB)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(|e| broken(&e))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|e| broken(&e))?;
            Box::new(decoder)
        }
    })
}

fn zip(file: File, packed: u64, tree: &mut Tree<'_>, budget: &mut Budget<'_>) -> Result<(), Failure> {
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| broken(&e))?;
    // Entries that share their bytes are how a small file claims to be a large one.
    let mut shared: u64 = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| broken(&e))?;
        shared = shared.saturating_add(entry.compressed_size());
        if shared > packed {
            return Err(Failure::new(
                FetchErrorKind::Ratio,
                "its entries overlap: together they have more bytes than it",
            ));
        }
        let name = entry.name_raw().to_vec();
        let mode = entry.unix_mode();
        // The kind of a file in Unix's modes; archives of other systems say nothing.
        match mode.map_or(0, |mode| mode & 0o170_000) {
            0o040_000 => tree.directory(&name, mode.unwrap_or(0o755))?,
            0 if name.ends_with(b"/") => tree.directory(&name, 0o755)?,
            0o120_000 => {
                let mut target = Vec::new();
                let read = entry.by_ref().take(EXTENSION_MAX).read_to_end(&mut target);
                read.map_err(|e| broken(&e))?;
                tree.symlink(&name, &target)?;
            }
            0 | 0o100_000 => {
                let mode = mode.filter(|mode| mode & 0o777 != 0).unwrap_or(0o644);
                let mut file = tree.file(&name, mode)?;
                budget.copy(&mut entry, &mut file)?;
            }
            _ => return Err(kind(&name, "no file, directory or link")),
        }
    }
    Ok(())
}

fn kind(name: &[u8], what: &str) -> Failure {
    Failure::new(FetchErrorKind::EntryKind, format!("the entry {} is {what}: it is refused", shown(name)))
}

/// What headers before an entry say of it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

fn tar(from: Box<dyn Read>, tree: &mut Tree<'_>, budget: &mut Budget<'_>) -> Result<(), Failure> {
    let mut archive = tar::Archive::new(from);
    let mut extended = Extended::default();
    // Raw: the crate would take extended headers of any length into memory.
    let entries = archive.entries().map_err(|e| broken(&e))?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(|e| broken(&e))?;
        let kind_of = entry.header().entry_type();
        if kind_of.is_pax_local_extensions() || kind_of.is_pax_global_extensions() {
            let body = extension(&mut entry)?;
            if kind_of.is_pax_local_extensions() {
                pax(&body, &mut extended)?;
            }
            continue;
        }
        if kind_of.is_gnu_longname() || kind_of.is_gnu_longlink() {
            let mut body = extension(&mut entry)?;
            body.truncate(body.iter().position(|b| *b == 0).unwrap_or(body.len()));
            let place = if kind_of.is_gnu_longname() { &mut extended.path } else { &mut extended.link };
            *place = Some(body);
            continue;
        }
        one(&mut entry, std::mem::take(&mut extended), tree, budget)?;
    }
    Ok(())
}

fn one(
    entry: &mut tar::Entry<'_, Box<dyn Read>>,
    extended: Extended,
    tree: &mut Tree<'_>,
    budget: &mut Budget<'_>,
) -> Result<(), Failure> {
    let header = entry.header();
    let name = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let mode = header.mode().map_err(|e| broken(&e))?;
    let kind_of = header.entry_type();
    let link = || {
        let target = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        target.ok_or_else(|| broken(&format!("the link {} has no target", shown(&name))))
    };
    if !kind_of.is_file() && !kind_of.is_contiguous() && entry.size() > EXTENSION_MAX {
        return Err(broken(&format!("{} is no file and has {} bytes", shown(&name), entry.size())));
    }
    match kind_of {
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let mut file = tree.file(&name, mode)?;
            let size = entry.size();
            budget.copy(entry, &mut file)?;
            // A decoder that ends early is not always an error of its own.
            let written = file.metadata().map_err(|e| Failure::node("look at a file", e))?.len();
            if written == size { Ok(()) } else { Err(broken(&format!("{} is cut short", shown(&name)))) }
        }
        tar::EntryType::Directory => tree.directory(&name, mode),
        tar::EntryType::Symlink => tree.symlink(&name, &link()?),
        tar::EntryType::Link => tree.hard_link(&name, &link()?),
        tar::EntryType::Char | tar::EntryType::Block => Err(kind(&name, "a device")),
        tar::EntryType::Fifo => Err(kind(&name, "a pipe")),
        tar::EntryType::GNUSparse => Err(kind(&name, "a sparse file of GNU's format")),
        _ => Err(kind(&name, "no file, directory or link")),
    }
}

fn extension(entry: &mut tar::Entry<'_, Box<dyn Read>>) -> Result<Vec<u8>, Failure> {
    if entry.size() > EXTENSION_MAX {
        return Err(broken(&format!("a header of {} bytes", entry.size())));
    }
    let mut body = Vec::new();
    entry.take(EXTENSION_MAX).read_to_end(&mut body).map_err(|e| broken(&e))?;
    Ok(body)
}

/// Records of a pax header: `length key=value`, a newline.
fn pax(body: &[u8], extended: &mut Extended) -> Result<(), Failure> {
    let malformed = || broken(&"a pax header cannot be read");
    let mut rest = body;
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ').ok_or_else(malformed)?;
        let length = rest.get(..space).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
        let length = length.ok_or_else(malformed)?;
        let record = rest.get(space + 1..length).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(malformed)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
        let (key, value) = (record.get(..equals).unwrap_or(b""), record.get(equals + 1..).unwrap_or(b""));
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => return Err(broken(&"a file of more than 8 GiB in pax's format")),
            key if key.starts_with(b"GNU.sparse.") => return Err(broken(&"a sparse file in pax's format")),
            _ => {}
        }
        rest = rest.get(length..).unwrap_or(b"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_the_ends_of_names() {
        for (name, format) in [
            ("a.zip", Some(Format::Zip)),
            ("A.ZIP", Some(Format::Zip)),
            ("a.tar.gz", Some(Format::Tar(Packing::Gzip))),
            ("a.tgz", Some(Format::Tar(Packing::Gzip))),
            ("a.tar.zst", Some(Format::Tar(Packing::Zstd))),
            ("a.gz", Some(Format::One(Packing::Gzip))),
            ("a.xz", Some(Format::One(Packing::Xz))),
            ("zip", None),
            ("a.txt", None),
            ("atar", None),
        ] {
            assert_eq!(format_by_name(name), format, "{name}");
        }
        assert_eq!(unpacked_name("a.txt.gz"), "a.txt");
        assert_eq!(unpacked_name(".gz"), ".gz");
        assert!(is_archive("tbz2"));
        assert!(!is_archive("rar"));
    }

    #[test]
    fn pax_records_are_read_and_broken_ones_are_not() {
        let mut extended = Extended::default();
        pax(b"12 path=a/b\n16 linkpath=c/d\n11 mtime=1\n", &mut extended).unwrap();
        assert_eq!(extended.path.as_deref(), Some(b"a/b".as_slice()));
        assert_eq!(extended.link.as_deref(), Some(b"c/d".as_slice()));
        for body in ["x", "99 path=a\n", "0 path=a\n", "10 size=99\n", "3 a"] {
            assert!(pax(body.as_bytes(), &mut Extended::default()).is_err(), "{body}");
        }
    }
}
