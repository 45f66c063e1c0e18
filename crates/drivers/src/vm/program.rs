//! What a program of the operator's says of itself. Whoever asks is a daemon that starts: it waits for nobody for long.

use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A program that prints a line takes milliseconds; on a machine with much to do, some more.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER_LEN_MAX: u64 = 4096;

/// What it prints for `--version`, within a bound of time and length.
pub fn version(path: &Path) -> Result<String, String> {
    answer(path, ANSWER_WITHIN)
}

fn answer(path: &Path, within: Duration) -> Result<String, String> {
    let mut child = Command::new(path)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    // A line fits into the pipe, so nobody has to read before it ends.
    let ended = wait(&child, within);
    if !ended.is_ok_and(|ended| ended) {
        // Whether it could be killed or not, nobody waits for it longer.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("no answer within {} s", within.as_secs()));
    }
    child.wait().map_err(|e| e.to_string())?;
    let Some(stdout) = child.stdout.take() else { return Err("no output".to_owned()) };
    // All it said is there. A process that it left behind may hold the other end open, and would be waited for.
    fcntl_setfl(&stdout, OFlags::NONBLOCK).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    match stdout.take(ANSWER_LEN_MAX).read_to_end(&mut answer) {
        Err(e) if e.kind() != ErrorKind::WouldBlock => Err(e.to_string()),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// Whether it ends in time.
fn wait(child: &Child, within: Duration) -> rustix::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let within = Timespec { tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&within))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script that does this.
    fn program(path: &Path, does: &str) {
        // By another process: one that is forked meanwhile would keep ours from being executed while it is being written.
        let script = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let made = Command::new("/bin/sh").args(["-c", script]).arg(path).arg(does).status().unwrap();
        assert!(made.success());
    }

    #[test]
    fn one_that_does_not_answer_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        program(&path, "exec sleep 1000");
        assert_eq!(answer(&path, Duration::from_secs(1)).unwrap_err(), "no answer within 1 s");
        assert!(version(&dir.path().join("none")).unwrap_err().contains("No such file"));
        assert!(version(Path::new("/bin/sh")).is_ok());
    }

    #[test]
    fn whoever_it_leaves_behind_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        program(&path, r#"echo "name 1.2"; (sleep 5; rm -f "$0") & exit 0"#);
        assert_eq!(version(&path).unwrap(), "name 1.2\n");
        assert!(path.exists(), "the one left behind was waited for");
    }
}
