//! The directories of a workload without a sandbox: the layout every sandbox shows, on the host's own disk.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use moat_engine::{Error, Result};
use moat_model::ErrorKind;
use moat_model::spec::Artifact;

use super::user::Owner;

/// What is made for a workload: path below the task directory, and its mode.
const DIRS: [(&str, u32); 6] = [
    ("local", 0o755),
    ("secrets", 0o700),
    ("tmp", 0o1777),
    ("alloc", 0o755),
    ("alloc/tmp", 0o755),
    ("alloc/data", 0o755),
];

/// Makes the directory and what is in it, for `owner`. `log_dir` is shown as `alloc/logs`.
pub(super) fn build(dir: &Path, owner: Owner, artifact: Option<&Artifact>, log_dir: Option<&Path>) -> Result<()> {
    if let Some(above) = dir.parent() {
        // Others may pass through, to what is theirs, but not look around.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(above).map_err(failed("making", above))?;
    }
    make(dir, 0o755, owner)?;
    for (name, mode) in DIRS {
        make(&dir.join(name), mode, owner)?;
    }
    let logs = dir.join("alloc/logs");
    match log_dir {
        Some(target) => symlink(target, &logs).map_err(failed("linking", &logs))?,
        None => make(&logs, 0o755, owner)?,
    }
    artifact.map_or(Ok(()), |artifact| place(artifact, &dir.join("local").join(&artifact.name)))
}

/// One that was made before: a directory under its own name.
pub(super) fn check(dir: &Path) -> Result<()> {
    let found = fs::symlink_metadata(dir)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("task_dir: {}", dir.display()), e))?;
    if dir.is_absolute() && found.is_dir() {
        return Ok(());
    }
    Err(Error::invalid(
        "task_dir",
        format!("{} must be the absolute path of a directory, not of a link", dir.display()),
    ))
}

fn make(path: &Path, mode: u32, owner: Owner) -> Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(failed("making", path))?;
    // Not masked by the daemon's umask, and never open to others before it belongs to the right user.
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(failed("giving away", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("setting the mode of", path))
}

/// Shows the artifact: as another name of the fetched file where that is already readable and executable for everybody,
/// otherwise as a copy that is. The fetched file itself is shared by all workloads and stays as it is.
fn place(artifact: &Artifact, target: &Path) -> Result<()> {
    let source = &artifact.path;
    let mode = fs::metadata(source).map_err(failed("looking at", source))?.mode();
    if mode & 0o555 == 0o555 && fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    fs::copy(source, target).map_err(failed("copying the artifact to", target))?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o555)).map_err(failed("setting the mode of", target))
}

/// The first directory on the way to `dir` that other users cannot enter.
pub(super) fn barrier(dir: &Path) -> Option<PathBuf> {
    let above = dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
    above.filter(|path| fs::metadata(path).is_ok_and(|m| m.mode() & 0o001 == 0)).last().map(Path::to_owned)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let doing = format!("task directory: {doing} {}", path.display());
    |source| Error::caused_by(ErrorKind::Internal, doing, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(path: PathBuf) -> Artifact {
        Artifact { path, name: "run".to_owned(), sha256: "0".repeat(64) }
    }

    #[test]
    fn the_layout_of_every_sandbox() {
        let above = tempfile::tempdir().unwrap();
        let (dir, logs, program) = (above.path().join("task"), above.path().join("logs"), above.path().join("program"));
        fs::create_dir(&logs).unwrap();
        fs::write(&program, "x").unwrap();
        build(&dir, Owner::of_daemon(), Some(&artifact(program.clone())), Some(&logs)).unwrap();
        for (name, mode) in DIRS {
            assert_eq!(fs::metadata(dir.join(name)).unwrap().mode() & 0o7777, mode, "{name}");
        }
        assert_eq!(fs::read_link(dir.join("alloc/logs")).unwrap(), logs);
        let run = fs::metadata(dir.join("local/run")).unwrap();
        assert_eq!(run.mode() & 0o777, 0o555);
        assert_eq!(run.nlink(), 1, "the fetched file was not executable, and is left alone");
        assert_eq!(fs::metadata(program).unwrap().mode() & 0o111, 0);
    }

    #[test]
    fn an_executable_artifact_is_not_copied() {
        let above = tempfile::tempdir().unwrap();
        let program = above.path().join("program");
        fs::write(&program, "x").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o555)).unwrap();
        build(&above.path().join("task"), Owner::of_daemon(), Some(&artifact(program.clone())), None).unwrap();
        assert_eq!(fs::metadata(program).unwrap().nlink(), 2);
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        for (mode, closed) in [(0o700, Some(above.path())), (0o711, None)] {
            fs::set_permissions(above.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(barrier(&dir.join("task")).as_deref(), closed, "{mode:o}");
        }
    }
}
