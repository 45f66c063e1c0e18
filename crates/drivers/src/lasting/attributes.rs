//! Whose a file is, and its extended attributes: everything with an id in it, moved from one block of ids to another.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, lgetxattr, llistxattr,
    lremovexattr, lsetxattr, utimensat,
};
use rustix::io::Errno;

use super::{IDS, Owners, failed, refused};

/// The largest value and the largest list of names that the kernel hands out.
const XATTR_MAX: usize = 64 << 10;

/// Capabilities of a program.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// Access list of a file.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Access list for what is made in a directory.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// On a directory of an overlay: nothing of what lies below shows through.
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// A named user, and a named group, in an access list.
const ACL_NAMED: [u8; 2] = [0x02, 0x08];

/// Versions of capabilities of files: for root of the host, and for the root whose id they name.
const CAPS_OF_ROOT: u8 = 2;
const CAPS_OF_ID: u8 = 3;
/// Their flag that they are in force.
const CAPS_LEN: usize = 20;

/// A name and a value.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

impl Owners {
    /// An id of the tree, in the copy.
    pub(super) fn shifted(self, id: u32, path: &Path, what: &str) -> Result<u32> {
        match self.inside(id) {
            Some(inside) => Ok(self.to + inside),
            None => Err(refused(
                path,
                format_args!("its {what} {id} is nobody of this tree, which begins at {}", self.from),
            )),
        }
    }

    /// An id of the tree, as it is in the sandbox.
    pub(super) fn inside(self, id: u32) -> Option<u32> {
        id.checked_sub(self.from).filter(|inside| *inside < IDS)
    }

    /// A value of an attribute with the ids in it shifted.
    pub(super) fn value(self, name: &[u8], value: &[u8], path: &Path) -> Result<Vec<u8>> {
        let mut value = value.to_vec();
        if name == CAPABILITY {
            return self.capability(value, path);
        }
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            // A version of four bytes, then tag, permissions and id of each.
            for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
                if let [tag, 0, _, _, a, b, c, d] = entry
                    && ACL_NAMED.contains(tag)
                {
                    let id = self.shifted(u32::from_le_bytes([*a, *b, *c, *d]), path, "access list")?;
                    [*a, *b, *c, *d] = id.to_le_bytes();
                }
            }
        }
        Ok(value)
    }

    /// They count for the root inside, whose id they name. Those that name nobody are an image's, and mean the same.
    fn capability(self, mut value: Vec<u8>, path: &Path) -> Result<Vec<u8>> {
        let wrong = || refused(path, "its capabilities are in a form that is not known");
        let root = match (value.get(3).copied(), value.len()) {
            (Some(CAPS_OF_ROOT), CAPS_LEN) => self.to,
            (Some(CAPS_OF_ID), 24) => {
                let id = value.get(CAPS_LEN..).and_then(|id| id.try_into().ok()).ok_or_else(wrong)?;
                self.shifted(u32::from_le_bytes(id), path, "capabilities' root")?
            }
            _ => return Err(wrong()),
        };
        value.truncate(CAPS_LEN);
        if let Some(version) = value.get_mut(3) {
            // Ids inside, as an archive has them: root there needs no name.
            *version = if root == 0 { CAPS_OF_ROOT } else { CAPS_OF_ID };
        }
        if root != 0 {
            value.extend_from_slice(&root.to_le_bytes());
        }
        Ok(value)
    }
}

/// A path that leads to a name in an open directory, for calls that take no descriptor. The name itself is not followed.
fn by_name(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Names of the extended attributes of what lies at a path that [`by_name`] made.
fn listed(at: &[u8], path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut list = vec![0; 1 << 10];
    let length = match llistxattr(at, &mut list[..]) {
        Err(Errno::RANGE) => {
            list.resize(XATTR_MAX, 0);
            llistxattr(at, &mut list[..])
        }
        other => other,
    };
    let length = match length {
        Err(Errno::NOTSUP) => 0,
        other => other.map_err(failed("list the attributes of", path))?,
    };
    list.truncate(length);
    Ok(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// All extended attributes of a name in a directory.
pub(super) fn xattrs(dir: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<Vec<Xattr>> {
    let at = by_name(dir, name);
    let mut found = Vec::new();
    for xattr in listed(&at, path)? {
        let mut value = vec![0; XATTR_MAX];
        let length = match lgetxattr(&*at, xattr.as_slice(), value.as_mut_slice()) {
            // A label that is listed and not there.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            other => other.map_err(failed("read the attributes of", path))?,
        };
        value.truncate(length);
        found.push((xattr, value));
    }
    Ok(found)
}

/// What a file is besides its content.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: (i64, u32),
    pub(super) atime: (i64, u32),
    pub(super) xattrs: Vec<Xattr>,
}

/// A whiteout of an overlay: made by the kernel in nobody's name.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

impl Attributes {
    /// Those of a name in a directory of the tree, as they are to be in the copy.
    pub(super) fn read(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, owners: Owners, path: &Path) -> Result<Self> {
        let nanos = |nanos: u64| u32::try_from(nanos).unwrap_or_default();
        let owner = |id, what| if is_whiteout(stat) { Ok(id) } else { owners.shifted(id, path, what) };
        let mut kept = Vec::new();
        for (name, value) in xattrs(dir, name, path)? {
            let value = owners.value(&name, &value, path)?;
            kept.push((name, value));
        }
        Ok(Self {
            uid: owner(stat.st_uid, "owner")?,
            gid: owner(stat.st_gid, "group")?,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            atime: (stat.st_atime, nanos(stat.st_atime_nsec)),
            xattrs: kept,
        })
    }

    /// Gives them to a name in a directory of the copy, which root alone can reach.
    pub(super) fn give(&self, dir: BorrowedFd<'_>, name: &[u8], kind: FileType, path: &Path) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("give away", path))?;
        if kind != FileType::Symlink {
            // After the owner: a change of that takes set-user-id bits away.
            let mode = Mode::from_raw_mode(self.mode);
            chmodat(dir, name, mode, AtFlags::empty()).map_err(failed("set the mode of", path))?;
        }
        let at = by_name(dir, name);
        for (xattr, value) in &self.xattrs {
            lsetxattr(&*at, xattr.as_slice(), value, XattrFlags::empty())
                .map_err(|errno| unkept(xattr, path, errno))?;
        }
        self.without_others(&at, path)?;
        let time = |(tv_sec, nanos): (i64, u32)| Timespec { tv_sec, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time(self.atime), last_modification: time(self.mtime) };
        utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the times of", path))
    }

    /// Takes away what an earlier pass or the directory above gave it: an access list for what is made in that is on all of it.
    /// Labels that a host puts on everything stay.
    fn without_others(&self, at: &[u8], path: &Path) -> Result<()> {
        for there in listed(at, path)? {
            let labels = there.starts_with(b"security.") && there != CAPABILITY;
            if labels || self.xattrs.iter().any(|(name, _)| *name == there) {
                continue;
            }
            match lremovexattr(at, there.as_slice()) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(failed("take an attribute from", path)(errno)),
            }
        }
        Ok(())
    }
}

fn unkept(xattr: &[u8], path: &Path, errno: Errno) -> Error {
    let what = format!("set attribute {} of {}", xattr.escape_ascii(), path.display());
    let kind = if errno == Errno::NOTSUP { ErrorKind::Unsupported } else { ErrorKind::Internal };
    Error::caused_by(kind, what, std::io::Error::from(errno))
}
