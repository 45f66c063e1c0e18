//! From a command to the file that is executed: inside the root only, or beside the task without a sandbox.

use std::path::{Path, PathBuf};

use super::failure::Failure;

/// Where a bare name is looked for inside a root.
const ROOT_DIRS: [&str; 3] = ["usr/local/bin", "usr/bin", "bin"];
/// Where it is looked for on a host, beside the task's own directory.
const HOST_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds the file a command stands for: the first regular file of the list. Directories, sockets and devices never match.
///
/// `search` is the program's own `PATH`: a bare name is looked for there before the usual places, so that an image finds
/// what it installed. With a task directory there is no sandbox: then absolute host paths and the host's usual directories
/// count too, and `search` does not, because the host's programs are not the task's to choose from.
pub fn resolve(root: &Path, task_dir: Option<&Path>, search: Option<&str>, command: &str) -> Result<PathBuf, Failure> {
    if command.is_empty() || command.contains('\0') {
        return Err(Failure::invalid("command: empty, or with a zero byte in it"));
    }
    let candidates = candidates(root, task_dir, search, command);
    if let Some(found) = candidates.iter().find(|path| std::fs::metadata(path).is_ok_and(|m| m.is_file())) {
        return Ok(found.clone());
    }
    let searched: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::invalid(format!("command {command:?} is not in this sandbox: no file {}", searched.join(", "))))
}

fn candidates(root: &Path, task_dir: Option<&Path>, search: Option<&str>, command: &str) -> Vec<PathBuf> {
    // A leading slash is just joined: everything is looked up below the base.
    let relative = command.trim_start_matches('/');
    let base = task_dir.unwrap_or(root);
    let mut candidates = vec![base.join("local").join(relative), base.join(relative)];
    match task_dir {
        Some(_) if command.starts_with('/') => candidates.push(PathBuf::from(command)),
        Some(_) if !command.contains('/') => {
            candidates.extend(HOST_PATH.iter().map(|dir| Path::new(dir).join(command)));
        }
        None if !command.contains('/') => {
            let own = search.unwrap_or_default().split(':').filter_map(|dir| dir.strip_prefix('/'));
            for dir in own.map(|dir| dir.trim_start_matches('/')).chain(ROOT_DIRS) {
                let path = root.join(dir).join(command);
                if !candidates.contains(&path) {
                    candidates.push(path);
                }
            }
        }
        Some(_) | None => {}
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        root
    }

    /// N07: the lookup table of A7.
    #[test]
    fn n07_lookup_table() {
        let root = root_with(&["usr/local/bin/tool", "foo/x", "local/x", "srv/x", "bin/both", "local/both"]);
        std::fs::create_dir_all(root.path().join("local/dir")).unwrap();
        for (command, expected) in [
            ("tool", Some("usr/local/bin/tool")),
            ("/foo/x", Some("foo/x")),
            ("foo/x", Some("foo/x")),
            ("/local/x", Some("local/x")),
            ("local/x", Some("local/x")),
            ("x", Some("local/x")),
            ("/srv/x", Some("srv/x")),
            ("both", Some("local/both")),
            ("bin/both", Some("bin/both")),
            ("dir", None),
            ("/bin/kill", None),
            ("kill", None),
            ("", None),
        ] {
            let found = resolve(root.path(), None, None, command).ok();
            assert_eq!(found, expected.map(|e| root.path().join(e)), "{command}");
        }
    }

    #[test]
    fn an_images_own_path_comes_before_the_usual_places() {
        let root = root_with(&["opt/go/bin/go", "usr/bin/go", "usr/bin/sh", "etc/go"]);
        for (search, command, expected) in [
            ("/opt/go/bin:/usr/bin", "go", Some("opt/go/bin/go")),
            ("/usr/bin:/opt/go/bin", "go", Some("usr/bin/go")),
            ("opt/go/bin:.::", "go", Some("usr/bin/go")),
            ("/nowhere", "sh", Some("usr/bin/sh")),
            ("/opt/go/bin", "bin/go", None),
        ] {
            let found = resolve(root.path(), None, Some(search), command).ok();
            assert_eq!(found, expected.map(|e| root.path().join(e)), "{search} {command}");
        }
    }

    #[test]
    fn a_missing_command_is_named_with_every_place_searched() {
        let failure = resolve(Path::new("/nonexistent"), None, None, "frob").unwrap_err();
        for place in ["frob", "/nonexistent/local/frob", "/nonexistent/usr/bin/frob"] {
            assert!(failure.message.contains(place), "{failure:?}");
        }
    }

    #[test]
    fn without_a_sandbox_the_task_comes_before_the_host() {
        let task = root_with(&["local/sh", "run"]);
        let find = |command| resolve(Path::new("/"), Some(task.path()), None, command);
        assert_eq!(find("sh").unwrap(), task.path().join("local/sh"));
        assert_eq!(find("run").unwrap(), task.path().join("run"));
        assert_eq!(find("/bin/sh").unwrap(), Path::new("/bin/sh"));
        assert!(find("env").unwrap().is_absolute());
        assert!(find("etc/passwd").is_err());
    }
}
