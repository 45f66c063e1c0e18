//! `moat job init`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::failure::Failure;
use crate::output::Output;

/// What is written: it runs on any node, and is explained line by line.
pub(super) const EXAMPLE: &str = include_str!("example.hcl");

/// Where to.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// File that is written; one that is there already is left alone
    #[arg(default_value = "example.hcl")]
    file: PathBuf,
    /// Without the explanations
    #[arg(long)]
    short: bool,
}

/// Writes it.
pub fn run(output: &Output, args: &InitArgs) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::file("create", &args.file, &e);
    let text = if args.short { shortened(EXAMPLE) } else { EXAMPLE.to_owned() };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.file).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    if output.json {
        return output.document(&serde_json::json!({ "file": args.file }));
    }
    output.line(&format!("{}: `moat job run {0}` declares it", args.file.display()))
}

/// Without lines that are nothing but a comment.
fn shortened(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_one_has_no_comments() {
        let short = shortened(EXAMPLE);
        assert!(!short.contains('#') && short.contains("job \"example\""), "{short}");
    }
}
