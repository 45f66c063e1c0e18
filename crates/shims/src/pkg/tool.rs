//! Package managers of Linux roots, and how each is asked.

use std::path::{Path, PathBuf};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Install packages.
    Install,
    /// Remove packages.
    Remove,
    /// Fetch the lists anew.
    Update,
    /// Bring all packages up to date.
    Upgrade,
    /// What is installed, or whether these are.
    Info,
    /// What there is.
    Search,
    /// Which package a file is from.
    Which,
    /// Remove what nothing needs any more.
    Autoremove,
    /// Remove what was downloaded.
    Clean,
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// Debian, Ubuntu.
    Apt,
    /// Alpine.
    Apk,
    /// Fedora and its relatives.
    Dnf,
    /// The same, small.
    Microdnf,
    /// The same, old.
    Yum,
    /// Arch.
    Pacman,
    /// openSUSE.
    Zypper,
}

impl Manager {
    /// All that are known, in the order in which they are looked for.
    pub const ALL: [Self; 7] = [Self::Apt, Self::Apk, Self::Dnf, Self::Microdnf, Self::Yum, Self::Pacman, Self::Zypper];

    /// The one that a root has.
    pub fn find(dirs: &[PathBuf]) -> Option<Self> {
        Self::ALL.into_iter().find(|manager| dirs.iter().any(|dir| dir.join(manager.program()).exists()))
    }

    /// Its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Apk => "apk",
            Self::Dnf => "dnf",
            Self::Microdnf => "microdnf",
            Self::Yum => "yum",
            Self::Pacman => "pacman",
            Self::Zypper => "zypper",
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        if self == Self::Apt { "apt" } else { self.program() }
    }

    /// What is run for a task, one after another.
    pub fn commands(self, task: Task, names: &[String]) -> Vec<Vec<String>> {
        let line = |text: &str| -> Vec<String> {
            let words = text.split(' ').map(str::to_owned);
            words.chain(names.iter().cloned()).collect()
        };
        match self {
            Self::Apt => self.apt(task, names),
            Self::Apk => vec![line(match task {
                Task::Install => "apk add --update-cache",
                Task::Remove => "apk del",
                Task::Update => "apk update",
                Task::Upgrade => "apk upgrade --update-cache",
                Task::Info if names.is_empty() => "apk info -v",
                Task::Info => "apk info -e",
                Task::Search => "apk search",
                Task::Which => "apk info --who-owns",
                // apk removes such packages with what needed them.
                Task::Autoremove => return Vec::new(),
                Task::Clean => "apk cache clean",
            })],
            Self::Dnf | Self::Microdnf | Self::Yum => {
                let program = self.program();
                vec![line(&match task {
                    Task::Install => format!("{program} -y install"),
                    Task::Remove => format!("{program} -y remove"),
                    Task::Update => format!("{program} -y makecache"),
                    Task::Upgrade => format!("{program} -y upgrade"),
                    Task::Info if names.is_empty() => "rpm -qa".to_owned(),
                    Task::Info => "rpm -q".to_owned(),
                    Task::Search => format!("{program} search"),
                    Task::Which => "rpm -qf".to_owned(),
                    Task::Autoremove => format!("{program} -y autoremove"),
                    Task::Clean => format!("{program} clean all"),
                })]
            }
            Self::Pacman => vec![line(match task {
                Task::Install => "pacman -Sy --noconfirm --needed",
                Task::Remove => "pacman -Rs --noconfirm",
                Task::Update => "pacman -Sy --noconfirm",
                Task::Upgrade => "pacman -Syu --noconfirm",
                Task::Info => "pacman -Q",
                Task::Search => "pacman -Ss",
                Task::Which => "pacman -Qo",
                Task::Autoremove => return Vec::new(),
                Task::Clean => "pacman -Sc --noconfirm",
            })],
            Self::Zypper => vec![line(match task {
                Task::Install => "zypper --non-interactive install",
                Task::Remove => "zypper --non-interactive remove --clean-deps",
                Task::Update => "zypper --non-interactive refresh",
                Task::Upgrade => "zypper --non-interactive update",
                Task::Info if names.is_empty() => "rpm -qa",
                Task::Info => "rpm -q",
                Task::Search => "zypper --non-interactive search",
                Task::Which => "rpm -qf",
                Task::Autoremove => return Vec::new(),
                Task::Clean => "zypper --non-interactive clean --all",
            })],
        }
    }

    fn apt(self, task: Task, names: &[String]) -> Vec<Vec<String>> {
        let line = |text: &str| -> Vec<String> {
            let words = text.split(' ').map(str::to_owned);
            words.chain(names.iter().cloned()).collect()
        };
        let fetch: Vec<String> = ["apt-get", "-qq", "update"].map(str::to_owned).to_vec();
        // Files that an administrator changed stay: there is nobody to be asked.
        let keep = "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
        match task {
            Task::Install => {
                let install = line(&format!("apt-get -y {keep} --no-install-recommends install"));
                if has_lists(Path::new("/var/lib/apt/lists")) { vec![install] } else { vec![fetch, install] }
            }
            Task::Remove => vec![line("apt-get -y remove")],
            Task::Update => vec![line("apt-get update")],
            Task::Upgrade if names.is_empty() => vec![fetch, line(&format!("apt-get -y {keep} upgrade"))],
            Task::Upgrade => vec![fetch, line(&format!("apt-get -y {keep} --only-upgrade install"))],
            Task::Info if names.is_empty() => vec![line("dpkg-query -W")],
            Task::Info => vec![line("dpkg-query -s")],
            Task::Search => vec![line("apt-cache search")],
            Task::Which => vec![line("dpkg-query -S")],
            Task::Autoremove => vec![line("apt-get -y autoremove")],
            Task::Clean => vec![line("apt-get clean")],
        }
    }
}

/// Whether lists of packages were ever fetched: images come without.
fn has_lists(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("none"), dir.path().to_owned()];
        assert_eq!(Manager::find(&dirs), None);
        for manager in Manager::ALL.into_iter().rev() {
            std::fs::write(dir.path().join(manager.program()), "").unwrap();
            assert_eq!(Manager::find(&dirs), Some(manager));
        }
    }

    #[test]
    fn nobody_is_asked_and_names_come_last() {
        let names = ["git".to_owned(), "golang".to_owned()];
        for manager in Manager::ALL {
            let commands = manager.commands(Task::Install, &names);
            let last = commands.last().unwrap().join(" ");
            assert!(last.ends_with(" git golang"), "{last}");
            let quiet = ["-y", "--noconfirm", "--non-interactive", "apk add"];
            assert!(quiet.iter().any(|word| last.contains(word)), "{last}");
        }
    }
}
