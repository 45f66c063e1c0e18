//! What stands between a program and its host.

use serde::{Deserialize, Serialize};

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
