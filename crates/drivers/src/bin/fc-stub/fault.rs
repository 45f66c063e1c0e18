//! What goes wrong.

use std::collections::BTreeSet;

/// Version and faults, from a file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What `--version` says.
    pub version: String,
    words: BTreeSet<String>,
}

impl Script {
    /// `firecracker,1.16.0,word,word=value`.
    pub fn of(name: &str) -> Option<Self> {
        let mut parts = name.split(',');
        let program = parts.next()?;
        if !matches!(program, "firecracker" | "jailer") {
            return None;
        }
        Some(Self { version: parts.next()?.to_owned(), words: parts.map(str::to_owned).collect() })
    }

    /// Minor version.
    pub fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
    }

    /// Whether this is to happen.
    pub fn says(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// What is to happen to a request, `PUT` and `/machine-config`.
    pub fn of_request(&self, method: &str, path: &str) -> Option<Fault> {
        let request = format!("{method}{}", path.replace('/', "+"));
        let faults =
            [("refuse", Fault::Refuse), ("hang", Fault::Hang), ("garbage", Fault::Garbage), ("die", Fault::Die)];
        faults.into_iter().find(|(word, _)| self.says(&format!("{word}={request}"))).map(|(_, fault)| fault)
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A 400.
    Refuse,
    /// No answer, ever.
    Hang,
    /// An answer that is none.
    Garbage,
    /// The process ends instead of answering.
    Die,
}
