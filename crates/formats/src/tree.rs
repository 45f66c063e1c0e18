//! A file when its expressions are evaluated: blocks, attributes, values, each with its place.

use std::collections::BTreeMap;

use crate::json::{Json, JsonKind};
use crate::problem::{Fault, Place};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub place: Place,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// Whole numbers are exact up to 2^53, which is more than any field takes.
    Number(f64),
    Text(Text),
    List(Vec<Value>),
    /// Iterated in the order of the keys, as HCL does.
    Map(BTreeMap<String, Member>),
    /// It could not be evaluated, which was reported.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub text: String,
    /// It has a `${…}` in it that only a node can fill in: functions cannot look into it.
    pub deferred: bool,
}

/// A key of a map has a place of its own.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub place: Place,
    pub value: Value,
}

impl Kind {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(Text { text: text.into(), deferred: false })
    }

    pub fn deferred(text: impl Into<String>) -> Self {
        Self::Text(Text { text: text.into(), deferred: true })
    }

    /// What it is, for people.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Broken => "broken",
        }
    }
}

impl Value {
    pub fn new(place: Place, kind: Kind) -> Self {
        Self { place, kind }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// How much of it there is: what a copy costs.
    pub fn weight(&self) -> usize {
        match &self.kind {
            Kind::Text(text) => 16usize.saturating_add(text.text.len()),
            Kind::List(items) => items.iter().fold(16, |sum: usize, item| sum.saturating_add(item.weight())),
            Kind::Map(members) => members.iter().fold(16, |sum: usize, (key, member)| {
                sum.saturating_add(key.len()).saturating_add(member.value.weight())
            }),
            _ => 16,
        }
    }

    /// Whether it is nested no deeper than this.
    pub fn is_within(&self, depth: usize) -> bool {
        match (&self.kind, depth.checked_sub(1)) {
            (Kind::List(_) | Kind::Map(_), None) => false,
            (Kind::List(items), Some(depth)) => items.iter().all(|item| item.is_within(depth)),
            (Kind::Map(members), Some(depth)) => members.values().all(|member| member.value.is_within(depth)),
            _ => true,
        }
    }

    /// Whether any text in it waits for a node.
    pub fn is_deferred(&self) -> bool {
        match &self.kind {
            Kind::Text(text) => text.deferred,
            Kind::List(items) => items.iter().any(Self::is_deferred),
            Kind::Map(members) => members.values().any(|member| member.value.is_deferred()),
            _ => false,
        }
    }
}

/// How a number is written into a text.
pub(crate) fn number_text(number: f64) -> String {
    format!("{number}")
}

/// What stands within braces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Body {
    pub place: Place,
    pub attributes: BTreeMap<String, Member>,
    pub blocks: Vec<Block>,
    /// It was written in JSON, where a block looks like an attribute.
    pub json: bool,
    /// Numbers that mean spans of time are nanoseconds: Nomad's API form.
    pub nanoseconds: bool,
}

impl Body {
    /// JSON in which nothing is evaluated.
    pub fn from_json(json: Json) -> Result<Self, Fault> {
        let place = json.place;
        match Value::from_json(json).kind {
            Kind::Map(attributes) => Ok(Self { place, attributes, json: true, ..Self::default() }),
            _ => Err(Fault::new(place, "the file is an object")),
        }
    }
}

impl Value {
    /// JSON as it is written.
    pub fn from_json(json: Json) -> Self {
        let kind = match json.kind {
            JsonKind::Null => Kind::Null,
            JsonKind::Bool(value) => Kind::Bool(value),
            JsonKind::Number(number) => Kind::Number(number),
            JsonKind::Text(text) => Kind::text(text),
            JsonKind::List(items) => Kind::List(items.into_iter().map(Self::from_json).collect()),
            JsonKind::Map(members) => {
                let member = |(key, (place, value))| (key, Member { place, value: Self::from_json(value) });
                Kind::Map(members.into_iter().map(member).collect())
            }
        };
        Self { place: json.place, kind }
    }
}

/// `kind "label" { … }`
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub kind: String,
    /// Of its first line, not of what is in it.
    pub place: Place,
    pub labels: Vec<(String, Place)>,
    pub body: Body,
}
