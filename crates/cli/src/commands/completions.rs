//! `moat completions`.
//!
//! The script asks this program for candidates each time, so that ids a node knows are among them.

use clap::Args;
use clap_complete::Shell;
use clap_complete::env::Shells;

use crate::failure::Failure;
use crate::output::Output;

/// For which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script.
pub fn run(output: &Output, args: &CompletionsArgs) -> Result<(), Failure> {
    output.no_json("completions")?;
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).ok_or_else(|| Failure::invalid(format!("no completions for {name}")))?;
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "moat", "moat", "moat", &mut script)?;
    output.bytes(&script)
}
