//! Attributes of files on this host, as they are to the sandbox they belong to.

use std::os::fd::{AsRawFd, BorrowedFd};

use moat_model::ErrorKind;
use rustix::fs::{Stat, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::attributes::{ACL_ACCESS, ACL_DEFAULT, OVERLAY, kept};
use super::header::invalid;
use super::index::{Attributes, Node, Xattrs};
use super::limits::{Budget, NAME_LEN_MAX};
use super::overlay::OPAQUE;
use crate::error::{Error, Result};

/// What it notes for itself: where a file was copied from, and that it looked. Of no use in a layer of its own.
const NOTES: [&[u8]; 4] =
    [b"trusted.overlay.origin", b"trusted.overlay.impure", b"trusted.overlay.nlink", b"trusted.overlay.uuid"];

/// The largest value and the largest list of names that the kernel hands out.
const XATTR_MAX: usize = 64 << 10;

/// Ids of a sandbox.
const IDS: u32 = 1 << 16;

/// How what is on the host becomes what is in the layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Taken off every id.
    pub(super) uid_shift: u32,
    /// Whether opaque marks are kept.
    pub(super) overlay: bool,
}

impl View {
    /// Of a name in an open directory; links are not followed.
    pub(super) fn attributes(
        self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        budget: &Budget,
    ) -> Result<Attributes> {
        Ok(Attributes {
            mode: (stat.st_mode & 0o7777) as u16,
            uid: self.id(stat.st_uid, "owner")?,
            gid: self.id(stat.st_gid, "group")?,
            mtime: stat.st_mtime,
            mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            xattrs: self.xattrs(dir, name, budget)?,
        })
    }

    fn id(self, id: u32, what: &str) -> Result<u32> {
        let inside = id.checked_sub(self.uid_shift).filter(|id| *id < IDS);
        inside.ok_or_else(|| invalid(&format!("its {what} {id} is nobody in a sandbox")))
    }

    fn xattrs(self, dir: BorrowedFd<'_>, name: &[u8], budget: &Budget) -> Result<Option<Box<Xattrs>>> {
        // There is no lgetxattr relative to a descriptor on older kernels; this is one by another name, and the last part
        // is not followed.
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        let mut buffer = vec![0; 1 << 10];
        let listed = match llistxattr(&*path, buffer.as_mut_slice()) {
            Err(Errno::RANGE) => {
                buffer.resize(XATTR_MAX, 0);
                llistxattr(&*path, buffer.as_mut_slice())
            }
            other => other,
        };
        let count = match listed {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(None),
            Ok(count) => count,
            Err(error) => return Err(failed("list its extended attributes", error)),
        };
        let list = buffer.get(..count).unwrap_or_default().to_vec();
        let mut found = Xattrs::new();
        let mut opaque = None;
        let mut bytes = 0;
        for xattr in list.split(|b| *b == 0).filter(|xattr| !xattr.is_empty() && xattr.len() <= NAME_LEN_MAX) {
            buffer.resize(XATTR_MAX, 0);
            let count = match lgetxattr(&*path, xattr, buffer.as_mut_slice()) {
                // A label that the kernel lists but does not have.
                Err(Errno::NODATA | Errno::NOTSUP) => continue,
                other => other.map_err(|e| failed("read its extended attributes", e))?,
            };
            let value = self.shifted(xattr, buffer.get(..count).unwrap_or_default())?;
            bytes += xattr.len() + value.len();
            if bytes > budget.limits.xattr_bytes_max {
                let most = budget.limits.xattr_bytes_max;
                return Err(Error::new(ErrorKind::Exhausted, format!("more than {most} bytes of extended attributes")));
            }
            if xattr.starts_with(OVERLAY) {
                if self.overlay_mark(xattr, &value)? {
                    opaque = Some(value);
                }
            } else {
                found.insert(xattr.into(), value);
            }
        }
        let mut kept = kept(found, &Node::Directory)?;
        if let Some(value) = opaque {
            kept.get_or_insert_default().insert(OPAQUE.into(), value);
        }
        Ok(kept)
    }

    /// Whether a mark of the overlay file system is kept.
    fn overlay_mark(self, name: &[u8], value: &[u8]) -> Result<bool> {
        if name == OPAQUE && value == b"y" {
            return Ok(self.overlay);
        }
        if NOTES.contains(&name) {
            return Ok(false);
        }
        // Redirects and the like point into other layers, by names that mean something else there.
        Err(invalid(&format!("the overlay mark \"{}\" cannot be kept", name.escape_ascii())))
    }

    /// A value with the ids in it as the sandbox sees them.
    fn shifted(self, name: &[u8], value: &[u8]) -> Result<Box<[u8]>> {
        let mut value: Box<[u8]> = value.into();
        if name == b"security.capability" {
            // Version 3 ends with the id of the user that is root to whom it counts.
            if let [_, _, _, 3, .., a, b, c, d] = &mut *value {
                let id = self.id(u32::from_le_bytes([*a, *b, *c, *d]), "capability's root")?;
                [*a, *b, *c, *d] = id.to_le_bytes();
            }
        } else if matches!(name, ACL_ACCESS | ACL_DEFAULT) {
            // A version of four bytes, then tag, permissions and id of each.
            for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
                if let [tag, 0, _, _, a, b, c, d] = entry
                    && matches!(*tag, ACL_USER | ACL_GROUP)
                {
                    let id = self.id(u32::from_le_bytes([*a, *b, *c, *d]), "access list")?;
                    [*a, *b, *c, *d] = id.to_le_bytes();
                }
            }
        }
        Ok(value)
    }
}

/// A named user in an access list.
const ACL_USER: u8 = 0x02;
/// A named group.
const ACL_GROUP: u8 = 0x08;

/// The kernel said no.
pub(super) fn failed(doing: &str, error: Errno) -> Error {
    let kind = match error {
        Errno::NFILE | Errno::MFILE | Errno::NOMEM => ErrorKind::Exhausted,
        Errno::NOENT | Errno::STALE => ErrorKind::Conflict,
        Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG => ErrorKind::InvalidSpec,
        _ => ErrorKind::Unavailable,
    };
    Error::caused_by(kind, doing, std::io::Error::from(error))
}
