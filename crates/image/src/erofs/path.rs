//! Names in archives, made paths inside the root.
//!
//! A name is always meant from the root, with or without a leading slash; `.` parts are nothing; `..` is refused, since no
//! honest archive has it. Nothing is ever opened on the host by such a name.

use super::index::What;
use super::limits::{Limits, NAME_LEN_MAX, refused};
use crate::error::Result;

/// What begins the name of a whiteout.
const WHITEOUT: &[u8] = b".wh.";
/// The mark of an opaque directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What begins the names of aufs' own book-keeping.
const AUFS: &[u8] = b".wh..wh.";

/// The name of an entry as a path inside the root.
pub(super) fn checked(name: &[u8], limits: &Limits) -> Result<Box<[u8]>> {
    if name.is_empty() {
        return Err(refused(name, "it has no name"));
    }
    if name.len() > limits.path_len_max {
        return Err(refused(name, format_args!("its name is longer than {} bytes", limits.path_len_max)));
    }
    if name.contains(&0) {
        return Err(refused(name, "its name has a zero byte"));
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(refused(name, "its name has a \"..\", which would leave its directory")),
            part if part.len() > NAME_LEN_MAX => {
                return Err(refused(name, format_args!("a part of its name is longer than {NAME_LEN_MAX} bytes")));
            }
            part => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path.into_boxed_slice())
}

/// What a name says by itself.
pub(super) enum Marked {
    /// Nothing: it is the name of a file.
    No,
    /// This is what it is, at this path.
    Yes(Box<[u8]>, What),
    /// Book-keeping of aufs, in old images: not part of the root.
    Dropped,
}

/// Reads the marks that OCI layers put into names.
pub(super) fn marks(path: &[u8]) -> Result<Marked> {
    let (parent, base) = split(path);
    if parent.split(|b| *b == b'/').any(|part| part.starts_with(AUFS)) {
        return Ok(Marked::Dropped);
    }
    if parent.split(|b| *b == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(refused(path, "it is below a whiteout"));
    }
    if base == OPAQUE {
        return Ok(Marked::Yes(parent.into(), What::Opaque));
    }
    if base.starts_with(AUFS) {
        return Ok(Marked::Dropped);
    }
    let Some(hidden) = base.strip_prefix(WHITEOUT) else { return Ok(Marked::No) };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(refused(path, "a whiteout of no file"));
    }
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(hidden);
    Ok(Marked::Yes(path.into_boxed_slice(), What::Whiteout))
}

/// The directory and the last part of a checked path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_inside_the_root() {
        let limits = Limits::default();
        for (name, path) in [
            ("a", "a"),
            ("/a", "a"),
            ("./a/./b//c/", "a/b/c"),
            ("/", ""),
            ("./", ""),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(&*checked(name.as_bytes(), &limits).unwrap(), path.as_bytes(), "{name}");
        }
        for name in ["", "..", "../a", "a/../b", "/..", "a\0b", &"x".repeat(256), &"x/".repeat(3000)] {
            assert!(checked(name.as_bytes(), &limits).is_err(), "{name}");
        }
    }

    #[test]
    fn marks_of_layers_are_read_from_names() {
        let whiteout = |path: &str| match marks(path.as_bytes()) {
            Ok(Marked::Yes(path, What::Whiteout)) => Some(String::from_utf8(path.to_vec()).unwrap()),
            _ => None,
        };
        assert_eq!(whiteout(".wh.a").as_deref(), Some("a"));
        assert_eq!(whiteout("d/.wh.a").as_deref(), Some("d/a"));
        assert!(matches!(marks(b"d/.wh..wh..opq"), Ok(Marked::Yes(path, What::Opaque)) if &*path == b"d"));
        assert!(matches!(marks(b".wh..wh.plnk/9.1"), Ok(Marked::Dropped)));
        assert!(matches!(marks(b".wh..wh.aufs"), Ok(Marked::Dropped)));
        assert!(matches!(marks(b"a/.whx"), Ok(Marked::No)));
        for bad in ["a/.wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(marks(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
