//! `moat-agent enter`: becomes a program of the host that confines itself, such as Firecracker's jailer.
//!
//! Such a program needs the host's rights until it gives them up, so it is in no jail of ours. What it cannot do for itself on
//! every host and in every version is done before it is executed, by one thread and without a moment in between: it is in its
//! cgroups, in a network of its own or the one that was made for it, and in no session of the daemon's.
//!
//! ```text
//! moat-agent enter [--netns <file>] <cgroup.procs>... -- <program> <argument>...
//! ```

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::launcher::{join_network, own_namespaces};

/// What it is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    netns: Option<PathBuf>,
    cgroup_procs: Vec<PathBuf>,
    program: PathBuf,
    args: Vec<OsString>,
}

/// Returns only if it failed; what failed is on standard error.
pub fn main() -> ExitCode {
    let error = match Order::read(std::env::args_os().skip(2)) {
        Some(order) => order.follow(),
        None => "usage: moat-agent enter [--netns file] cgroup.procs... -- program argument...".to_owned(),
    };
    eprintln!("enter: {error}");
    ExitCode::from(crate::OURS)
}

impl Order {
    fn read(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut order = Self::default();
        loop {
            let word = words.next()?;
            match word.to_str() {
                Some("--") => break,
                Some("--netns") => order.netns = Some(words.next()?.into()),
                _ => order.cgroup_procs.push(word.into()),
            }
        }
        order.program = words.next()?.into();
        order.args = words.collect();
        Some(order)
    }

    /// Does not return if it succeeds.
    fn follow(self) -> String {
        for file in &self.cgroup_procs {
            if let Err(error) = enter_cgroup(file) {
                return format!("{}: {error}", file.display());
            }
        }
        if let Err(error) = own_namespaces(self.netns.is_none()) {
            return format!("unshare namespaces: {error}");
        }
        if let Some(netns) = &self.netns
            && let Err(error) = join_network(netns)
        {
            return error.to_string();
        }
        // Fails only for the leader of a group, which then has a session of its own already.
        let _ = rustix::process::setsid();
        let error = Command::new(&self.program).args(&self.args).env_clear().current_dir("/").exec();
        format!("execute {}: {error}", self.program.display())
    }
}

fn enter_cgroup(file: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Option<Order> {
        Order::read(words.iter().map(OsString::from))
    }

    #[test]
    fn everything_after_the_dashes_is_the_programs() {
        let order = read(&["--netns", "/n", "/a", "/b", "--", "/bin/x", "--netns", "--", "y"]).unwrap();
        assert_eq!(order.netns, Some(PathBuf::from("/n")));
        assert_eq!(order.cgroup_procs, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!((order.program, order.args.len()), (PathBuf::from("/bin/x"), 3));
        for incomplete in [&[][..], &["/a"], &["--netns"], &["/a", "--"]] {
            assert_eq!(read(incomplete), None);
        }
    }
}
