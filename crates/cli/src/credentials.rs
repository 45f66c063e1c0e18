//! What a running `moat up` leaves for other commands of the same user: where its server is and how to log in.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The content of the file.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// Server URL.
    pub server: String,
    /// User of the control account.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Base URL of the node's REST API, if it serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Process of the `moat up` that wrote it.
    pub pid: u32,
    /// Start time of that process in clock ticks: pids are used again.
    pub started: u64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("server", &self.server).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// The file, while the process that wrote it lives. Removed with this value.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
}

impl Drop for Published {
    fn drop(&mut self) {
        // A file left behind names a dead process, and is ignored for that.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The file's place: in the user's run directory, or in the system's for root.
pub fn path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("moat/up.json"),
        _ => PathBuf::from("/run/moat/up.json"),
    }
}

/// Credentials of a `moat up` that runs now.
pub fn find() -> Option<Credentials> {
    read(&path())
}

fn read(path: &Path) -> Option<Credentials> {
    let credentials: Credentials = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    (start_time(credentials.pid) == Some(credentials.started)).then_some(credentials)
}

/// Writes the file for this process.
pub fn publish(server: String, user: String, password: String, api: Option<String>) -> Result<Published, Failure> {
    publish_at(path(), server, user, password, api)
}

fn publish_at(
    path: PathBuf,
    server: String,
    user: String,
    password: String,
    api: Option<String>,
) -> Result<Published, Failure> {
    if let Some(other) = read(&path) {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!(
                "another `moat up` runs (process {}, {}): stop it, or give this one a run directory of its own with XDG_RUNTIME_DIR",
                other.pid, other.server
            ),
        ));
    }
    let pid = std::process::id();
    let started = start_time(pid).ok_or_else(|| Failure::internal("read /proc/self/stat", "no start time"))?;
    let text = serde_json::to_vec(&Credentials { server, user, password, api, pid, started })?;
    let failed = |e: std::io::Error| Failure::file("write credentials", &path, &e);
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let draft = path.with_extension(format!("{pid}.new"));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(&text).and_then(|()| std::fs::rename(&draft, &path)).map_err(failed)?;
    Ok(Published { path })
}

/// When a living process began, in clock ticks since boot: field 22 of its `stat`, after a name that may hold anything.
///
/// One that has ended but was not collected by its parent yet is not living: after a kill that can take a second.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn credentials_live_as_long_as_their_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moat/up.json");
        let publish =
            || publish_at(path.clone(), "nats://a:1".to_owned(), "moat".to_owned(), "secret".to_owned(), None);
        let published = publish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().password, "secret");
        assert_eq!(publish().unwrap_err().kind, ErrorKind::Conflict);

        let mut stale = read(&path).unwrap();
        stale.started += 1;
        std::fs::write(&path, serde_json::to_vec(&stale).unwrap()).unwrap();
        assert!(read(&path).is_none(), "another process has that pid now");
        assert!(publish().is_ok(), "a stale file is replaced");
        drop(published);
        assert!(!path.exists());
    }

    #[test]
    fn a_process_that_nobody_collected_is_not_living() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while start_time(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline, "it still counts as living");
            std::thread::yield_now();
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists(), "it is a zombie");
        child.wait().unwrap();
    }

    #[test]
    fn the_password_is_not_shown() {
        let shown = format!(
            "{:?}",
            Credentials {
                server: String::new(),
                user: String::new(),
                password: "secret".to_owned(),
                api: None,
                pid: 1,
                started: 1
            }
        );
        assert!(!shown.contains("secret"));
    }
}
