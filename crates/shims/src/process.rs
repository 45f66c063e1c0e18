//! Finding processes by what they are called, and waiting for their end: what rc.subr asks `ps` and `pwait` on FreeBSD.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use crate::options::{Options, text};
use crate::{Failure, Outcome, sys};

/// Stands for whatever name.
const ANY: &str = ".";

/// `find-processes NAME INTERPRETER [PID...]`: prints the processes called so, of these or of all, in one line.
pub fn find_main(arguments: &[OsString]) -> Outcome {
    let words = arguments.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let [name, interpreter, pids @ ..] = words.as_slice() else {
        return Err(Failure::new(64, "usage: find-processes NAME INTERPRETER [PID...]"));
    };
    let pids: Vec<i32> = if pids.is_empty() && name != ANY { all() } else { numbers(pids)? };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let found: Vec<String> =
        pids.iter().filter(|pid| **pid != own && is_called(**pid, name, interpreter)).map(i32::to_string).collect();
    if !found.is_empty() {
        println!("{}", found.join(" "));
    }
    Ok(0)
}

/// `wait-processes [-t SECONDS] PID...`: returns when all are gone, or with 1 when the time is over.
pub fn wait_main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "t:");
    let mut seconds = None;
    while let Some((_, value)) = options.next()? {
        let value = text(&value)?;
        seconds = Some(value.parse().map_err(|_| format!("-t {value}: is no number of seconds"))?);
    }
    let words = options.rest().iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let until = seconds.map(|seconds| std::time::Instant::now() + Duration::from_secs(seconds));
    for pid in numbers(&words)? {
        let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
        if !sys::wait_gone(pid, left).map_err(|e| format!("wait for {pid}: {e}"))? {
            return Ok(1);
        }
    }
    Ok(0)
}

fn numbers(words: &[String]) -> Result<Vec<i32>, String> {
    let number =
        |word: &String| word.parse().ok().filter(|pid| *pid > 0).ok_or_else(|| format!("'{word}' is no process"));
    words.iter().map(number).collect()
}

fn all() -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .map(|dir| dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    pids.sort_unstable();
    pids
}

/// Whether this process runs and is called `name`; with an interpreter, whether that runs a script of this name.
pub fn is_called(pid: i32, name: &str, interpreter: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((short, rest)) = stat.rsplit_once(')') else { return false };
    // One that has ended and was not collected runs no more.
    if rest.trim_start().starts_with(['Z', 'X']) {
        return false;
    }
    if name == ANY {
        return true;
    }
    let short = short.split_once('(').map(|(_, short)| short).unwrap_or_default();
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> =
        words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    matches(&words, short, name, interpreter)
}

fn matches(words: &[String], short: &str, name: &str, interpreter: &str) -> bool {
    let first = words.first().map(String::as_str).unwrap_or_default();
    if interpreter != ANY && !interpreter.is_empty() {
        // "#!/usr/bin/env python3 -u" and the like: the last word that is no option is what runs.
        let runs = interpreter.split_whitespace().rfind(|word| !word.starts_with('-')).unwrap_or(interpreter);
        return same(first, runs) && words.iter().skip(1).any(|word| word == name);
    }
    // A kernel's short name has 15 bytes, and only programs without arguments of their own have nothing else.
    same(first, name) || (first.is_empty() && base(name).get(..15).unwrap_or(base(name)) == short)
}

/// Whether a process that calls itself `word` is the program `name`: by its whole path, its last part, or "part:".
fn same(word: &str, name: &str) -> bool {
    let word = word.split_once(": ").map_or(word, |(title, _)| title).trim_end_matches(':');
    word == name || base(word.trim_start_matches('-')) == base(name)
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str], name: &str, interpreter: &str) -> bool {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        matches(&words, "short", name, interpreter)
    }

    #[test]
    fn names_of_processes() {
        assert!(called(&["/usr/local/bin/nats-server", "-c", "x"], "/usr/local/bin/nats-server", "."));
        assert!(called(&["nats-server"], "/usr/local/bin/nats-server", "."));
        assert!(called(&["nginx: master process /usr/sbin/nginx"], "/usr/sbin/nginx", "."));
        assert!(called(&["daemon:"], "/usr/sbin/daemon", "."));
        assert!(!called(&["cat", "/usr/local/bin/nats-server"], "/usr/local/bin/nats-server", "."));
        assert!(called(&["/usr/bin/python3", "-u", "/usr/local/bin/app"], "/usr/local/bin/app", "/usr/bin/python3"));
        assert!(!called(&["/usr/bin/python3", "/other"], "/usr/local/bin/app", "/usr/bin/python3"));
        assert!(called(&[""], "/x/short", "."));
    }

    #[test]
    fn this_test_is_a_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        let name = std::env::args().next().unwrap();
        assert!(is_called(own, &name, "."));
        assert!(!is_called(own, "/no/such", "."));
        assert!(is_called(own, ANY, ANY));
        assert!(!is_called(i32::MAX, ANY, ANY));
    }
}
