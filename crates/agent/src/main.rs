//! The static program inside every sandbox. Run by the daemon, never by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("moat-agent {}: started by the moat daemon, not by hand", env!("CARGO_PKG_VERSION"));
    ExitCode::from(125)
}
