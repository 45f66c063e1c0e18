//! What stands between a program and its host.

use serde::{Deserialize, Serialize};

use crate::lifecycle::SandboxView;

/// The level a caller asks for and every reply states. Never weaker than asked: refuse instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// No sandbox: a plain child process of the host, tracked by its cgroup.
    Process,
    /// Linux namespaces, own user range, seccomp, capabilities, cgroups; the host's kernel.
    Container,
    /// An own kernel under a virtual machine monitor.
    Microvm,
}

impl Isolation {
    /// The word used in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::Microvm => "microvm",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Process, Self::Container, Self::Microvm].into_iter().find(|i| i.as_str() == text)
    }

    /// Whether a sandbox at this level may serve a caller who asked for `asked`.
    pub fn satisfies(self, asked: Self) -> bool {
        self >= asked
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Isolation as it was given: the level, and what gives it where that makes a difference. Written `microvm/kvm`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GivenIsolation {
    /// The level.
    pub level: Isolation,
    /// What gives it.
    pub accelerator: Option<String>,
}

impl From<Isolation> for GivenIsolation {
    fn from(level: Isolation) -> Self {
        Self { level, accelerator: None }
    }
}

impl From<&SandboxView> for GivenIsolation {
    fn from(view: &SandboxView) -> Self {
        Self { level: view.isolation, accelerator: view.accelerator.clone() }
    }
}

impl From<GivenIsolation> for String {
    fn from(given: GivenIsolation) -> Self {
        given.to_string()
    }
}

impl TryFrom<String> for GivenIsolation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (level, accelerator) = match text.split_once('/') {
            Some((level, accelerator)) => (level, Some(accelerator)),
            None => (text.as_str(), None),
        };
        let word = |word: &str| (1..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphanumeric());
        match Isolation::parse(level) {
            Some(level) if accelerator.is_none_or(word) => {
                Ok(Self { level, accelerator: accelerator.map(str::to_owned) })
            }
            _ => Err("an isolation is process, container or microvm, and what gives it behind a slash".to_owned()),
        }
    }
}

impl std::fmt::Display for GivenIsolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.accelerator {
            Some(accelerator) => write!(f, "{}/{accelerator}", self.level),
            None => write!(f, "{}", self.level),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_written_and_read() {
        for text in ["container", "process", "microvm", "microvm/kvm", "microvm/tcg"] {
            let given = GivenIsolation::try_from(text.to_owned()).unwrap();
            assert_eq!(given.to_string(), text);
        }
        for bad in ["", "vm", "microvm/", "microvm/a b", "/kvm", "microvm/kvm/2"] {
            assert!(GivenIsolation::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
