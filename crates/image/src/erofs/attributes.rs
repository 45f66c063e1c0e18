//! Which extended attributes a root keeps.

use moat_model::ErrorKind;

use super::header::invalid;
use super::index::{Node, Xattrs};
use crate::error::{Error, Result};

/// What the overlay file system writes for itself.
pub(super) const OVERLAY: &[u8] = b"trusted.overlay.";

/// Access list of a file.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Access list for what is made in a directory.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Namespaces that are kept, with their numbers in erofs. The access lists are whole names.
const USER: u8 = 1;
const NAMESPACES: [(&[u8], u8); 5] =
    [(b"user.", USER), (ACL_ACCESS, 2), (ACL_DEFAULT, 3), (b"trusted.", 4), (b"security.", 6)];

/// Those of an archive that are kept. Dropped are labels of the machine an image was made on, what the overlay file system
/// would take for its own, namespaces Linux does not have (other systems write such), and those of users on what is neither
/// a file nor a directory, where Linux has none.
pub(super) fn kept(mut xattrs: Xattrs, node: &Node) -> Result<Option<Box<Xattrs>>> {
    let of_users = matches!(node, Node::File(_) | Node::Directory);
    xattrs.retain(|name, _| {
        let label = &**name == b"security.selinux";
        !label && !name.starts_with(OVERLAY) && number(name).is_some_and(|(namespace, _)| of_users || namespace != USER)
    });
    check(&xattrs)?;
    Ok((!xattrs.is_empty()).then(|| Box::new(xattrs)))
}

/// Whether they can be written.
pub(super) fn check(xattrs: &Xattrs) -> Result<()> {
    for (name, value) in xattrs {
        let rest = number(name).map(|(_, rest)| rest).unwrap_or_default();
        if rest.is_empty() && !matches!(&**name, ACL_ACCESS | ACL_DEFAULT) {
            return Err(invalid("the name of an extended attribute is only a namespace"));
        }
        if u16::try_from(value.len()).is_err() {
            return Err(Error::new(ErrorKind::Exhausted, "an extended attribute of more than 65535 bytes"));
        }
    }
    Ok(())
}

/// The number of the namespace and the rest of the name.
pub(super) fn number(name: &[u8]) -> Option<(u8, &[u8])> {
    let (rest, number) = NAMESPACES.iter().find_map(|(prefix, n)| name.strip_prefix(*prefix).map(|rest| (rest, *n)))?;
    // Access lists have no rest.
    (rest.is_empty() || !matches!(number, 2 | 3)).then_some((number, rest))
}
