//! Long options with a single dash, as Nomad spells them: `-detach`, `-check-index=5`, `-var 'a=b'`.
//!
//! Only where Nomad's users come from, below `job`, `alloc` and `node`; and only words that are long options of the very
//! command, so `-it` stays what it is.

use std::ffi::OsString;

use clap::{ArgAction, Command};

/// The commands.
const WHERE: [&str; 3] = ["job", "alloc", "node"];

/// Gives the long options of `arguments` their second dash.
pub fn doubled(root: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // Only with the command first can it be told what is an option's value.
    let Some(first) = arguments.get(1).and_then(|word| word.to_str()).map(str::to_owned) else { return arguments };
    if !WHERE.contains(&first.as_str()) {
        return arguments;
    }
    let globals: Vec<_> = root.get_arguments().filter(|argument| argument.is_global_set()).collect();
    let Some(mut command) = root.find_subcommand(&first) else { return arguments };
    let mut value_next = false;
    for argument in arguments.iter_mut().skip(2) {
        let Some(word) = argument.to_str() else { continue };
        if std::mem::take(&mut value_next) {
            continue;
        }
        if word == "--" {
            break;
        }
        if !word.starts_with('-') {
            match command.find_subcommand(word) {
                Some(inner) => command = inner,
                // What follows the words of a program belongs to it.
                None if command.get_positionals().any(clap::Arg::is_trailing_var_arg_set) => break,
                None => {}
            }
            continue;
        }
        let name = word.trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
        let known = command.get_arguments().chain(globals.iter().copied()).find(|a| a.get_long() == Some(&name));
        let Some(known) = known else { continue };
        let takes_value = matches!(known.get_action(), ArgAction::Set | ArgAction::Append);
        value_next = takes_value && !word.contains('=');
        if !word.starts_with("--") && name.len() > 1 {
            *argument = OsString::from(format!("-{word}"));
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn doubled_of(text: &str) -> String {
        let words = text.split(' ').map(OsString::from);
        let words = doubled(&crate::args::Cli::command(), words);
        words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn known_long_options_get_their_second_dash() {
        let table = [
            ("moat job run -detach -check-index 5 x.hcl", "moat job run --detach --check-index 5 x.hcl"),
            ("moat job run -var a=b -var-file=v x.hcl", "moat job run --var a=b --var-file=v x.hcl"),
            ("moat job run -json x.hcl", "moat job run --json x.hcl"),
            ("moat job periodic force -detach x", "moat job periodic force --detach x"),
            ("moat alloc exec -it -task web 1234 ls -task", "moat alloc exec -it --task web 1234 ls -task"),
            ("moat alloc logs -f -n 5 1234", "moat alloc logs -f -n 5 1234"),
            ("moat job run -nothing x.hcl", "moat job run -nothing x.hcl"),
            ("moat node drain -enable -deadline 1h self", "moat node drain --enable --deadline 1h self"),
            ("moat sandbox exec -life 5 x", "moat sandbox exec -life 5 x"),
            ("moat job run -- -detach", "moat job run -- -detach"),
        ];
        for (given, wanted) in table {
            assert_eq!(doubled_of(given), wanted);
        }
    }
}
