//! `pw`: users and groups in FreeBSD's words, in the files of a Linux root.
//!
//! All of a change is decided before anything is written; each file is replaced as a whole, under the lock that the tools of
//! the root take as well. No shell and no name service is asked. A password in the clear is handed to the root's own `chpasswd`, which
//! knows how the root wants it hashed.

mod ask;
mod group;
mod home;
mod names;
mod password;
mod user;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::account::Table;
use crate::{Failure, Outcome, sys};

use ask::Ask;

/// Exit status: the command cannot be understood.
const USAGE: u8 = 64;
/// Exit status: what was given cannot be used.
const DATA: u8 = 65;
/// Exit status: there is no such user.
const NO_USER: u8 = 67;
/// Exit status: the root has no means for it.
const UNAVAILABLE: u8 = 69;
/// Exit status: reading or writing failed.
const IO: u8 = 74;

/// How long another program may hold the lock: editing takes milliseconds, package managers some seconds.
const LOCK_MAX: Duration = Duration::from_secs(15);

/// `pw [-R ROOT | -V ETC] COMMAND [NAME] OPTION...`
pub fn main(arguments: &[OsString]) -> Outcome {
    let ask = Ask::parse(arguments)?;
    let quiet = ask.has('q');
    match ask.run() {
        // -q: only the status is of interest.
        Err(failure) if quiet => Err(Failure::new(failure.status, "")),
        outcome => outcome,
    }
}

/// The files that are edited.
#[derive(Debug)]
struct Files {
    passwd: Table,
    group: Table,
    shadow: Option<Table>,
    gshadow: Option<Table>,
    /// Held until the end; nothing is locked for those who only look.
    _lock: Option<File>,
}

impl Files {
    /// Reads them, under the lock.
    fn lock(etc: &Path) -> Result<Self, Failure> {
        let lock = lock(&etc.join(".pwd.lock"))?;
        Self::load(etc, Some(lock))
    }

    /// Reads them.
    fn look(etc: &Path) -> Result<Self, Failure> {
        Self::load(etc, None)
    }

    fn load(etc: &Path, lock: Option<File>) -> Result<Self, Failure> {
        let failed = |text| Failure::new(IO, text);
        Ok(Self {
            passwd: Table::passwd(etc).map_err(failed)?,
            group: Table::group(etc).map_err(failed)?,
            // Only root may read these two, and whoever only looks does without.
            shadow: if lock.is_some() {
                Table::shadow(etc).map_err(failed)?
            } else {
                Table::shadow(etc).ok().flatten()
            },
            gshadow: if lock.is_some() { Table::gshadow(etc).map_err(failed)? } else { None },
            _lock: lock,
        })
    }

    /// Writes what was changed. A user comes last: whoever sees it finds its group and its password.
    fn save(&self) -> Result<(), Failure> {
        let failed = |text| Failure::new(IO, text);
        self.group.save().map_err(failed)?;
        self.gshadow.as_ref().map_or(Ok(()), Table::save).map_err(failed)?;
        self.shadow.as_ref().map_or(Ok(()), Table::save).map_err(failed)?;
        self.passwd.save().map_err(failed)
    }
}

fn lock(path: &Path) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::new(IO, format!("{}: {e}", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let until = Instant::now() + LOCK_MAX;
    while !sys::try_lock(&file).map_err(failed)? {
        if Instant::now() >= until {
            return Err(Failure::new(IO, format!("{}: another program holds it", path.display())));
        }
        // There is no wait with an end for this kind of lock.
        sys::pause(Duration::from_millis(50));
    }
    Ok(file)
}

/// The field of an entry.
fn field(entry: &[String], at: usize) -> &str {
    entry.get(at).map(String::as_str).unwrap_or_default()
}

/// Changes the field of an entry.
fn put(entry: &mut [String], at: usize, value: impl Into<String>) {
    if let Some(field) = entry.get_mut(at) {
        *field = value.into();
    }
}

/// The names in a list of members.
fn members(entry: &[String]) -> Vec<String> {
    field(entry, 3).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
