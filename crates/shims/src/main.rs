//! FreeBSD's words for Linux roots, in one static program that acts by the name it is called with.
//!
//! It runs inside jails, as whoever calls it, and promises the caller nothing the kernel would not: it has no rights of its
//! own. Nothing here ever hands text to a shell. No process of it starts a second thread.

mod account;
mod daemon;
mod edit;
mod init;
mod nologin;
mod options;
mod pkg;
mod place;
mod process;
mod pw;
mod rcconf;
mod rcorder;
mod run_as;
mod service;
mod sys;
mod sysrc;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

/// What an applet ends with: its status, and what is said about it.
#[derive(Debug)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// Said on standard error behind the name of the applet; nothing if it is empty.
    pub text: String,
}

impl Failure {
    /// A failure with this status.
    pub fn new(status: u8, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::new(1, text)
    }
}

/// What an applet gives back: its exit status, or a failure to report.
pub type Outcome = Result<u8, Failure>;

/// An applet: its arguments are those behind its name.
type Applet = fn(&[OsString]) -> Outcome;

const APPLETS: [(&str, Applet); 11] = [
    ("pw", pw::main),
    ("sysrc", sysrc::main),
    ("service", service::main),
    ("daemon", daemon::main),
    ("pkg", pkg::main),
    ("init", init::main),
    ("rcorder", rcorder::main),
    ("nologin", nologin::main),
    // For rc.subr.
    ("as", run_as::main),
    ("find-processes", process::find_main),
    ("wait-processes", process::wait_main),
];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().map(|path| base_name(path)).unwrap_or_default();
    let rest = arguments.get(1..).unwrap_or_default();
    let (name, rest) = match (find(&called), rest.split_first()) {
        (Some(_), _) => (called, rest),
        (None, Some((name, rest))) => (base_name(name), rest),
        (None, None) => (String::new(), rest),
    };
    let Some(applet) = find(&name) else {
        let names: Vec<&str> = APPLETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: moat-shims APPLET ARG...; applets: {}", names.join(", "));
        return ExitCode::from(64);
    };
    // These two outlive whoever reads what they say.
    if !matches!(name.as_str(), "init" | "daemon") {
        sys::end_with_reader();
    }
    match applet(rest) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("{name}: {}", failure.text);
            }
            ExitCode::from(failure.status)
        }
    }
}

fn find(name: &str) -> Option<Applet> {
    APPLETS.iter().find(|(known, _)| *known == name).map(|(_, applet)| *applet)
}

fn base_name(path: &OsStr) -> String {
    let name = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}
