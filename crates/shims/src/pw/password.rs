//! Passwords: where they are kept, and what is put there.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ask::Ask;
use super::names::check_field;
use super::{DATA, Files, IO, NO_USER, UNAVAILABLE, field, put};
use crate::{Failure, Outcome, place};

/// In front of the password of an account that is locked.
const LOCKED: &str = "*LOCKED*";
/// Fits no password.
const NONE: &str = "*";
/// Longest password read from a descriptor: chpasswd takes no more.
const LEN_MAX: u64 = 512;

/// What becomes of a password.
#[derive(Debug, PartialEq, Eq)]
pub enum Password {
    /// This is put into the file.
    Hashed(String),
    /// The root's own tool hashes it, once the account is there.
    Clear(String),
}

/// What was asked for by `-h`, `-H` and `-w`; the last is only for new users.
pub fn asked(ask: &Ask, name: &str) -> Result<Option<Password>, Failure> {
    if ask.has('h') && ask.has('H') {
        return Err(Failure::new(DATA, "-h and -H cannot both be given"));
    }
    if let Some(number) = ask.value('H') {
        let hash = read(number)?;
        check_field("password", &hash)?;
        return Ok(Some(Password::Hashed(hash)));
    }
    match (ask.value('h'), ask.value('w')) {
        (Some("-"), _) => Ok(Some(Password::Hashed(NONE.to_owned()))),
        (Some(number), _) => read(number).map(|text| Some(Password::Clear(text))),
        (None, None) => Ok(None),
        (None, Some("no")) => Ok(Some(Password::Hashed(NONE.to_owned()))),
        (None, Some("none")) => Ok(Some(Password::Hashed(String::new()))),
        (None, Some("yes")) => Ok(Some(Password::Clear(name.to_owned()))),
        (None, Some("random")) => random().map(|text| Some(Password::Clear(text))),
        (None, Some(other)) => Err(Failure::new(DATA, format!("-w {other}: is none of no, yes, none, random"))),
    }
}

/// What a new user gets that nothing was said about.
pub fn of_new_user() -> Password {
    Password::Hashed(NONE.to_owned())
}

/// Twelve characters of the kernel's randomness, shown once.
fn random() -> Result<String, Failure> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 12];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| Failure::new(IO, format!("/dev/urandom: {e}")))?;
    // 64 characters, so that each byte says the same of each.
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let text = bytes.iter().filter_map(|byte| letters.get(usize::from(*byte) % letters.len())).copied().map(char::from);
    let text: String = text.collect();
    println!("{text}");
    Ok(text)
}

/// The first line of a descriptor.
fn read(number: &str) -> Result<String, Failure> {
    use std::io::Read as _;
    let number: u32 = number.parse().map_err(|_| Failure::new(DATA, format!("'{number}' is no file descriptor")))?;
    let mut text = String::new();
    let read =
        std::fs::File::open(format!("/proc/self/fd/{number}")).and_then(|f| f.take(LEN_MAX).read_to_string(&mut text));
    read.map_err(|e| Failure::new(IO, format!("file descriptor {number}: {e}")))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(DATA, format!("empty password read on file descriptor {number}")));
    }
    Ok(line.to_owned())
}

/// Puts a hash where the root keeps it.
pub fn put_hash(files: &mut Files, name: &str, hash: &str) {
    if let Some(shadow) = &mut files.shadow {
        match shadow.find_mut(0, name) {
            Some(entry) => {
                put(entry, 1, hash);
                put(entry, 2, today());
            }
            None => {
                let today = today();
                let entry = [name, hash, today.as_str(), "0", "99999", "7", "", "", ""];
                shadow.add(entry.map(str::to_owned).to_vec());
            }
        }
    }
    let shadowed = files.shadow.is_some();
    if let Some(entry) = files.passwd.find_mut(0, name) {
        put(entry, 1, if shadowed { "x" } else { hash });
    }
}

/// The hash of a user.
pub fn hash_of(files: &Files, name: &str) -> String {
    let table = files.shadow.as_ref().unwrap_or(&files.passwd);
    table.find(0, name).map(|entry| field(entry, 1).to_owned()).unwrap_or_else(|| NONE.to_owned())
}

/// Days since the beginning of 1970.
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() / 86_400).to_string()
}

/// Has the root's own tool hash a password.
pub fn hash_clear(ask: &Ask, name: &str, password: &str) -> Result<(), Failure> {
    let missing = |e: std::io::Error| {
        Failure::new(UNAVAILABLE, format!("chpasswd of the root, which hashes passwords: {e}; give a hash with -H"))
    };
    let mut command = Command::new("chpasswd");
    if ask.root != Path::new("/") {
        command.arg("-R").arg(&ask.root);
    }
    let mut child =
        command.env("PATH", place::PATH).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(missing)?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{name}:{password}").map_err(|e| Failure::new(IO, format!("chpasswd: {e}")))?;
    }
    let status = child.wait().map_err(|e| Failure::new(IO, format!("chpasswd: {e}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(UNAVAILABLE, format!("chpasswd: {status}"))) }
}

/// `pw lock`
pub fn lock(ask: &Ask) -> Outcome {
    change(ask, |name, hash| {
        if hash.starts_with(LOCKED) {
            return Err(Failure::new(DATA, format!("user '{name}' is already locked")));
        }
        Ok(format!("{LOCKED}{hash}"))
    })
}

/// `pw unlock`
pub fn unlock(ask: &Ask) -> Outcome {
    change(ask, |name, hash| {
        let hash = hash.strip_prefix(LOCKED).map(str::to_owned);
        hash.ok_or_else(|| Failure::new(DATA, format!("user '{name}' is not locked")))
    })
}

fn change(ask: &Ask, new: impl Fn(&str, &str) -> Result<String, Failure>) -> Outcome {
    let mut files = Files::lock(&ask.etc)?;
    let subject = ask.subject().ok_or_else(|| Failure::new(super::USAGE, "username or id required"))?;
    let entry = files.passwd.find(0, subject).or_else(|| files.passwd.find(2, subject));
    let name = entry.map(|entry| field(entry, 0).to_owned());
    let name = name.ok_or_else(|| Failure::new(NO_USER, format!("no such user `{subject}'")))?;
    let hash = new(&name, &hash_of(&files, &name))?;
    put_hash(&mut files, &name, &hash);
    files.save()?;
    Ok(0)
}
