//! Where an artifact goes, as text: what is really there is looked at when it arrives.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// The destination relative to `alloc_dir`, or why it leaves it.
///
/// A relative one begins at the task's directory. An absolute one is a path inside the sandbox, unless it is one of the
/// allocation's own on the host: `/alloc` is what the tasks share, everything else lies in the task's directory.
pub(super) fn inside(destination: &str, alloc_dir: &Path, task_dir: &Path) -> Result<PathBuf, String> {
    let leaves = || format!("destination {destination:?} leaves the allocation's directory");
    let task =
        task_dir.strip_prefix(alloc_dir).map_err(|_| "the task's directory is not the allocation's".to_owned())?;
    let given = Path::new(destination);
    if destination.contains('\0') {
        return Err(format!("destination {destination:?} holds a zero byte"));
    }
    let (base, rest) = match (given.strip_prefix(alloc_dir), given.strip_prefix("/alloc"), given.strip_prefix("/")) {
        (Ok(rest), ..) => (Path::new(""), rest),
        (_, Ok(rest), _) => (Path::new("alloc"), rest),
        (_, _, Ok(rest)) => (task, rest),
        _ => (task, given),
    };
    let mut parts: Vec<OsString> = base.components().map(|part| part.as_os_str().to_owned()).collect();
    // `..` may lead to what the tasks share, as in a relative one; above the allocation it leads nowhere.
    for part in rest.components() {
        match part {
            Component::Normal(name) if name.as_bytes().len() > 255 => return Err("a name is too long".to_owned()),
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::ParentDir => drop(parts.pop().ok_or_else(leaves)?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err(leaves()),
        }
    }
    if parts.is_empty() {
        return Err(format!("destination {destination:?} is the allocation's own directory"));
    }
    Ok(parts.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::inside;

    fn at(destination: &str) -> Result<String, String> {
        inside(destination, "/d/alloc/1".as_ref(), "/d/alloc/1/web".as_ref()).map(|path| path.display().to_string())
    }

    #[test]
    fn destinations_stay_in_the_allocation() {
        for (destination, path) in [
            ("local/", "web/local"),
            ("local/../secrets/x", "web/secrets/x"),
            ("../alloc/x", "alloc/x"),
            ("/d/alloc/1/alloc/x", "alloc/x"),
            ("/alloc/data", "alloc/data"),
            ("/etc", "web/etc"),
            ("/etc/../../alloc", "alloc"),
            ("/allocation", "web/allocation"),
        ] {
            assert_eq!(at(destination).unwrap(), path, "{destination}");
        }
    }

    #[test]
    fn whatever_leaves_it_is_refused() {
        for destination in ["../../x", "../..", "..", "/../../x", "local/../../../x", "/d/alloc/1/../2/x", "a\0b"] {
            assert!(at(destination).is_err(), "{destination}");
        }
    }
}
