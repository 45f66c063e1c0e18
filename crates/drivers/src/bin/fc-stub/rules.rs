//! Whether a body has the fields its description says, in words like the real ones'.

use serde_json::{Map, Value};

/// A field of an object.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// First minor version that has it.
    pub since: u32,
}

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Bool,
    /// A whole number within these.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    Object(&'static [Field]),
    Objects(&'static [Field]),
    /// Hex, binary or decimal digits, as in custom processors.
    Modifiers,
}

/// A field every supported version has and every body must have.
pub const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true, since: 0 }
}

/// A field a body may have.
pub const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false, since: 0 }
}

/// A field that came with a minor version.
pub const fn since(minor: u32, name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false, since: minor }
}

/// Says the first thing wrong with it.
pub fn check(value: &Value, fields: &[Field], minor: u32) -> Result<(), String> {
    let Value::Object(object) = value else { return Err(format!("invalid type: {value}, expected an object")) };
    let known: Vec<&Field> = fields.iter().filter(|field| field.since <= minor).collect();
    unknown(object, &known)?;
    for field in known {
        match object.get(field.name) {
            None if field.required => return Err(format!("missing field `{}`", field.name)),
            None => {}
            Some(value) => fits(value, field.kind, minor).map_err(|why| format!("{}: {why}", field.name))?,
        }
    }
    Ok(())
}

fn unknown(object: &Map<String, Value>, known: &[&Field]) -> Result<(), String> {
    let stranger = object.keys().find(|key| known.iter().all(|field| field.name != key.as_str()));
    match stranger {
        None => Ok(()),
        Some(key) => {
            let names: Vec<String> = known.iter().map(|field| format!("`{}`", field.name)).collect();
            Err(format!("unknown field `{key}`, expected one of {}", names.join(", ")))
        }
    }
}

fn fits(value: &Value, kind: Kind, minor: u32) -> Result<(), String> {
    let wrong = |expected: &str| Err(format!("invalid type: {value}, expected {expected}"));
    match kind {
        Kind::Text if value.is_string() => Ok(()),
        Kind::Text => wrong("a string"),
        Kind::Bool if value.is_boolean() => Ok(()),
        Kind::Bool => wrong("a boolean"),
        Kind::Number(least, most) => match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Ok(()),
            Some(number) => Err(format!("{number} is not within {least} to {most}")),
            None => wrong("an unsigned integer"),
        },
        Kind::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(()),
            _ => Err(format!("unknown variant {value}, expected one of {words:?}")),
        },
        Kind::Object(fields) => check(value, fields, minor),
        Kind::Objects(fields) => match value.as_array() {
            Some(items) => items.iter().try_for_each(|item| check(item, fields, minor)),
            None => wrong("a sequence"),
        },
        Kind::Modifiers if value.is_array() => Ok(()),
        Kind::Modifiers => wrong("a sequence"),
    }
}
