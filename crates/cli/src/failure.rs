//! How a command fails: a kind, a text, an exit code.

use std::process::ExitCode;

use moat_model::ErrorKind;

/// Exit code of our own failures where the program's code is passed on: `docker`'s and `podman`'s.
const OURS: u8 = 125;

/// Whose exit code a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// That of the kind of failure.
    Kind,
    /// The program's; ours are 125.
    Program,
    /// This one for every failure: what the command's other codes mean is its own.
    Always(u8),
}

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// What a script may decide by.
    pub kind: ErrorKind,
    /// The whole story on one line.
    pub message: String,
    /// What would help, on a line of its own.
    pub hint: Option<String>,
    /// Nobody reads our output any more: no reason to say or report anything.
    quiet: bool,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, quiet: false }
    }

    /// The same with advice.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The caller asked for something that cannot be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSpec, message)
    }

    /// Something local went wrong while `doing`.
    pub fn internal(doing: &str, error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, format!("{doing}: {error}"))
    }

    /// A file of the user could not be used.
    pub fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, format!("{doing} {}: {error}", path.display()))
    }

    /// Whether there is nobody to tell.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The process's exit code.
    pub fn exit_code(&self, policy: Policy) -> ExitCode {
        match policy {
            _ if self.quiet => ExitCode::SUCCESS,
            Policy::Program => ExitCode::from(OURS),
            Policy::Always(code) => ExitCode::from(code),
            Policy::Kind => ExitCode::from(self.kind.cli_exit()),
        }
    }
}

impl From<moat_api::client::Error> for Failure {
    fn from(error: moat_api::client::Error) -> Self {
        let message = error.chain();
        Self { hint: error.hint, ..Self::new(error.kind, message) }
    }
}

impl From<moat_api::WireError> for Failure {
    fn from(error: moat_api::WireError) -> Self {
        Self::new(error.kind, error.message)
    }
}

impl From<moat_node::Error> for Failure {
    fn from(error: moat_node::Error) -> Self {
        Self::new(error.kind, error.chain())
    }
}

impl From<moat_node::config::ConfigError> for Failure {
    fn from(error: moat_node::config::ConfigError) -> Self {
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            message.push_str(&format!(": {source}"));
        }
        Self::invalid(message)
    }
}

/// Of writing to standard output, and of nothing else.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let quiet = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { quiet, ..Self::new(ErrorKind::Internal, format!("write output: {error}")) }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::internal("write JSON", error)
    }
}

/// The exit code of a program as a shell would see it.
pub fn program_code(exit: moat_model::Exit) -> ExitCode {
    match u8::try_from(exit.code) {
        Ok(code) => ExitCode::from(code),
        // The status could not be learnt: not a success, and not the program's own word.
        Err(_) => ExitCode::from(OURS),
    }
}
