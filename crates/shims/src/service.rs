//! `service`: finds the script of a service and runs it with nothing of the caller's environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::options::{Options, text};
use crate::rcconf::{assignments, set, values};
use crate::rcorder::{self, Script};
use crate::{Failure, Outcome, edit, place, sys};

const USAGE: &str = "usage: service [-v] NAME ACTION [ARG...] | -e | -l | -R";

/// Where scripts in FreeBSD's way are; the user's come first.
const RC_DIRS: [&str; 2] = ["/usr/local/etc/rc.d", "/etc/rc.d"];
/// Where those of the root's packages are.
const INIT_DIR: &str = "/etc/init.d";
/// Where units are that nothing in a jail runs.
const UNIT_DIRS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// How a script wants to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With `rc.subr`: it knows `enabled`, `onestart` and so on.
    Rc,
    /// A plain one in a directory of such scripts.
    Plain,
    /// One of the root's packages.
    InitD,
}

/// A service and its script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The file name of the script.
    pub name: String,
    /// The script.
    pub path: PathBuf,
    /// How it wants to be spoken to.
    pub kind: Kind,
}

impl Service {
    /// The service of this name.
    pub fn find(name: &str) -> Option<Self> {
        let dirs = RC_DIRS.iter().chain([&INIT_DIR]);
        dirs.filter_map(|dir| Self::at(Path::new(dir).join(name))).next()
    }

    fn at(path: PathBuf) -> Option<Self> {
        let found = fs::metadata(&path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 || name.starts_with('.') {
            return None;
        }
        let kind = if path.starts_with(INIT_DIR) {
            Kind::InitD
        } else if fs::read(&path).is_ok_and(|text| text.windows(7).any(|part| part == b"rc.subr")) {
            Kind::Rc
        } else {
            Kind::Plain
        };
        Some(Self { name, path, kind })
    }

    /// The script, to be run for `action` with nothing of our environment.
    pub fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.path);
        let action = if self.kind == Kind::Rc { action } else { plain(action) };
        command.arg(action).env_clear().env("HOME", "/").env("PATH", place::PATH).current_dir("/");
        command
    }

    /// Whether it is to run: as its script says, or the file of variables, or else the root's own links.
    pub fn is_enabled(&self, known: &BTreeMap<String, String>) -> bool {
        if self.kind == Kind::Rc {
            let mut asked = self.command("enabled");
            asked.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            sys::unblock_in(&mut asked);
            return asked.status().is_ok_and(|status| status.success());
        }
        match known.get(&self.variable()) {
            Some(value) => matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1"),
            None => self.kind == Kind::InitD && self.rank().is_some(),
        }
    }

    /// The variable that enables it.
    fn variable(&self) -> String {
        let name: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        format!("{name}_enable")
    }

    /// Where the root's own links put it among others: OpenRC's, or those of runlevel 2.
    fn rank(&self) -> Option<u32> {
        if Path::new("/etc/runlevels/default").join(&self.name).exists() {
            return Some(0);
        }
        let links = fs::read_dir("/etc/rc2.d").ok()?;
        links.flatten().find_map(|link| {
            let link = link.file_name().into_string().ok()?;
            let (number, name) = link.strip_prefix('S')?.split_at_checked(2)?;
            number.parse().ok().filter(|_| name == self.name)
        })
    }

    /// Tells the supervisor whether somebody stopped it on purpose. `rc.subr` does so itself.
    fn mark(&self, action: &str) {
        let mark = Path::new(place::STOPPED).join(&self.name);
        // Without the right to do so there was none to stop it either.
        let _ = match plain(action) {
            "stop" => fs::create_dir_all(place::STOPPED).and_then(|()| fs::write(mark, "")),
            "start" | "restart" => fs::remove_file(mark),
            _ => Ok(()),
        };
    }
}

/// An action without what only `rc.subr` understands.
fn plain(action: &str) -> &str {
    let prefixes = ["fast", "quick", "force", "one", "quiet"];
    // "force-reload" is an action of its own.
    let found = prefixes
        .iter()
        .find_map(|prefix| action.strip_prefix(prefix).filter(|rest| !rest.is_empty() && !rest.starts_with('-')));
    found.map_or(action, plain)
}

/// All services: those of packages as the root orders them, then FreeBSD's kind, in the order they ask for.
pub fn all() -> (Vec<Service>, Vec<String>) {
    let mut packages: Vec<(u32, Service)> =
        in_dir(INIT_DIR).into_iter().map(|service| (service.rank().unwrap_or(100), service)).collect();
    packages.sort_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let scripts = RC_DIRS.iter().rev().flat_map(|dir| in_dir(dir));
    // The same name twice: the user's hides the other.
    let mut named: BTreeMap<String, Service> = BTreeMap::new();
    for script in scripts {
        named.insert(script.name.clone(), script);
    }
    packages.retain(|(_, package)| !named.contains_key(&package.name));
    let mut services: Vec<Service> = packages.into_iter().map(|(_, service)| service).collect();
    let order = rcorder::sort(named.values().filter_map(|service| Script::read(&service.path).ok()).collect());
    let skipped = |script: &Script| script.keywords.iter().any(|word| matches!(word.as_str(), "nojail" | "nostart"));
    let sorted = order.scripts.iter().filter(|script| !skipped(script));
    services.extend(sorted.filter_map(|script| named.values().find(|service| service.path == script.path).cloned()));
    (services, order.complaints)
}

fn in_dir(dir: &str) -> Vec<Service> {
    let mut found: Vec<Service> = fs::read_dir(dir)
        .map(|entries| entries.flatten().filter_map(|entry| Service::at(entry.path())).collect())
        .unwrap_or_default();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The variables of `/etc/rc.conf` and `/etc/rc.conf.local`.
pub fn configuration() -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for file in ["/etc/rc.conf", "/etc/rc.conf.local"] {
        values(&assignments(&edit::read(Path::new(file)).unwrap_or_default()), &mut known);
    }
    known
}

/// `service`.
pub fn main(arguments: &[OsString]) -> Outcome {
    place::furnish();
    let mut options = Options::new(arguments, "elRvrj:");
    let (mut list, mut enabled, mut restart, mut verbose) = (false, false, false, false);
    while let Some((letter, _)) = options.next().map_err(|e| Failure::new(64, format!("{e}\n{USAGE}")))? {
        match letter {
            'l' => list = true,
            'e' => enabled = true,
            'R' => restart = true,
            'v' => verbose = true,
            other => return Err(Failure::new(64, format!("-{other} does not exist here: see docs/jails-shims.md"))),
        }
    }
    if list || enabled || restart {
        return of_all(list, restart);
    }
    let words = options.rest().iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    let [name, action, rest @ ..] = words.as_slice() else { return Err(Failure::new(64, USAGE)) };
    run(name, action, rest, verbose)
}

fn of_all(list: bool, restart: bool) -> Outcome {
    let (services, complaints) = all();
    complaints.iter().for_each(|complaint| eprintln!("service: {complaint}"));
    if list {
        services.iter().for_each(|service| println!("{}", service.name));
        return Ok(0);
    }
    let known = configuration();
    let enabled: Vec<Service> = services.into_iter().filter(|service| service.is_enabled(&known)).collect();
    if !restart {
        enabled.iter().for_each(|service| println!("{}", service.path.display()));
        return Ok(0);
    }
    let local: Vec<&Service> = enabled.iter().filter(|service| service.path.starts_with("/usr/local")).collect();
    let mut failed = 0;
    for (service, action) in local.iter().rev().map(|s| (s, "stop")).chain(local.iter().map(|s| (s, "start"))) {
        let done = service.command(action).status();
        failed |= u8::from(action == "start" && !done.is_ok_and(|status| status.success()));
    }
    Ok(failed)
}

fn run(name: &str, action: &str, rest: &[String], verbose: bool) -> Outcome {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(Failure::new(64, format!("'{name}' is no name of a service")));
    }
    let Some(service) = Service::find(name) else { return Err(Failure::new(1, missing(name))) };
    if verbose {
        println!("{name} is located in {}", service.path.parent().unwrap_or(Path::new("/")).display());
    }
    if service.kind != Kind::Rc {
        if let Some(outcome) = switch(&service, action) {
            return outcome;
        }
        service.mark(action);
        prepare_openrc();
    }
    let e = service.command(action).args(rest).exec();
    Err(Failure::new(1, format!("{}: {e}", service.path.display())))
}

/// What scripts of packages do not know themselves: being switched on and off.
fn switch(service: &Service, action: &str) -> Option<Outcome> {
    let variable = service.variable();
    let put = |value: &str, word: &str| {
        let conf = Path::new("/etc/rc.conf");
        edit::replace(conf, set(&edit::read(conf)?, &variable, value).as_bytes(), 0o644)?;
        println!("{} {word} in /etc/rc.conf", service.name);
        Ok(0)
    };
    match action {
        "enable" => Some(put("YES", "enabled")),
        "disable" => Some(put("NO", "disabled")),
        "enabled" => Some(Ok(u8::from(!service.is_enabled(&configuration())))),
        "rcvar" => {
            let value = if service.is_enabled(&configuration()) { "YES" } else { "NO" };
            println!("# {}\n#\n{variable}=\"{value}\"", service.name);
            Some(Ok(0))
        }
        _ => None,
    }
}

fn missing(name: &str) -> String {
    let unit = UNIT_DIRS.iter().map(|dir| Path::new(dir).join(format!("{name}.service"))).find(|unit| unit.exists());
    match unit {
        Some(unit) => format!(
            "{name} has only a systemd unit ({}), and no systemd runs in a jail: put an rc.d script into {}",
            unit.display(),
            RC_DIRS.first().unwrap_or(&INIT_DIR),
        ),
        None => format!(
            "{name} does not exist in /etc/rc.d or the local startup directories (/usr/local/etc/rc.d), nor in {INIT_DIR}, or is not executable"
        ),
    }
}

/// Scripts of OpenRC start nothing unless it looks as if OpenRC had started the machine.
pub fn prepare_openrc() {
    if Path::new("/sbin/openrc-run").exists() || Path::new("/usr/sbin/openrc-run").exists() {
        // Where this cannot be made, the script says so.
        let _ = fs::create_dir_all("/run/openrc").and_then(|()| fs::write("/run/openrc/softlevel", ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_for_scripts_of_packages() {
        assert_eq!(plain("onestart"), "start");
        assert_eq!(plain("quietonestop"), "stop");
        assert_eq!(plain("force-reload"), "force-reload");
        assert_eq!(plain("reload"), "reload");
        assert_eq!(plain("one"), "one");
    }

    #[test]
    fn variables_are_names() {
        let service = Service { name: "my-app.sh".to_owned(), path: PathBuf::new(), kind: Kind::InitD };
        assert_eq!(service.variable(), "my_app_sh_enable");
    }
}
