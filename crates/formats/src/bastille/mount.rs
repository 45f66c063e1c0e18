//! What `mount` takes: a path of the host, where it is shown, and how, as in a line of `fstab`.

use std::path::{Component, Path, PathBuf};

use moat_model::jail::{JailMount, MountKind};

use super::Refusal;

/// Other kinds of mounts than directories of the host, and what there is in their place.
const TYPES: [(&str, &str); 7] = [
    ("tmpfs", "files of a jail lie on disk; a directory of its own, such as /tmp, is there already"),
    ("linprocfs", "/proc is there already"),
    ("procfs", "/proc is there already"),
    ("linsysfs", "/sys is there already"),
    ("fdescfs", "/dev/fd is there already"),
    ("devfs", "/dev is there already"),
    ("zfs", "there are no ZFS datasets; show a directory with nullfs"),
];
const USAGE: &str = "write HOSTPATH JAILPATH [nullfs ro|rw 0 0]";

/// Reads `HOSTPATH JAILPATH [TYPE OPTIONS DUMP PASS]`. Two words are shown read-only.
pub fn mount(words: &[&str]) -> Result<JailMount, Refusal> {
    let (host, target, rest) = match words {
        [host, target, rest @ ..] if matches!(rest.len(), 0 | 4) => (host, target, rest),
        _ => return Err(Refusal::new("mount takes two words, or six", USAGE)),
    };
    let (kind, options) = match rest {
        [kind, options, dump, pass] => {
            for (index, number) in [(4, dump), (5, pass)] {
                if !matches!(*number, "0" | "1") {
                    return Err(Refusal::at(index, format!("{number:?} is neither 0 nor 1"), USAGE));
                }
            }
            (*kind, *options)
        }
        _ => ("nullfs", "ro"),
    };
    if let Some((_, why)) = TYPES.iter().find(|(known, _)| *known == kind) {
        return Err(Refusal::at(2, format!("mounts of type {kind} are not available"), *why));
    }
    if kind != "nullfs" {
        return Err(Refusal::at(2, format!("there is no type of mounts called {kind:?}"), "there is nullfs"));
    }
    let source = absolute(host).map_err(|message| Refusal::at(0, message, "write an absolute path of the host"))?;
    let target = inside(target).map_err(|message| Refusal::at(1, message, "write an absolute path of the jail"))?;
    if target == Path::new("/") {
        return Err(Refusal::at(1, "the root of a jail is its own", "show it below a directory"));
    }
    Ok(JailMount { kind: MountKind::Host(source), target, read_only: read_only(options)? })
}

fn read_only(options: &str) -> Result<bool, Refusal> {
    let mut read_only = None;
    for option in options.split(',') {
        let this = match option {
            "ro" => true,
            "rw" => false,
            "rq" | "sw" | "xx" => {
                return Err(Refusal::at(3, format!("option {option} is about FreeBSD's fstab"), "write ro or rw"));
            }
            _ => return Err(Refusal::at(3, format!("option {option:?} is not available"), "write ro or rw")),
        };
        if read_only.replace(this).is_some_and(|before| before != this) {
            return Err(Refusal::at(3, "both ro and rw", "write one of them"));
        }
    }
    read_only.ok_or_else(|| Refusal::at(3, "neither ro nor rw", "write one of them"))
}

/// An absolute path without `..`.
fn absolute(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} is not absolute"));
    }
    plain(text).map(|path| Path::new("/").join(path))
}

/// A path of the jail: without a leading slash it is below the jail's root all the same, as in Bastille.
pub(super) fn inside(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("an empty path".to_owned());
    }
    plain(text).map(|path| Path::new("/").join(path))
}

/// `text` as a relative path that stays below where it begins, doubled slashes and `.` gone.
pub(super) fn plain(text: &str) -> Result<PathBuf, String> {
    // As long as Linux takes.
    if text.len() > 4095 {
        return Err("a path has at most 4095 bytes".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has a character that is not printed"));
    }
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(format!("{text:?} goes upwards with \"..\"")),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_two_words_and_in_six() {
        for (line, source, target, read_only) in [
            ("/srv/data /mnt", "/srv/data", "/mnt", true),
            ("/srv//data/ mnt/data", "/srv/data", "/mnt/data", true),
            ("/srv/data /mnt nullfs rw 0 0", "/srv/data", "/mnt", false),
            ("/srv/data /mnt nullfs ro 1 1", "/srv/data", "/mnt", true),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let expected = JailMount { kind: MountKind::Host(source.into()), target: target.into(), read_only };
            assert_eq!(mount(&words), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_mount_names_the_word() {
        for (line, word) in [
            ("/srv", None),
            ("/srv /mnt nullfs", None),
            ("srv /mnt", Some(0)),
            ("/srv/../etc /mnt", Some(0)),
            ("/srv /mnt/../..", Some(1)),
            ("/srv /", Some(1)),
            ("tmpfs /tmp tmpfs rw 0 0", Some(2)),
            ("/srv /mnt ext4 rw 0 0", Some(2)),
            ("/srv /mnt nullfs noatime 0 0", Some(3)),
            ("/srv /mnt nullfs ro,rw 0 0", Some(3)),
            ("/srv /mnt nullfs sw 0 0", Some(3)),
            ("/srv /mnt nullfs rw 2 0", Some(4)),
            ("/srv /mnt nullfs rw 0 x", Some(5)),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(mount(&words).unwrap_err().word, word, "{line}");
        }
    }
}
