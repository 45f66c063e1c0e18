//! `pkg`: packages in FreeBSD's words, through whatever package manager the root has.
//!
//! Nothing is ever asked back. What FreeBSD's packages are called and where their programs are is made true as far as
//! templates rely on it: see [`names`].

mod names;
mod tool;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::options::{Options, text};
use crate::{Failure, Outcome, place};

use tool::{Manager, Task};

const USAGE: &str = "usage: pkg install|delete|remove|update|upgrade|info|search|which|autoremove|clean [-y] [NAME...]";

/// Exit status: the root has no means for it.
const UNAVAILABLE: u8 = 69;

/// Options that say what happens anyway, or only how much is said.
const HARMLESS: &str = "yqfUMI";

/// `pkg`.
pub fn main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "vy46");
    while let Some((letter, _)) = options.next().map_err(|e| Failure::new(64, format!("{e}\n{USAGE}")))? {
        if letter == 'v' {
            println!("{}", Manager::find(&bin_dirs()).map_or("no package manager", Manager::name));
            return Ok(0);
        }
    }
    let words = options.rest().iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let (verb, rest) = words.split_first().ok_or_else(|| Failure::new(64, USAGE))?;
    let task = match verb.as_str() {
        "install" | "add" => Task::Install,
        "delete" | "remove" => Task::Remove,
        "update" => Task::Update,
        "upgrade" => Task::Upgrade,
        "info" => Task::Info,
        "search" => Task::Search,
        "which" => Task::Which,
        "autoremove" => Task::Autoremove,
        "clean" => Task::Clean,
        // There is nothing to fetch: the root's manager is there or is not.
        "bootstrap" | "-N" => return manager().map(|_| 0),
        other => return Err(Failure::new(64, format!("{other}: does not exist here; {USAGE}"))),
    };
    let (names, only_ask) = operands(rest)?;
    let manager = manager()?;
    if names.is_empty() && matches!(task, Task::Install | Task::Remove | Task::Search | Task::Which) {
        return Err(Failure::new(64, format!("{verb}: of what?\n{USAGE}")));
    }
    run(manager, task, &names, only_ask)
}

/// The names behind a verb, and whether `-e` asks only whether they are there. Options may stand among them.
fn operands(words: &[String]) -> Result<(Vec<String>, bool), Failure> {
    let mut names = Vec::new();
    let mut only_ask = false;
    for word in words {
        match word.strip_prefix('-') {
            Some("-" | "-yes") => {}
            Some("e") => only_ask = true,
            Some(letters) if !letters.is_empty() && letters.chars().all(|c| HARMLESS.contains(c)) => {}
            Some(_) => return Err(Failure::new(64, format!("{word}: does not exist here; {USAGE}"))),
            None if is_plain(word) => names.push(word.clone()),
            None => return Err(Failure::new(64, format!("'{word}': is no name of a package"))),
        }
    }
    Ok((names, only_ask))
}

/// What can be a package, a path of one, or an origin such as `lang/go`.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-._/@~:*".contains(c))
}

fn manager() -> Result<Manager, Failure> {
    Manager::find(&bin_dirs()).ok_or_else(|| {
        let known: Vec<&str> = Manager::ALL.iter().map(|manager| manager.program()).collect();
        Failure::new(
            UNAVAILABLE,
            format!(
                "this root has no package manager (looked for {}): copy programs into it (CP), or take a release that has one",
                known.join(", ")
            ),
        )
    })
}

fn bin_dirs() -> Vec<PathBuf> {
    place::PATH.split(':').filter(|dir| !dir.starts_with(place::DIR)).map(PathBuf::from).collect()
}

fn run(manager: Manager, task: Task, names: &[String], only_ask: bool) -> Outcome {
    let packages: Vec<String> = match task {
        Task::Which => names.to_vec(),
        _ => names.iter().flat_map(|name| names::packages(name, manager)).collect(),
    };
    for words in manager.commands(task, &packages) {
        let Some((program, rest)) = words.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(rest).env("PATH", place::PATH).stdin(Stdio::null());
        // Debian's packages ask questions and start services, each unless told not to: FreeBSD's do neither.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").env("NEEDRESTART_MODE", "l");
        if only_ask {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let status = command.status().map_err(|e| Failure::new(UNAVAILABLE, format!("{program}: {e}")))?;
        if !status.success() {
            let text = if only_ask { String::new() } else { format!("{}: {status}", words.join(" ")) };
            return Err(Failure::new(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1), text));
        }
    }
    if task == Task::Install {
        names.iter().flat_map(|name| names::programs(name)).for_each(|program| link(&program, &bin_dirs()));
    }
    Ok(0)
}

/// Shows a program where FreeBSD's packages have it: `/usr/local/bin`. What is there already stays.
fn link(program: &str, dirs: &[PathBuf]) {
    let local = Path::new("/usr/local/bin");
    let place = local.join(program);
    let more = [PathBuf::from(format!("/usr/lib/{program}/bin"))];
    let found = dirs.iter().filter(|dir| !dir.starts_with("/usr/local")).chain(&more).map(|dir| dir.join(program));
    let Some(found) = found.into_iter().find(|path| path.exists()) else { return };
    // A link to what was removed meanwhile is ours to replace.
    if place.symlink_metadata().is_ok_and(|found| found.is_symlink()) && !place.exists() {
        let _ = fs::remove_file(&place);
    }
    if place.symlink_metadata().is_err() {
        // The package is installed, which is what was asked; a script that needs the link says so itself.
        let _ = fs::create_dir_all(local).and_then(|()| symlink(found, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_anywhere() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(operands(&words("-y git go")).unwrap(), (words("git go"), false));
        assert_eq!(operands(&words("-yq lang/go -y")).unwrap(), (words("lang/go"), false));
        assert!(operands(&words("-e git")).unwrap().1);
        for bad in ["--root=/x git", "-o", "a;b", "$(id)", "a\nb"] {
            assert!(operands(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
