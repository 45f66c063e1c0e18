//! What a reader of blocks takes from them, key by key. What nobody took is refused at the end.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moat_model::spec::Signal;

use crate::problem::{Fault, Place, Reports, SEPARATOR, alike};
use crate::tree::{Body, Kind, Member, Value, number_text};

/// Keys somebody may write that mean nothing here, and why or what instead.
pub(crate) type Absent = &'static [(&'static str, &'static str)];

/// One block.
pub(crate) struct Part<'a> {
    pub place: Place,
    pub labels: Vec<(String, Place)>,
    body: Cow<'a, Body>,
}

impl Part<'_> {
    /// The label of a block that has one.
    pub fn label(&self) -> &str {
        self.labels.first().map_or("", |(label, _)| label.as_str())
    }
}

/// A block being read.
pub(crate) struct Fields<'a> {
    body: &'a Body,
    place: Place,
    what: String,
    path: String,
    reports: &'a Reports,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The outermost.
    pub fn root(body: &'a Body, what: &str, reports: &'a Reports) -> Self {
        let place = Place { end: body.place.start, ..body.place };
        reports.mark("", place);
        let known = RefCell::default();
        Self { body, place, what: what.to_owned(), path: String::new(), reports, known }
    }

    /// A block in another.
    pub fn of(part: &'a Part<'_>, outer: &Fields<'a>, kind: &str, what: String) -> Self {
        let mut path = outer.path_of(kind);
        for (label, _) in &part.labels {
            path.push(SEPARATOR);
            path.push_str(label);
        }
        // Of several without names each has a number.
        if part.labels.is_empty() {
            let number = outer.reports.number(&path);
            if number > 0 {
                path = format!("{path}{SEPARATOR}#{number}");
            }
        }
        outer.reports.mark(&path, part.place);
        Self { body: &part.body, place: part.place, what, path, reports: outer.reports, known: RefCell::default() }
    }

    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}{SEPARATOR}{name}", self.path) }
    }

    pub fn fault(&self, name: &str, message: impl std::fmt::Display) -> Fault {
        let place = match self.body.attributes.get(name) {
            Some(member) => member.value.place,
            None => self.body.blocks.iter().find(|block| block.kind == name).map_or(self.place, |block| block.place),
        };
        Fault::new(place, format!("{}: {message}", self.what))
    }

    pub fn refuse(&self, name: &str, message: impl std::fmt::Display, fix: &str) {
        let fault = self.fault(name, message);
        self.reports.push(if fix.is_empty() { fault } else { fault.fix(fix) });
    }

    /// Something about a value.
    fn about(&self, value: &Value, message: impl std::fmt::Display) -> Fault {
        Fault::new(value.place, format!("{}: {message}", self.what))
    }

    fn know(&self, name: &'static str) {
        self.known.borrow_mut().insert(name);
    }

    /// A member that is there, not null, and could be evaluated.
    fn member(&self, name: &'static str) -> Option<&'a Member> {
        self.know(name);
        if let Some(block) = self.body.blocks.iter().find(|block| block.kind == name) {
            let fault = Fault::new(block.place, format!("{}: {name} is not a block", self.what));
            self.reports.push(fault.fix(format!("write {name} = …")));
        }
        let member = self.body.attributes.get(name)?;
        self.reports.mark(&self.path_of(name), member.value.place);
        (!matches!(member.value.kind, Kind::Null | Kind::Broken)).then_some(member)
    }

    /// Whether it was written, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        let attribute = self.body.attributes.get(name).is_some_and(|member| !member.value.is_null());
        attribute || self.body.blocks.iter().any(|block| block.kind == name)
    }

    /// Requires a key. Whatever could not be evaluated was reported already.
    pub fn needed<T>(&self, name: &str, found: Option<T>, example: &str) -> Option<T> {
        if found.is_none() && !self.has(name) {
            self.refuse(name, format!("{name} is missing"), &format!("write {name} = {example}"));
        }
        found
    }

    fn text_in(&self, name: &str, value: &Value) -> Option<String> {
        match &value.kind {
            Kind::Text(text) => Some(text.text.clone()),
            Kind::Number(number) => Some(number_text(*number)),
            Kind::Bool(value) => Some(value.to_string()),
            Kind::Broken => None,
            other => {
                self.reports.push(self.about(value, format!("{name} is a text, and this is {}", other.what())));
                None
            }
        }
    }

    fn word_in(&self, name: &str, value: &Value) -> Option<String> {
        let text = self.text_in(name, value)?;
        if text.contains("${") {
            let message = format!("{name} must be known before a node is chosen, and {text} is known only there");
            self.reports.push(self.about(value, message));
            return None;
        }
        Some(text)
    }

    /// A text that may wait for a node.
    pub fn text(&self, name: &'static str) -> Option<String> {
        self.member(name).and_then(|member| self.text_in(name, &member.value))
    }

    /// A text that may not.
    pub fn word(&self, name: &'static str) -> Option<String> {
        self.member(name).and_then(|member| self.word_in(name, &member.value))
    }

    fn items(&self, name: &'static str) -> Option<&'a [Value]> {
        let member = self.member(name)?;
        match &member.value.kind {
            Kind::List(items) => Some(items),
            other => {
                let message = format!("{name} is a list, and this is {}", other.what());
                self.reports.push(self.about(&member.value, message).fix("write it in [ ]"));
                None
            }
        }
    }

    pub fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        let items = self.items(name)?;
        Some(items.iter().filter_map(|item| self.text_in(name, item)).collect())
    }

    pub fn words(&self, name: &'static str) -> Option<Vec<String>> {
        let items = self.items(name)?;
        Some(items.iter().filter_map(|item| self.word_in(name, item)).collect())
    }

    pub fn flag(&self, name: &'static str) -> Option<bool> {
        let member = self.member(name)?;
        match &member.value.kind {
            Kind::Bool(value) => Some(*value),
            Kind::Text(text) if text.text == "true" => Some(true),
            Kind::Text(text) if text.text == "false" => Some(false),
            other => {
                self.reports
                    .push(self.about(&member.value, format!("{name} is true or false, and this is {}", other.what())));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn whole<T: TryFrom<i64>>(&self, name: &'static str, first: i64, last: i64) -> Option<T> {
        let member = self.member(name)?;
        let number = match &member.value.kind {
            Kind::Number(number) if number.fract() == 0.0 => number_text(*number).parse::<i64>().ok(),
            Kind::Text(text) => text.text.parse::<i64>().ok(),
            _ => None,
        };
        match number {
            Some(number) if (first..=last).contains(&number) => T::try_from(number).ok(),
            Some(number) => {
                let message = if last == i64::from(u32::MAX) || last == i64::MAX {
                    format!("{name} is at least {first}, and this is {number}")
                } else {
                    format!("{name} lies within {first} and {last}, and this is {number}")
                };
                self.reports.push(self.about(&member.value, message));
                None
            }
            None => {
                let deferred = member.value.is_deferred();
                let why = if deferred { "must be known before a node is chosen" } else { "is a whole number" };
                self.reports.push(self.about(&member.value, format!("{name} {why}")));
                None
            }
        }
    }

    /// A count without an upper bound of its own.
    pub fn count(&self, name: &'static str) -> Option<u32> {
        self.whole(name, 0, i64::from(u32::MAX))
    }

    pub fn number(&self, name: &'static str) -> Option<f64> {
        let member = self.member(name)?;
        match &member.value.kind {
            Kind::Number(number) => Some(*number),
            _ => {
                self.reports.push(self.about(&member.value, format!("{name} is a number")));
                None
            }
        }
    }

    /// A span of time.
    pub fn span(&self, name: &'static str) -> Option<Duration> {
        let member = self.member(name)?;
        let (span, hint) = match &member.value.kind {
            Kind::Number(0.0) => (Some(Duration::ZERO), ""),
            Kind::Number(nanoseconds) if self.body.nanoseconds => (crate::span::seconds(nanoseconds / 1e9), ""),
            Kind::Number(_) => (None, "write the unit: \"30s\", \"5m\", \"1h30m\""),
            Kind::Text(text) => (crate::span::parse(&text.text), "spans are written \"30s\", \"5m\", \"1h30m\""),
            _ => (None, "spans are written \"30s\", \"5m\", \"1h30m\""),
        };
        if span.is_none() {
            self.reports.push(self.about(&member.value, format!("{name} is a span of time")).fix(hint));
        }
        span
    }

    /// One of some words.
    pub fn choice<T: Clone>(&self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let given = self.word(name)?;
        let found = choices.iter().find(|(word, _)| *word == given);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            let fix = alike(&given, words.iter().copied()).map(|near| format!("did you mean {near:?}?"));
            let message = format!("{name} is one of {}, and {given:?} is none", words.join(", "));
            self.refuse(name, message, fix.as_deref().unwrap_or_default());
        }
        found.map(|(_, value)| value.clone())
    }

    pub fn signal(&self, name: &'static str) -> Option<Signal> {
        let text = self.word(name)?;
        let signal = Signal::parse(&text);
        if signal.is_none() {
            self.refuse(name, format!("{text:?} is not a signal"), "signals are SIGTERM, SIGINT, SIGHUP, … or 1 to 64");
        }
        signal
    }

    /// Free keys: as an attribute or as a block.
    fn free(&self, name: &'static str) -> Vec<(&'a String, &'a Member)> {
        self.know(name);
        let mut all = Vec::new();
        if let Some(member) = self.body.attributes.get(name) {
            self.reports.mark(&self.path_of(name), member.value.place);
            match &member.value.kind {
                Kind::Map(members) => all.extend(members.iter()),
                // JSON writes a block that way, too.
                Kind::List(items) if self.body.json => {
                    for item in items {
                        if let Kind::Map(members) = &item.kind {
                            all.extend(members.iter());
                        }
                    }
                }
                Kind::Null | Kind::Broken => {}
                other => self
                    .reports
                    .push(self.about(&member.value, format!("{name} is a map, and this is {}", other.what()))),
            }
        }
        for block in self.body.blocks.iter().filter(|block| block.kind == name) {
            self.reports.mark(&self.path_of(name), block.place);
            for inner in block.body.blocks.iter().map(|inner| (&inner.kind, inner.place)) {
                self.reports.push(Fault::new(
                    inner.1,
                    format!("{}: {name} holds texts, and {} is a block", self.what, inner.0),
                ));
            }
            all.extend(block.body.attributes.iter());
        }
        all
    }

    pub fn map(&self, name: &'static str) -> BTreeMap<String, String> {
        let member = |(key, member): (&String, &Member)| {
            self.reports.mark(&format!("{}{SEPARATOR}{key}", self.path_of(name)), member.place);
            let text = if member.value.is_null() { None } else { self.text_in(key, &member.value) };
            Some((key.clone(), text?))
        };
        self.free(name).into_iter().filter_map(member).collect()
    }

    /// The same, each with one text or several.
    pub fn lists(&self, name: &'static str) -> BTreeMap<String, Vec<String>> {
        let member = |(key, member): (&String, &Member)| {
            let texts = match &member.value.kind {
                Kind::List(items) => items.iter().filter_map(|item| self.text_in(key, item)).collect(),
                _ => vec![self.text_in(key, &member.value)?],
            };
            Some((key.clone(), texts))
        };
        self.free(name).into_iter().filter_map(member).collect()
    }

    /// Blocks of a kind, each with as many labels as it must have.
    pub fn blocks(&self, kind: &'static str, labels: usize) -> Vec<Part<'a>> {
        self.know(kind);
        let mut parts = Vec::new();
        for block in self.body.blocks.iter().filter(|block| block.kind == kind) {
            if block.labels.len() == labels {
                let body = Cow::Borrowed(&block.body);
                parts.push(Part { place: block.place, labels: block.labels.clone(), body });
                continue;
            }
            let fix = match labels {
                0 => format!("write {kind} {{ … }}"),
                _ => format!("write {kind} \"NAME\" {{ … }}"),
            };
            let message = format!("{}: {kind} has {labels} label(s), and {} were given", self.what, block.labels.len());
            self.reports.push(Fault::new(block.place, message).fix(fix));
        }
        if let Some(member) = self.body.attributes.get(kind) {
            if self.body.json {
                self.json_blocks(kind, &member.value, labels, Vec::new(), member.place, &mut parts);
            } else if !matches!(member.value.kind, Kind::Null | Kind::Broken) {
                self.refuse(kind, format!("{kind} is a block"), &format!("write {kind} {{ … }}, without ="));
            }
        }
        parts
    }

    fn json_blocks(
        &self,
        kind: &str,
        value: &Value,
        labels: usize,
        given: Vec<(String, Place)>,
        place: Place,
        out: &mut Vec<Part<'a>>,
    ) {
        match &value.kind {
            Kind::List(items) => {
                for item in items {
                    self.json_blocks(kind, item, labels, given.clone(), place, out);
                }
            }
            Kind::Map(members) if given.len() < labels => {
                for (key, member) in members.iter().filter(|(key, _)| key.as_str() != "//") {
                    let mut given = given.clone();
                    given.push((key.clone(), member.place));
                    self.json_blocks(kind, &member.value, labels, given, member.place, out);
                }
            }
            Kind::Map(members) => {
                let mut attributes = members.clone();
                attributes.remove("//");
                let nanoseconds = self.body.nanoseconds;
                // What stands in a value is written as values are, in HCL too.
                let body = Body { place: value.place, attributes, blocks: Vec::new(), json: true, nanoseconds };
                out.push(Part { place, labels: given, body: Cow::Owned(body) });
            }
            Kind::Null | Kind::Broken => {}
            other => self.reports.push(self.about(value, format!("{kind} is an object, and this is {}", other.what()))),
        }
    }

    /// The block of a kind that comes at most once.
    pub fn block(&self, kind: &'static str) -> Option<Part<'a>> {
        let mut parts = self.blocks(kind, 0).into_iter();
        let first = parts.next();
        if let Some(second) = parts.next() {
            self.reports.push(Fault::new(second.place, format!("{}: {kind} is given twice", self.what)));
        }
        first
    }

    /// The same, where `kind = { … }` means it, too.
    pub fn loose_block(&self, kind: &'static str) -> Option<Part<'a>> {
        match self.body.attributes.get(kind) {
            Some(member) if !self.body.json && matches!(member.value.kind, Kind::Map(_)) => {
                self.know(kind);
                let mut parts = Vec::new();
                self.json_blocks(kind, &member.value, 0, Vec::new(), member.place, &mut parts);
                parts.into_iter().next()
            }
            _ => self.block(kind),
        }
    }

    /// Something that has no meaning here, and is not refused.
    pub fn warn(&self, message: impl std::fmt::Display, why: &str) {
        self.reports.warn(Fault::new(self.place, format!("{}: {message}", self.what)).fix(why));
    }

    /// Keys that have no meaning here, and are not refused.
    pub fn ignore(&self, absent: Absent) {
        for (name, why) in absent {
            self.know(name);
            if self.has(name) {
                let fault = self.fault(name, format!("{name} has no meaning here"));
                self.reports.warn(fault.fix(*why));
            }
        }
    }

    /// Refuses what nobody took.
    pub fn finish(self, absent: Absent) {
        let known = self.known.borrow();
        let attributes = self.body.attributes.iter().filter(|(_, member)| !(self.body.json && member.value.is_null()));
        let attributes = attributes.map(|(name, member)| (name.as_str(), member.place));
        let blocks = self.body.blocks.iter().map(|block| (block.kind.as_str(), block.place));
        for (name, place) in attributes.chain(blocks) {
            if known.contains(name) {
                continue;
            }
            let what = &self.what;
            let fault = match absent.iter().find(|(key, _)| *key == name) {
                Some((_, instead)) => Fault::new(place, format!("{what}: {name} is not supported")).fix(*instead),
                None => {
                    let fault = Fault::new(place, format!("{what}: there is no {name:?}"));
                    match alike(name, known.iter().copied()).filter(|_| !self.reports.is_full()) {
                        Some(near) => fault.fix(format!("did you mean {near:?}?")),
                        None => {
                            fault.fix(format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", ")))
                        }
                    }
                }
            };
            self.reports.push(fault);
        }
    }
}
