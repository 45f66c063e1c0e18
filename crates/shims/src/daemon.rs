//! `daemon`: runs a program in the background, and looks after it if asked.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::account::{self, User};
use crate::options::{Options, text};
use crate::sys::{self, Event, Signals};
use crate::{Failure, Outcome, place, run_as};

const USAGE: &str = "usage: daemon [-cfrSH] [-p CHILD_PIDFILE] [-P SUPERVISOR_PIDFILE] [-u USER] [-o FILE] [-t TITLE]\n\
    \t[-l FACILITY] [-s PRIORITY] [-T TAG] [-m MASK] [-R SECONDS] [-C COUNT] COMMAND ARG...";

/// Lines of output longer than this are cut for the log: what listens at `/dev/log` takes no more in a packet.
const LINE_MAX: usize = 1024;

/// What was asked.
#[derive(Debug, Default)]
struct Asked {
    to_root: bool,
    to_null: bool,
    /// Seconds between the end of the program and its next start.
    restart: Option<u64>,
    count: Option<u64>,
    child_file: Option<PathBuf>,
    own_file: Option<PathBuf>,
    user: Option<User>,
    output: Option<PathBuf>,
    reopens: bool,
    title: Option<String>,
    syslog: Option<Syslog>,
}

/// Where lines of output go that are for the log.
#[derive(Debug)]
struct Syslog {
    facility: u8,
    priority: u8,
    tag: String,
}

/// `daemon`.
pub fn main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "cfrSHp:P:u:o:t:l:s:T:m:R:C:");
    let mut asked = Asked::default();
    let usage = |e: String| Failure::new(64, format!("{e}\n{USAGE}"));
    let (mut log, mut facility, mut priority, mut tag) = (false, 3, 5, None);
    while let Some((letter, value)) = options.next().map_err(usage)? {
        let number = |max: u64| {
            let number = value.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|number| *number <= max);
            number.ok_or_else(|| Failure::new(64, format!("-{letter} {}: is no number up to {max}", value.display())))
        };
        match letter {
            'c' => asked.to_root = true,
            'f' => asked.to_null = true,
            'r' => asked.restart = asked.restart.or(Some(1)),
            'R' => asked.restart = Some(number(3600)?.max(1)),
            'C' => (asked.count, asked.restart) = (Some(number(u64::MAX)?), asked.restart.or(Some(1))),
            'S' => log = true,
            'H' => asked.reopens = true,
            'p' => asked.child_file = Some(value.into()),
            'P' => asked.own_file = Some(value.into()),
            'o' => asked.output = Some(value.into()),
            't' => asked.title = Some(text(&value)?),
            'u' => asked.user = Some(account::user(Path::new("/etc"), &text(&value)?)?),
            'l' => (log, facility) = (true, known(letter, &text(&value)?, &FACILITIES)?),
            's' => (log, priority) = (true, known(letter, &text(&value)?, &PRIORITIES)?),
            'T' => (log, tag) = (true, Some(text(&value)?)),
            // 3 is both outputs, which is what happens anyway.
            _ if number(3)? == 3 => {}
            _ => return Err(Failure::new(64, format!("-m {}: only 3 is known here", value.display()))),
        }
    }
    let Some((program, rest)) = options.rest().split_first() else { return Err(usage("which command?".to_owned())) };
    if log {
        if !Path::new("/dev/log").exists() {
            return Err(Failure::new(64, "-S, -l, -s, -T: nothing listens at /dev/log in this jail: use -o FILE"));
        }
        let name = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
        asked.syslog = Some(Syslog { facility, priority, tag: tag.or(name).unwrap_or_default() });
    }
    run(&asked, program, rest)
}

const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];
const PRIORITIES: [(&str, u8); 9] = [
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

fn known(letter: char, name: &str, table: &[(&str, u8)]) -> Result<u8, Failure> {
    let found = table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    found.ok_or_else(|| Failure::new(64, format!("-{letter} {name}: is not known")))
}

/// A file with the number of a process in it, locked while that process is looked after.
#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// In place, because whoever may write the file may not always make another in its directory.
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::new(1, format!("pidfile `{}': {e}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), file }),
            Err(TryLockError::Error(e)) => Err(failed(e)),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Err(Failure::new(3, format!("process already running, pid: {}", text.trim())))
            }
        }
    }

    fn write(&mut self, pid: u32) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{pid}")
    }

    /// Whoever may not remove it leaves it empty: it names nobody then.
    fn remove(&self) {
        if fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

fn run(asked: &Asked, program: &OsString, rest: &[OsString]) -> Outcome {
    // Whatever can be refused is refused before anything goes into the background.
    let own_file = asked.own_file.as_deref().map(PidFile::open).transpose()?;
    let child_file = asked.child_file.as_deref().map(PidFile::open).transpose()?;
    let output = asked.output.as_deref().map(open_output).transpose()?;
    let given = [lasting(io::stdout().as_fd())?, lasting(io::stderr().as_fd())?];
    let (mut report, told) = io::pipe().map_err(|e| format!("pipe: {e}"))?;
    if sys::fork().map_err(|e| format!("fork: {e}"))?.is_some() {
        drop((told, own_file, child_file));
        let mut text = String::new();
        // The one in the background closes it once the program runs, or says what went wrong.
        report.read_to_string(&mut text).map_err(|e| format!("report: {e}"))?;
        return if text.is_empty() { Ok(0) } else { Err(Failure::new(1, text)) };
    }
    drop(report);
    let mut keeper =
        Keeper { asked, own_file, child_file, output, told: Some(told), given, lines: None, partial: Vec::new() };
    let status = keeper.background(program, rest).unwrap_or_else(|text| {
        keeper.tell(&text);
        1
    });
    keeper.remove_files();
    sys::exit_now(status)
}

/// An output as it was given, unless it is a pipe or a socket: those end with whoever called, who would wait for the program
/// to close them, and the program could die of writing into them. The jail's console takes their place, or nothing does.
fn lasting(output: BorrowedFd<'_>) -> Result<File, String> {
    let failed = |e: io::Error| format!("output: {e}");
    let given = File::from(output.try_clone_to_owned().map_err(failed)?);
    let kind = given.metadata().map_err(failed)?.file_type();
    if std::env::var_os(place::ON_CONSOLE).is_some() || !(kind.is_fifo() || kind.is_socket()) {
        return Ok(given);
    }
    let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(place::CONSOLE);
    // Without waiting it fails where nobody reads; the program itself may wait for its words to be taken.
    let console = open(libc::O_NONBLOCK).and_then(|_reader_is_there| open(0));
    console.or_else(|_| OpenOptions::new().write(true).open("/dev/null")).map_err(failed)
}

fn open_output(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|e| Failure::new(1, format!("{}: {e}", path.display())))
}

/// The process in the background.
struct Keeper<'a> {
    asked: &'a Asked,
    own_file: Option<PidFile>,
    child_file: Option<PidFile>,
    output: Option<File>,
    /// Closed when the first start is over.
    told: Option<io::PipeWriter>,
    /// The outputs that this process was given, or the console in place of those that will not last.
    given: [File; 2],
    /// The program's output, if it goes through here.
    lines: Option<OwnedFd>,
    partial: Vec<u8>,
}

impl Keeper<'_> {
    fn background(&mut self, program: &OsString, rest: &[OsString]) -> Result<i32, String> {
        let asked = self.asked;
        sys::new_session().map_err(|e| format!("new session: {e}"))?;
        if asked.to_root {
            std::env::set_current_dir("/").map_err(|e| format!("/: {e}"))?;
        }
        let mut command = Command::new(program);
        command.args(rest);
        sys::unblock_in(&mut command);
        if let Some(user) = &asked.user {
            command.env("USER", &user.name).env("LOGNAME", &user.name).env("HOME", &user.home);
        }
        let alone = asked.own_file.is_none() && asked.child_file.is_none() && asked.restart.is_none();
        if alone && asked.syslog.is_none() && !asked.reopens && asked.title.is_none() {
            self.streams(&mut command)?;
            run_as::become_whom(asked.user.as_ref(), None, None)?;
            return Err(format!("{}: {}", program.display(), command.exec()));
        }
        let signals =
            Signals::take(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD]).map_err(|e| e.to_string())?;
        if let Some(title) = &asked.title
            && let Ok(title) = std::ffi::CString::new(title.as_str())
        {
            sys::set_name(&title);
        }
        // What this process keeps open, whoever called would wait for.
        let nothing =
            OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
        (0..3).try_for_each(|fd| sys::point(fd, &nothing)).map_err(|e| format!("/dev/null: {e}"))?;
        if let Some(file) = &mut self.own_file {
            file.write(std::process::id()).map_err(|e| format!("{}: {e}", file.path.display()))?;
        }
        self.supervise(&mut command, &signals)
    }

    /// Runs the program until it may end.
    fn supervise(&mut self, command: &mut Command, signals: &Signals) -> Result<i32, String> {
        let mut starts = 0_u64;
        loop {
            let status = match self.start(command) {
                Ok(pid) => {
                    self.told = None;
                    let (status, stop) = self.wait(pid, signals).map_err(|e| format!("wait: {e}"))?;
                    if stop {
                        return Ok(status);
                    }
                    status
                }
                // One that started once is tried again: perhaps it is being replaced.
                Err(text) if starts == 0 => return Err(text),
                Err(_) => 127,
            };
            starts += 1;
            let Some(seconds) = self.asked.restart.filter(|_| self.asked.count.is_none_or(|count| starts <= count))
            else {
                return Ok(status);
            };
            if let Some(file) = &self.child_file {
                let _ = file.file.set_len(0);
            }
            if self.wait_between(seconds, signals).map_err(|e| format!("wait: {e}"))? {
                return Ok(status);
            }
        }
    }

    fn start(&mut self, command: &mut Command) -> Result<i32, String> {
        self.streams(command)?;
        let user = self.asked.user.clone();
        if let Some(user) = user.filter(|user| user.uid != sys::user()) {
            // Through ourselves: the rights are given up in a process of its own, before the program is there.
            let mut words = vec![OsString::from("as"), "-u".into(), user.name.into(), "--".into()];
            words.push(command.get_program().to_owned());
            words.extend(command.get_args().map(OsString::from));
            let mut through = Command::new("/proc/self/exe");
            through.args(words);
            sys::unblock_in(&mut through);
            self.streams(&mut through)?;
            return self.spawn(&mut through);
        }
        self.spawn(command)
    }

    fn spawn(&mut self, command: &mut Command) -> Result<i32, String> {
        let name = command.get_program().to_owned();
        let child = command.spawn();
        // Our copy of the writing end must go, or its end would never come.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.map_err(|e| format!("{}: {e}", name.display()))?;
        if let Some(file) = &mut self.child_file {
            file.write(child.id()).map_err(|e| format!("{}: {e}", file.path.display()))?;
        }
        i32::try_from(child.id()).map_err(|e| e.to_string())
    }

    /// Where the program reads from and writes to.
    fn streams(&mut self, command: &mut Command) -> Result<(), String> {
        let failed = |e: io::Error| format!("output: {e}");
        command.stdin(Stdio::null()).env_remove(place::ON_CONSOLE);
        if self.asked.syslog.is_some() || (self.asked.reopens && self.output.is_some()) {
            let (read, write) = io::pipe().map_err(failed)?;
            command.stderr(write.try_clone().map_err(failed)?).stdout(write);
            self.lines = Some(read.into());
        } else if let Some(file) = &self.output {
            command.stdout(file.try_clone().map_err(failed)?).stderr(file.try_clone().map_err(failed)?);
        } else if self.asked.to_null {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        } else {
            let [output, errors] = &self.given;
            command.stdout(output.try_clone().map_err(failed)?).stderr(errors.try_clone().map_err(failed)?);
        }
        Ok(())
    }

    /// Waits for the end of the program, passing on signals: its status, and whether it was told to end.
    fn wait(&mut self, pid: i32, signals: &Signals) -> io::Result<(i32, bool)> {
        let mut stop = false;
        loop {
            let read: Vec<i32> = self.lines.iter().map(|fd| fd.as_raw_fd()).collect();
            match signals.wait(None, &read)? {
                Event::Signal(libc::SIGCHLD) => {
                    while let Some((ended, status)) = sys::reap() {
                        if ended == pid {
                            self.drain();
                            return Ok((sys::exit_status(status), stop));
                        }
                    }
                }
                Event::Signal(libc::SIGHUP) if self.asked.reopens => self.reopen(),
                Event::Signal(signal) => {
                    stop |= signal != libc::SIGHUP;
                    // It may have ended this moment.
                    let _ = sys::kill(pid, signal);
                }
                Event::Readable(_) => self.pass_on(),
                Event::Timeout => {}
            }
        }
    }

    /// Waits before the next start: whether it was told to end.
    fn wait_between(&mut self, seconds: u64, signals: &Signals) -> io::Result<bool> {
        let until = std::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            match signals.wait(Some(until.saturating_duration_since(std::time::Instant::now())), &[])? {
                Event::Signal(libc::SIGCHLD) => while sys::reap().is_some() {},
                Event::Signal(libc::SIGHUP) => self.reopen(),
                Event::Signal(_) => return Ok(true),
                Event::Readable(_) | Event::Timeout => return Ok(false),
            }
        }
    }

    fn reopen(&mut self) {
        // If the new one cannot be had, the old one is better than none.
        if let Some(file) = self.asked.output.as_deref().and_then(|path| open_output(path).ok()) {
            self.output = Some(file);
        }
    }

    /// One read of the program's output, to where it belongs.
    fn pass_on(&mut self) {
        let mut buffer = [0_u8; 16 * 1024];
        let got =
            self.lines.as_ref().map(|fd| fd.try_clone().map(File::from).and_then(|mut file| file.read(&mut buffer)));
        let Some(Ok(got)) = got else { return };
        if got == 0 {
            self.lines = None;
        }
        let bytes = buffer.get(..got).unwrap_or_default();
        if let Some(file) = &mut self.output {
            // A full disk must not stop the program that is looked after.
            let _ = file.write_all(bytes);
        }
        if let Some(log) = &self.asked.syslog {
            self.partial.extend_from_slice(bytes);
            while let Some(at) =
                self.partial.iter().position(|b| *b == b'\n').or((self.partial.len() >= LINE_MAX).then_some(LINE_MAX))
            {
                let line: Vec<u8> = self.partial.drain(..(at + 1).min(self.partial.len())).collect();
                log.send(line.strip_suffix(b"\n").unwrap_or(&line));
            }
        }
    }

    /// What the program wrote last. A pipe holds 64 KiB, so that is enough reads; what its own children still write is theirs.
    fn drain(&mut self) {
        for _ in 0..8 {
            if !self.lines.as_ref().is_some_and(|fd| sys::is_readable(fd.as_raw_fd())) {
                break;
            }
            self.pass_on();
        }
    }

    fn tell(&mut self, text: &str) {
        if let Some(mut told) = self.told.take() {
            let _ = told.write_all(text.as_bytes());
        }
    }

    fn remove_files(&self) {
        self.child_file.iter().chain(&self.own_file).for_each(PidFile::remove);
    }
}

impl Syslog {
    fn send(&self, line: &[u8]) {
        let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
        let mut packet = format!("<{}>{}: ", self.facility * 8 + self.priority, self.tag).into_bytes();
        packet.extend_from_slice(line);
        // Nobody may be listening at this moment; the program must not wait for it.
        let _ = socket.set_nonblocking(true).and_then(|()| socket.send_to(&packet, "/dev/log"));
    }
}
