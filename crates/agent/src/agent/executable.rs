//! Programs that were fetched or rendered without the right to be executed.
//!
//! Whoever names a file of the task's own `local/` as its command wants it executed, so it is made executable. What is not
//! certainly the task's own is left as it is, and the kernel refuses it: a link, a file with a second name, another mount.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, openat, openat2};

const EXECUTABLE: u32 = 0o555;

/// Makes the file at `below` in the task's directory `own` executable, if it is one of its own.
pub fn make(own: &Path, below: &Path) {
    // Whatever is in the way, executing it says it better.
    let _ = attempt(own, below);
}

fn attempt(own: &Path, below: &Path) -> io::Result<()> {
    let dir = openat(CWD, own, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    // A pipe in its place must not stop the agent.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(&dir, below, flags, Mode::empty(), resolve)?;
    let found = fstat(&file)?;
    let own = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_nlink == 1;
    if own && found.st_mode & EXECUTABLE != EXECUTABLE {
        fchmod(&file, Mode::from_raw_mode(found.st_mode & 0o7777 | EXECUTABLE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_what_is_certainly_the_tasks_own_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("local");
        fs::create_dir_all(local.join("sub")).unwrap();
        let file = |path: &str| {
            let path = dir.path().join(path);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            path
        };
        let (own, deeper, outside) = (file("local/own"), file("local/sub/deeper"), file("outside"));
        let named_twice = file("second");
        fs::hard_link(&named_twice, local.join("first")).unwrap();
        symlink(&outside, local.join("link")).unwrap();
        for below in ["own", "sub/deeper", "link", "first", "../outside", "sub", "absent"] {
            make(&local, Path::new(below));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode(&own), mode(&deeper)], [0o755, 0o755]);
        assert_eq!([mode(&outside), mode(&named_twice)], [0o640, 0o640]);
    }
}
