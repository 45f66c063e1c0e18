//! The text of a `CMD`: it is the jail's shell that reads it, so values must get there without being read as part of it.
//!
//! A value never becomes text of the script. It is assigned to a variable before the author's text, in quotes that hold whatever
//! is in it, and `${NAME}` in that text becomes the variable. A shell does not read what a variable holds as commands, wherever
//! the variable stands, so even a place misjudged here could not change what is run. In single quotes, where shells expand
//! nothing, the quotes are closed around it: `'a ${X}'` becomes `'a '"${X}"''`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::arguments::Scope;
use super::lines::Line;
use super::words::named;
use crate::problem::{Fault, Reports};

/// Before names of variables, so that no argument is called like one that the shell or a program reads (`PATH`).
const PREFIX: &str = "moat_arg_";
/// Longest script: one argument of a program has at most 128 KiB on Linux.
const SCRIPT_BYTES_MAX: usize = 120 << 10;

/// What text is in, from the outermost on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Double,
    /// `$(` or a `(` in it.
    Paren,
    Backtick,
}

/// The script for the rest of `line` from `from` on.
pub(super) fn script(line: &Line, from: usize, scope: &Scope, reports: &Reports) -> String {
    let mut writer =
        Writer { line, at: from, scope, reports, within: Vec::new(), text: String::new(), used: BTreeSet::new() };
    writer.run();
    let Writer { text, used, .. } = writer;
    let mut script = String::new();
    for name in used {
        let value = scope.known(&name).unwrap_or_default().replace('\'', "'\\''");
        // Writing to a String cannot fail.
        let _ = writeln!(script, "{PREFIX}{name}='{value}'");
    }
    script.push_str(text.trim());
    if script.len() > SCRIPT_BYTES_MAX {
        let message =
            format!("with its values the command has {} bytes; at most {SCRIPT_BYTES_MAX} can be passed", script.len());
        reports.push(
            Fault::new(line.place(from, line.chars.len()), message).fix("copy a script into the jail and run that"),
        );
    }
    script
}

struct Writer<'a> {
    line: &'a Line,
    at: usize,
    scope: &'a Scope,
    reports: &'a Reports,
    within: Vec<Within>,
    text: String,
    used: BTreeSet<String>,
}

impl Writer<'_> {
    fn peek(&self) -> Option<char> {
        self.line.chars.get(self.at).map(|(c, _)| *c)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn run(&mut self) {
        let mut before = ' ';
        while let Some(c) = self.next() {
            let inside = self.within.last().copied();
            match c {
                // A comment: nothing in it means anything.
                '#' if inside != Some(Within::Double) && (before.is_whitespace() || before == ';') => {
                    self.text.push(c);
                    while let Some(c) = self.next() {
                        self.text.push(c);
                    }
                }
                '\\' => {
                    self.text.push(c);
                    let next = self.next();
                    self.text.extend(next);
                }
                '\'' if inside != Some(Within::Double) => self.single(),
                '$' => self.dollar(),
                _ => {
                    self.nest(c, inside);
                    self.text.push(c);
                }
            }
            before = c;
        }
    }

    fn nest(&mut self, c: char, inside: Option<Within>) {
        match (c, inside) {
            ('"', Some(Within::Double)) | ('`', Some(Within::Backtick)) | (')', Some(Within::Paren)) => {
                self.within.pop();
            }
            ('"', _) => self.within.push(Within::Double),
            ('`', _) => self.within.push(Within::Backtick),
            ('(', Some(Within::Paren)) => self.within.push(Within::Paren),
            _ => {}
        }
    }

    fn dollar(&mut self) {
        if let Some(name) = self.known_name() {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "${{{PREFIX}{name}}}");
            return;
        }
        self.text.push('$');
        if self.peek() == Some('(') {
            self.at += 1;
            self.text.push('(');
            self.within.push(Within::Paren);
        }
    }

    fn single(&mut self) {
        self.text.push('\'');
        while let Some(c) = self.next() {
            match c {
                '\'' => {
                    self.text.push('\'');
                    return;
                }
                '$' => match self.known_name() {
                    Some(name) => {
                        // Writing to a String cannot fail.
                        let _ = write!(self.text, "'\"${{{PREFIX}{name}}}\"'");
                    }
                    None => self.text.push('$'),
                },
                _ => self.text.push(c),
            }
        }
    }

    /// Takes `{NAME}` if that is what comes and the name is known. Others are the shell's.
    fn known_name(&mut self) -> Option<String> {
        let (name, after) = named(self.line, self.at).filter(|(name, _)| self.scope.knows(name))?;
        // Tells what is to be told where a value is used.
        let _ = self.scope.value(&name, self.line.place(self.at - 1, after), self.reports);
        self.at = after;
        self.used.insert(name.clone());
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use moat_model::jail::JailName;

    use super::*;
    use crate::bastille::Facts;
    use crate::bastille::lines::lines;
    use crate::problem::Place;

    fn made(text: &str, value: &str) -> String {
        let jail = Facts { name: JailName::parse("web").unwrap(), address: None };
        let (mut scope, reports) = (Scope::new(&jail), Reports::default());
        scope.declare("V", value.to_owned(), Place::default(), &reports);
        let script = script(&lines(text, 0)[0], 0, &scope, &reports);
        assert!(reports.is_clean());
        script
    }

    /// What a real shell makes of it, in an empty directory: what it prints, and what lies there afterwards.
    fn run(text: &str, value: &str) -> String {
        let dir =
            std::env::temp_dir().join(format!("moat-script-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&dir).unwrap();
        let output = Command::new("/bin/sh").arg("-c").arg(made(text, value)).current_dir(&dir).output().unwrap();
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(left.is_empty(), "{text} with {value} left {left:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    const HOSTILE: [&str; 18] = [
        "plain",
        "two  words",
        "$(touch x)",
        "`touch x`",
        "; touch x;",
        "'; touch x; '",
        "\"; touch x; \"",
        "'\"'; touch x; '\"'",
        "\" '; touch x #",
        "\\",
        "\\'; touch x; '",
        "| touch x",
        "> x",
        "&& touch x",
        "${V}",
        "$HOME",
        ") ; touch x; (",
        "} ; touch x; {",
    ];

    #[test]
    fn b03_a_value_in_quotes_is_one_word_whatever_is_in_it() {
        for value in HOSTILE {
            for (text, before, after) in [
                ("printf '[%s]' \"${V}\"", "", ""),
                ("printf '[%s]' '${V}'", "", ""),
                ("printf '[%s]' \"a ${V} b\"", "a ", " b"),
                ("printf '[%s]' 'a ${V}'\" b\"", "a ", " b"),
                ("printf '[%s]' \"$(printf %s \"${V}\")\"", "", ""),
                ("printf '[%s]' \"$(printf %s '${V}')\"", "", ""),
                ("x=${V}; printf '[%s]' \"$x\" # '${V}", "", ""),
                ("printf '[%s]' \"it's ${V}\"", "it's ", ""),
                ("printf '[%s]' it\\'s\" ${V}\"", "it's ", ""),
            ] {
                assert_eq!(run(text, value), format!("[{before}{value}{after}]"), "{text} with {value}");
            }
        }
    }

    #[test]
    fn b03_a_value_runs_nothing_wherever_it_stands() {
        for value in HOSTILE {
            // Without quotes a shell divides it at blanks; in places that are misread here, it is something else. Nothing is run.
            for text in [
                "printf '[%s]' ${V}",
                "printf '[%s]' pre${V}post",
                "for i in ${V}; do printf '[%s]' \"$i\"; done",
                "printf '[%s]' `printf %s ${V}`",
                "case ${V} in a) echo;; *) printf x;; esac; printf '[%s]' '${V}'",
                "echo $(case a in a) echo \"${V}\";; esac) '${V}' \"${V}\"",
                "echo don\\'t '${V}' # isn't ${V}",
                "echo \"${V:-'${V}'}\" ${V}",
                "echo \"`echo \\\"${V}\\\"`\"",
                "echo \"${V}",
                "echo '${V}",
            ] {
                run(text, value);
            }
        }
    }

    #[test]
    fn what_is_not_declared_is_the_shells() {
        assert_eq!(made("echo $V ${W} '${W}' \\${V} \"\\${V}\"", "x"), "echo $V ${W} '${W}' \\${V} \"\\${V}\"");
        assert_eq!(
            made("echo '${V}' ${JAIL_NAME}", "x"),
            "moat_arg_JAIL_NAME='web'\nmoat_arg_V='x'\necho ''\"${moat_arg_V}\"'' ${moat_arg_JAIL_NAME}"
        );
    }

    #[test]
    fn a_command_that_cannot_be_passed_is_refused() {
        let jail = Facts { name: JailName::parse("web").unwrap(), address: None };
        let reports = Reports::default();
        let text = format!("echo {}", "x".repeat(SCRIPT_BYTES_MAX));
        script(&lines(&text, 0)[0], 0, &Scope::new(&jail), &reports);
        assert!(!reports.is_clean());
    }
}
