//! What is wrong with a file, shown as compilers show it: file, line, column, the line itself and a caret below.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Problems reported of one file. A file that is wrong everywhere is wrong in the same way; more would scroll the first away.
const REPORTED_MAX: usize = 20;
/// Characters of a source line shown. Longer ones are data, not text somebody wrote by hand.
const LINE_SHOWN_MAX: usize = 160;
/// Between the parts of a path. No name has it.
pub(crate) const SEPARATOR: char = '\u{1f}';

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// File, or what the text came from.
    pub origin: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// Characters of the line that are meant; at least 1.
    pub width: usize,
    /// The line itself, cut where it is very long.
    pub source: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, line, column, message, .. } = self;
        write!(f, "{origin}:{line}:{column}: {message}")?;
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs below the line, so that the caret stands where the reader sees it.
        let indent: String =
            self.source.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(self.width.max(1));
        write!(f, "\n {number} | {}\n {gutter} | {indent}{carets}", self.source)?;
        if let Some(fix) = &self.fix {
            write!(f, "\n {gutter} = {fix}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problems {
    /// The first of them.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub left_out: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        if self.left_out > 0 {
            write!(f, "\n\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Bytes of a source, from the first to behind the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub source: usize,
    pub start: usize,
    pub end: usize,
}

impl Place {
    pub fn new(source: usize, span: std::ops::Range<usize>) -> Self {
        Self { source, start: span.start, end: span.end }
    }
}

/// One thing that is wrong, before it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub place: Place,
    pub message: String,
    pub fix: Option<String>,
}

impl Fault {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), fix: None }
    }

    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Texts that are read, and what was found wrong with them so far.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    sources: Vec<(String, String)>,
    faults: RefCell<Vec<Fault>>,
    warned: RefCell<Vec<Fault>>,
    marks: RefCell<BTreeMap<String, Place>>,
    numbers: RefCell<BTreeMap<String, usize>>,
}

impl Reports {
    /// Takes a text; the number is what places name it by.
    pub fn add(&mut self, origin: &str, text: &str) -> usize {
        self.sources.push((origin.to_owned(), text.to_owned()));
        self.sources.len().saturating_sub(1)
    }

    /// So much is wrong that nobody reads what each might have meant.
    pub fn is_full(&self) -> bool {
        self.faults.borrow().len() > 10 * REPORTED_MAX
    }

    pub fn push(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// Remembers where a part of what is read stands, for rules that see only what was read.
    pub fn mark(&self, path: &str, place: Place) {
        self.marks.borrow_mut().entry(path.to_owned()).or_insert(place);
    }

    /// How many parts of this path there were before.
    pub fn number(&self, path: &str) -> usize {
        let mut numbers = self.numbers.borrow_mut();
        let count = numbers.entry(path.to_owned()).or_default();
        let before = *count;
        *count = before.saturating_add(1);
        before
    }

    /// Something whoever gave the file should know.
    pub fn warn(&self, fault: Fault) {
        self.warned.borrow_mut().push(fault);
    }

    pub fn warnings(&self) -> Vec<Problem> {
        let mut faults = self.warned.borrow().clone();
        faults.sort_by_key(|fault| (fault.place.source, fault.place.start));
        faults.into_iter().map(|fault| problem(&self.sources, fault)).collect()
    }

    pub fn is_marked(&self, path: &str) -> bool {
        self.marks.borrow().contains_key(path)
    }

    /// Where a part stands, or what it is in.
    pub fn place_of(&self, path: &str) -> Place {
        let marks = self.marks.borrow();
        let mut path = path;
        loop {
            if let Some(place) = marks.get(path) {
                return *place;
            }
            match path.rsplit_once(SEPARATOR) {
                Some((outer, _)) => path = outer,
                None => return marks.get("").copied().unwrap_or_default(),
            }
        }
    }

    pub fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// What was found, if anything was.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut faults = self.faults.take();
        match value {
            Some(value) if faults.is_empty() => return Ok(value),
            None if faults.is_empty() => {
                faults.push(Fault::new(Place::default(), "nothing could be read from this file"));
            }
            _ => {}
        }
        faults.sort_by_key(|fault| (fault.place.source, fault.place.start));
        faults.dedup_by(|a, b| a.place == b.place && a.message == b.message);
        let left_out = faults.len().saturating_sub(REPORTED_MAX);
        faults.truncate(REPORTED_MAX);
        let problems = faults.into_iter().map(|fault| problem(&self.sources, fault)).collect();
        Err(Problems { problems, left_out })
    }
}

fn problem(sources: &[(String, String)], fault: Fault) -> Problem {
    let (origin, text) = match sources.get(fault.place.source) {
        Some((origin, text)) => (origin.as_str(), text.as_str()),
        None => ("", ""),
    };
    let start = floor(text, fault.place.start);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let whole = text.get(line_start..).unwrap_or_default();
    let whole = whole.split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let column = before.get(line_start..).unwrap_or_default().chars().count();
    let end = floor(text, fault.place.end.max(start));
    let meant = text.get(start..end).unwrap_or_default();
    let meant = meant.split('\n').next().unwrap_or_default().trim_end();
    let source: String = whole.chars().take(LINE_SHOWN_MAX).map(printable).collect();
    let width = meant.chars().count().min(source.chars().count().saturating_sub(column)).max(1);
    Problem {
        origin: origin.to_owned(),
        line: before.matches('\n').count() + 1,
        column: column + 1,
        width,
        source,
        message: fault.message,
        fix: fault.fix,
    }
}

/// A terminal must not be driven by what stands in a file.
fn printable(c: char) -> char {
    if c.is_control() && c != '\t' { '\u{fffd}' } else { c }
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at = at.saturating_sub(1);
    }
    at
}

/// `did you mean "x"?`, if there is one that looks alike.
pub(crate) fn alike<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Of two letters everything is a neighbour.
    let bound = (given.chars().count() / 3).min(3);
    known
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, removals and replacements between two words. Both are short: what is longer than a name is not alike.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.to_lowercase().chars().enumerate() {
        let mut previous = i + 1;
        let mut next = vec![previous];
        for (j, right) in b.iter().enumerate() {
            let replaced = row.get(j).copied().unwrap_or_default() + usize::from(left != *right);
            let removed = row.get(j + 1).copied().unwrap_or_default() + 1;
            previous = replaced.min(removed).min(previous + 1);
            next.push(previous);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
