//! Types of variables.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, ObjectKey};

use super::operators;
use crate::problem::{Fault, Place};
use crate::tree::{Kind, Member, Value};

/// What a variable may hold.
#[derive(Debug, Clone)]
pub(super) enum Type {
    Any,
    Text,
    Number,
    Bool,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    /// Its members, and whether one may be missing.
    Object(BTreeMap<String, (Type, bool)>),
}

const KNOWN: &str = "string, number, bool, any, list(…), set(…), map(…), tuple([…]), object({…})";

impl Type {
    /// Reads `list(string)` and its like.
    pub fn read(expression: &Expression, place: Place) -> Result<Self, Fault> {
        let unknown = || Fault::new(place, "this is not a type").fix(format!("there are {KNOWN}"));
        match expression {
            Expression::Variable(name) => match name.as_str() {
                "string" => Ok(Self::Text),
                "number" => Ok(Self::Number),
                "bool" => Ok(Self::Bool),
                "any" => Ok(Self::Any),
                "list" => Ok(Self::List(Box::new(Self::Any))),
                "set" => Ok(Self::Set(Box::new(Self::Any))),
                "map" => Ok(Self::Map(Box::new(Self::Any))),
                _ => Err(unknown()),
            },
            // Old files have types in quotes.
            Expression::String(name) => match name.as_str() {
                "string" => Ok(Self::Text),
                "list" => Ok(Self::List(Box::new(Self::Any))),
                "map" => Ok(Self::Map(Box::new(Self::Any))),
                _ => Err(unknown()),
            },
            Expression::FuncCall(call) => {
                let inner = call.args.get(0).filter(|_| call.args.len() == 1).ok_or_else(unknown)?;
                match (call.name.name.as_str(), inner) {
                    ("list", inner) => Ok(Self::List(Box::new(Self::read(inner, place)?))),
                    ("set", inner) => Ok(Self::Set(Box::new(Self::read(inner, place)?))),
                    ("map", inner) => Ok(Self::Map(Box::new(Self::read(inner, place)?))),
                    ("tuple", Expression::Array(items)) => {
                        Ok(Self::Tuple(items.iter().map(|item| Self::read(item, place)).collect::<Result<_, _>>()?))
                    }
                    ("object", Expression::Object(members)) => {
                        let mut object = BTreeMap::new();
                        for (key, value) in members {
                            let name = match key {
                                ObjectKey::Ident(name) => name.as_str().to_owned(),
                                ObjectKey::Expression(Expression::String(name)) => name.as_str().to_owned(),
                                ObjectKey::Expression(_) => return Err(unknown()),
                            };
                            object.insert(name, Self::member(value.expr(), place)?);
                        }
                        Ok(Self::Object(object))
                    }
                    _ => Err(unknown()),
                }
            }
            Expression::Parenthesis(inner) => Self::read(inner.inner(), place),
            _ => Err(unknown()),
        }
    }

    fn member(expression: &Expression, place: Place) -> Result<(Self, bool), Fault> {
        if let Expression::FuncCall(call) = expression
            && call.name.name.as_str() == "optional"
            && let Some(inner) = call.args.get(0)
        {
            return Ok((Self::read(inner, place)?, true));
        }
        Ok((Self::read(expression, place)?, false))
    }

    /// Whether what is given on the command line is its text, not an expression.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Text | Self::Number | Self::Bool)
    }

    /// The type of a value that stands for one.
    pub fn of(value: &Value) -> Self {
        match &value.kind {
            Kind::Bool(_) => Self::Bool,
            Kind::Number(_) => Self::Number,
            Kind::Text(_) => Self::Text,
            _ => Self::Any,
        }
    }

    /// Makes a value one of this type, as HCL does: `"5"` is a number, `5` a text.
    pub fn convert(&self, value: Value) -> Result<Value, Fault> {
        let place = value.place;
        if value.is_null() {
            return Ok(value);
        }
        let kind = match self {
            Self::Any => value.kind,
            Self::Text => Kind::Text(operators::text_of(&value)?),
            Self::Number => Kind::Number(operators::number(&value)?),
            Self::Bool => Kind::Bool(operators::truth(&value)?),
            Self::List(inner) | Self::Set(inner) => {
                let items = list(value)?.into_iter().map(|item| inner.convert(item)).collect::<Result<Vec<_>, _>>()?;
                Kind::List(if matches!(self, Self::Set(_)) { set(items) } else { items })
            }
            Self::Map(inner) => {
                let member = |(key, member): (String, Member)| {
                    Ok((key, Member { place: member.place, value: inner.convert(member.value)? }))
                };
                Kind::Map(map(value)?.into_iter().map(member).collect::<Result<_, Fault>>()?)
            }
            Self::Tuple(types) => {
                let items = list(value)?;
                if items.len() != types.len() {
                    let message = format!("{} items are needed here, and there are {}", types.len(), items.len());
                    return Err(Fault::new(place, message));
                }
                Kind::List(
                    items.into_iter().zip(types).map(|(item, kind)| kind.convert(item)).collect::<Result<_, _>>()?,
                )
            }
            Self::Object(types) => Kind::Map(object(types, map(value)?, place)?),
        };
        Ok(Value { place, kind })
    }
}

fn list(value: Value) -> Result<Vec<Value>, Fault> {
    match value.kind {
        Kind::List(items) => Ok(items),
        other => Err(Fault::new(value.place, format!("a list is needed here, and this is {}", other.what()))),
    }
}

fn map(value: Value) -> Result<BTreeMap<String, Member>, Fault> {
    match value.kind {
        Kind::Map(members) => Ok(members),
        other => Err(Fault::new(value.place, format!("a map is needed here, and this is {}", other.what()))),
    }
}

fn set(items: Vec<Value>) -> Vec<Value> {
    let mut texts: BTreeMap<String, Value> = BTreeMap::new();
    for (index, item) in items.into_iter().enumerate() {
        // Only texts and numbers are compared; sets of anything else stay as they are written.
        let key = operators::text_of(&item).map_or_else(|_| format!("\u{10ffff}{index:08}"), |text| text.text);
        texts.entry(key).or_insert(item);
    }
    texts.into_values().collect()
}

fn object(
    types: &BTreeMap<String, (Type, bool)>,
    mut given: BTreeMap<String, Member>,
    place: Place,
) -> Result<BTreeMap<String, Member>, Fault> {
    let mut out = BTreeMap::new();
    for (name, (kind, optional)) in types {
        match given.remove(name) {
            Some(member) => {
                let member = Member { place: member.place, value: kind.convert(member.value)? };
                out.insert(name.clone(), member);
            }
            None if *optional => {
                out.insert(name.clone(), Member { place, value: Value::new(place, Kind::Null) });
            }
            None => return Err(Fault::new(place, format!("{name:?} is missing in it"))),
        }
    }
    match given.into_iter().next() {
        Some((name, member)) => Err(Fault::new(member.place, format!("its type has no {name:?}"))),
        None => Ok(out),
    }
}
