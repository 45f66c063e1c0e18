//! What is done to the words before they are read: the name this program was called by, and options that collide.

use std::ffi::OsString;
use std::path::Path;

/// Called by this name, the program is `moat jail`.
pub const ALIAS: &str = "bastille";

/// Commands of which all words are read by themselves: their `-s` and the like are not those of every command.
const RAW: [&str; 1] = ["rdr"];

/// `bastille create …` becomes `moat jail create …`.
pub fn prepared(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = arguments.into_iter().collect();
    let called = words.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|name| name == ALIAS) {
        words.insert(1, "jail".into());
        // Bastille's own way of asking.
        if words.get(2).is_some_and(|word| word == "help") {
            words.truncate(2);
            words.push("--help".into());
        }
    }
    if words.get(1).is_some_and(|word| word == "jail") {
        let command = words.iter().skip(2).position(|word| !word.to_string_lossy().starts_with('-')).map(|at| at + 2);
        if let Some(at) = command
            && words.get(at).is_some_and(|word| RAW.iter().any(|raw| word == raw))
            && !words.get(at + 1).is_some_and(|word| word == "-h" || word == "--help" || word == "--")
        {
            words.insert(at + 1, "--".into());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        let words = prepared(text.split(' ').map(OsString::from));
        words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_name_it_is_called_by_counts() {
        assert_eq!(of("/usr/bin/bastille create a b c"), "/usr/bin/bastille jail create a b c");
        assert_eq!(of("bastille -q list"), "bastille jail -q list");
        assert_eq!(of("bastille help"), "bastille jail --help");
        assert_eq!(of("moat create"), "moat create");
        assert_eq!(of("./bastille-moat up"), "./bastille-moat up");
    }

    #[test]
    fn options_that_every_command_has_do_not_reach_into_rdr() {
        assert_eq!(of("moat jail rdr -s 1.2.3.4 a tcp 1 2"), "moat jail rdr -- -s 1.2.3.4 a tcp 1 2");
        assert_eq!(of("bastille -q rdr a list"), "bastille jail -q rdr -- a list");
        assert_eq!(of("moat jail rdr --help"), "moat jail rdr --help");
        assert_eq!(of("moat jail cmd rdr x"), "moat jail cmd rdr x");
    }
}
