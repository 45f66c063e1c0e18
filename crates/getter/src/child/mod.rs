//! The child: gives up its rights, then fetches. Nothing it does is trusted by the parent.

mod address;
mod confine;
mod fetch;
mod git;
mod http;
mod s3;
mod seccomp;
mod tree;
mod unpack;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::FetchErrorKind;
use crate::wire::{Order, Report, receive_order, write_frame};

pub(crate) use tree::{shown, stays};
pub(crate) use unpack::{formats, is_archive, unpacked_name};

/// Reports of progress come not closer than this.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// First argument of a program that shall be the child. Nobody types it: it is no command.
pub const ARGUMENT: &str = "moat-fetching-child";

/// Whether this process was started to be the child.
pub fn is_wanted() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT)
}

/// Why the child failed, in words for the error's text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub kind: FetchErrorKind,
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(kind: FetchErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The node's own disk failed at `what`.
    pub(crate) fn node(what: &str, error: impl std::fmt::Display) -> Self {
        Self::new(FetchErrorKind::Node, format!("{what}: {error}"))
    }
}

/// The whole life of the child: to be called first thing by the program that [`crate::GetterConfig::program`] names.
///
/// Its standard input is the socket to the parent.
pub fn main() -> ExitCode {
    main_with(|_| None)
}

/// [`main`], with something else done instead of fetching once all rights are given up: for tests of what is left. The
/// text is reported as a failure.
#[doc(hidden)]
pub fn main_with(instead: impl FnOnce(&str) -> Option<String>) -> ExitCode {
    let Ok((order, descriptors)) = receive_order(Socket) else { return ExitCode::FAILURE };
    let report = match run(&order, descriptors, instead) {
        Ok(report) => report,
        Err(Failure { kind, detail }) => Report::Failed { kind, detail },
    };
    match write_frame(&mut Socket, &report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(
    order: &Order,
    descriptors: Vec<OwnedFd>,
    instead: impl FnOnce(&str) -> Option<String>,
) -> Result<Report, Failure> {
    let mut descriptors = descriptors.into_iter();
    let staging = descriptors.next().ok_or_else(|| Failure::new(FetchErrorKind::Child, "no directory was given"))?;
    let given = descriptors.next().filter(|_| order.given).map(File::from);
    let place = confine::confine(order, &staging)?;
    watch_parent();
    // There is one provider; the only error is that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(text) = instead(&order.plan.name) {
        return Err(Failure::new(FetchErrorKind::Child, text));
    }
    fetch::fetch(&fetch::Job { order, place: &place, progress: ProgressReports::default() }, given)
}

/// Ends this process and all it started when the parent is gone: the signal for that reaches only this one.
fn watch_parent() {
    let watch = || {
        let mut byte = [0];
        // The parent says nothing after its order.
        while !matches!(Socket.read(&mut byte), Ok(0)) {}
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
    };
    // Without the thread there is still the signal.
    let _ = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
}

/// The socket to the parent: standard input, which is never buffered here.
struct Socket;

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buf)?)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::net::send(rustix::stdio::stdin(), buf, rustix::net::SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reports progress now and then.
#[derive(Debug, Default)]
pub(crate) struct ProgressReports(Mutex<Option<Instant>>);

impl ProgressReports {
    pub(crate) fn tell(&self, bytes: u64, total: Option<u64>) {
        let Ok(mut last) = self.0.lock() else { return };
        if last.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        // A parent that is gone ends this process another way.
        let _ = write_frame(&mut Socket, &Report::Progress { bytes, total });
    }
}
