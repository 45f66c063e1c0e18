//! Words of a line outside `CMD`: quoted as POSIX shells do, and nothing else a shell does.

use super::arguments::Scope;
use super::lines::{Line, is_blank};
use crate::problem::{Fault, Place, Reports};

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// What it is, without the quotes, values filled in.
    pub text: String,
    /// Where it stands.
    pub place: Place,
    /// Characters that shells take for a pattern stand in it without quotes.
    pub is_pattern: bool,
}

/// The words of `line` from `from` on. Where something is wrong it is reported, and the words are as good as can be.
pub(super) fn words(line: &Line, from: usize, scope: &Scope, reports: &Reports) -> Vec<Word> {
    let mut reader = Reader { line, at: from, scope, reports };
    let mut words = Vec::new();
    loop {
        while reader.peek().is_some_and(is_blank) {
            reader.at += 1;
        }
        match reader.peek() {
            // As in a shell: a comment begins where a word would.
            None | Some('#') => return words,
            Some(_) => words.push(reader.word()),
        }
    }
}

struct Reader<'a> {
    line: &'a Line,
    at: usize,
    scope: &'a Scope,
    reports: &'a Reports,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.line.chars.get(self.at).map(|(c, _)| *c)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn fault(&self, from: usize, to: usize, message: impl Into<String>, fix: &str) {
        self.reports.push(Fault::new(self.line.place(from, to), message).fix(fix));
    }

    fn word(&mut self) -> Word {
        let from = self.at;
        let mut text = String::new();
        let mut is_pattern = false;
        while let Some(c) = self.peek().filter(|c| !is_blank(*c)) {
            self.at += 1;
            match c {
                '\'' => self.single(&mut text),
                '"' => self.double(&mut text),
                '\\' => text.push(self.next().unwrap_or('\\')),
                '$' => self.dollar(&mut text),
                '`' => self.substitution(),
                ';' | '&' | '|' | '<' | '>' | '(' | ')' => {
                    let message = format!("{c:?} means something to a shell, and only CMD has one");
                    self.fault(self.at - 1, self.at, message, "put the word in quotes, or make the line a CMD");
                }
                _ => {
                    is_pattern |= matches!(c, '*' | '?' | '[');
                    text.push(c);
                }
            }
        }
        Word { text, place: self.line.place(from, self.at), is_pattern }
    }

    /// Up to the closing `'`. Nothing is special in it, but for names that are declared: these are filled in everywhere.
    fn single(&mut self, text: &mut String) {
        let open = self.at - 1;
        while let Some(c) = self.next() {
            match c {
                '\'' => return,
                '$' => match self.name() {
                    Some((name, after)) if self.scope.knows(&name) => {
                        self.value(&name, self.at - 1, after, text);
                        self.at = after;
                    }
                    _ => text.push('$'),
                },
                _ => text.push(c),
            }
        }
        self.fault(open, open + 1, "this quote is not closed", "close it before the end of the line");
    }

    fn double(&mut self, text: &mut String) {
        let open = self.at - 1;
        while let Some(c) = self.next() {
            match c {
                '"' => return,
                '\\' => match self.peek() {
                    Some(next @ ('"' | '\\' | '$' | '`')) => {
                        self.at += 1;
                        text.push(next);
                    }
                    _ => text.push('\\'),
                },
                '$' => self.dollar(text),
                '`' => self.substitution(),
                _ => text.push(c),
            }
        }
        self.fault(open, open + 1, "this quote is not closed", "close it before the end of the line");
    }

    /// `NAME` if `{NAME}` is what comes, and where it ends.
    fn name(&self) -> Option<(String, usize)> {
        named(self.line, self.at)
    }

    fn value(&self, name: &str, from: usize, to: usize, text: &mut String) {
        let place = self.line.place(from, to);
        text.push_str(&self.scope.value(name, place, self.reports));
    }

    /// What stands behind a `$`.
    fn dollar(&mut self, text: &mut String) {
        let from = self.at - 1;
        if let Some((name, after)) = self.name() {
            self.value(&name, from, after, text);
            self.at = after;
            return;
        }
        match self.peek() {
            Some('(') => {
                self.at += 1;
                self.not_run(from);
                self.skip_parens();
            }
            Some('{') => {
                let end = self.line.chars.iter().skip(self.at).take_while(|(c, _)| *c != '}').count();
                let to = (self.at + end + 1).min(self.line.chars.len());
                self.fault(
                    from,
                    to,
                    "only ${NAME} is filled in here",
                    "give the ARG a default in place of ${NAME:-default}",
                );
                self.at = to;
            }
            Some(c) if c == '_' || c.is_ascii_alphanumeric() || "?!@*#$-".contains(c) => {
                let length = self.line.chars.iter().skip(self.at).take_while(|(c, _)| is_name(*c)).count().max(1);
                self.fault(from, self.at + length, "a name is filled in where it stands in braces: ${NAME}", DOLLAR);
                self.at += length;
            }
            _ => text.push('$'),
        }
    }

    /// Behind a backtick: up to the one that closes.
    fn substitution(&mut self) {
        self.not_run(self.at - 1);
        while self.next().is_some_and(|c| c != '`') {}
    }

    fn not_run(&self, from: usize) {
        let message = "nothing is run while a template is read, so there is no command substitution";
        self.fault(from, self.at, message, RUN);
    }

    /// What stands in the parentheses is no word of this line: one problem is enough.
    fn skip_parens(&mut self) {
        let mut open = 1_usize;
        while let Some(c) = self.next() {
            match c {
                '(' => open = open.saturating_add(1),
                ')' if open == 1 => return,
                ')' => open = open.saturating_sub(1),
                _ => {}
            }
        }
    }
}

const RUN: &str = "run it in the jail, with CMD; a value that differs from host to host is an ARG";
const DOLLAR: &str = "for the character itself write \\$";

fn is_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// `NAME` if `{NAME}` stands at `at`, and where it ends.
pub(super) fn named(line: &Line, at: usize) -> Option<(String, usize)> {
    let mut chars = line.chars.iter().skip(at).map(|(c, _)| *c);
    if chars.next() != Some('{') {
        return None;
    }
    let mut name = String::new();
    for c in chars {
        match c {
            '}' if is_valid_name(&name) => {
                let after = at + 2 + name.len();
                return Some((name, after));
            }
            c if is_name(c) => name.push(c),
            _ => return None,
        }
    }
    None
}

/// A name of an argument.
pub(super) fn is_valid_name(name: &str) -> bool {
    // Longer ones are not written by hand.
    (1..=128).contains(&name.len()) && name.chars().all(is_name) && !name.starts_with(|c: char| c.is_ascii_digit())
}
