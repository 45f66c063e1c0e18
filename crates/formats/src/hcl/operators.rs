//! What operators and templates do with values, and how values become others.

use std::cmp::Ordering;

use hcl_edit::expr::{BinaryOperator, UnaryOperator};

use crate::problem::{Fault, Place, alike};
use crate::tree::{Kind, Text, Value, number_text};

const NODE_ONLY: &str = "this is known only on a node: it can be part of a text, and nothing can be computed from it";

fn refuse<T>(value: &Value, wanted: &str) -> Result<T, Fault> {
    match &value.kind {
        Kind::Text(text) if text.deferred => Err(Fault::new(value.place, NODE_ONLY)),
        Kind::Text(text) => {
            let shown: String = text.text.chars().take(40).collect();
            Err(Fault::new(value.place, format!("{wanted} is needed here, and {shown:?} is none")))
        }
        kind => Err(Fault::new(value.place, format!("{wanted} is needed here, and this is {}", kind.what()))),
    }
}

pub(super) fn truth(value: &Value) -> Result<bool, Fault> {
    match &value.kind {
        Kind::Bool(value) => Ok(*value),
        Kind::Text(text) if !text.deferred && text.text == "true" => Ok(true),
        Kind::Text(text) if !text.deferred && text.text == "false" => Ok(false),
        _ => refuse(value, "a bool"),
    }
}

pub(super) fn number(value: &Value) -> Result<f64, Fault> {
    match &value.kind {
        Kind::Number(number) => Ok(*number),
        Kind::Text(text) if !text.deferred => match text.text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => refuse(value, "a number"),
        },
        _ => refuse(value, "a number"),
    }
}

/// A text nothing in which waits for a node.
pub(super) fn text(value: &Value) -> Result<String, Fault> {
    match text_of(value)? {
        Text { deferred: true, .. } => Err(Fault::new(value.place, NODE_ONLY)),
        Text { text, .. } => Ok(text),
    }
}

/// What a value is as a part of a text.
pub(super) fn text_of(value: &Value) -> Result<Text, Fault> {
    match &value.kind {
        Kind::Text(text) => Ok(text.clone()),
        Kind::Number(number) => Ok(Text { text: number_text(*number), deferred: false }),
        Kind::Bool(value) => Ok(Text { text: value.to_string(), deferred: false }),
        Kind::Null => Err(Fault::new(value.place, "this is null, which no text can hold")),
        kind => Err(Fault::new(value.place, format!("this is {}, which no text can hold", kind.what()))
            .fix("jsonencode() writes it as JSON, join() puts a list's items behind one another")),
    }
}

/// Keys and values of what can be walked over.
pub(super) fn pairs(value: Value) -> Result<Vec<(Value, Value)>, Fault> {
    let place = value.place;
    match value.kind {
        Kind::List(items) => {
            let keyed = |(index, item)| (Value::new(place, Kind::Number(as_number(index))), item);
            Ok(items.into_iter().enumerate().map(keyed).collect())
        }
        Kind::Map(members) => Ok(members
            .into_iter()
            .map(|(key, member)| (Value::new(member.place, Kind::text(key)), member.value))
            .collect()),
        _ => refuse(&value, "a list or a map"),
    }
}

/// Exact for every count there can be.
pub(super) fn as_number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn member(value: Value, name: &str) -> Result<Value, Fault> {
    let place = value.place;
    match value.kind {
        Kind::Map(mut members) => match members.remove(name) {
            Some(member) => Ok(Value::new(place, member.value.kind)),
            None => {
                let fault = Fault::new(place, format!("there is no {name:?} in it"));
                Err(match alike(name, members.keys().map(String::as_str)) {
                    Some(near) => fault.fix(format!("did you mean {near:?}?")),
                    None => fault,
                })
            }
        },
        _ => refuse(&value, "a map"),
    }
}

pub(super) fn item(value: Value, index: &Value) -> Result<Value, Fault> {
    let place = value.place;
    match value.kind {
        Kind::List(mut items) => {
            let wanted = number(index)?;
            let at = (0..items.len()).find(|at| as_number(*at) == wanted);
            match at {
                Some(at) => Ok(Value::new(place, items.swap_remove(at).kind)),
                None => {
                    let message = format!("there is no item {} among {}", number_text(wanted), items.len());
                    Err(Fault::new(index.place, message))
                }
            }
        }
        Kind::Map(_) => member(value, &text(index)?),
        _ => refuse(&value, "a list or a map"),
    }
}

pub(super) fn unary(operator: UnaryOperator, value: &Value) -> Result<Kind, Fault> {
    match operator {
        UnaryOperator::Neg => Ok(Kind::Number(-number(value)?)),
        UnaryOperator::Not => Ok(Kind::Bool(!truth(value)?)),
    }
}

/// What the left side alone decides.
pub(super) fn short(operator: BinaryOperator, left: &Value) -> Result<Option<Kind>, Fault> {
    match operator {
        BinaryOperator::And => Ok((!truth(left)?).then_some(Kind::Bool(false))),
        BinaryOperator::Or => Ok(truth(left)?.then_some(Kind::Bool(true))),
        _ => Ok(None),
    }
}

pub(super) fn binary(operator: BinaryOperator, left: &Value, right: &Value, place: Place) -> Result<Kind, Fault> {
    let arithmetic = |compute: fn(f64, f64) -> f64| {
        let result = compute(number(left)?, number(right)?);
        if result.is_finite() { Ok(Kind::Number(result)) } else { Err(Fault::new(place, "this is no number any more")) }
    };
    let compared = |holds: fn(Ordering) -> bool| {
        let (left, right) = (number(left)?, number(right)?);
        Ok(Kind::Bool(left.partial_cmp(&right).is_some_and(holds)))
    };
    match operator {
        BinaryOperator::Eq | BinaryOperator::NotEq => {
            if left.is_deferred() || right.is_deferred() {
                return Err(Fault::new(place, NODE_ONLY).fix("a constraint compares on the node"));
            }
            Ok(Kind::Bool(equal(left, right) == (operator == BinaryOperator::Eq)))
        }
        BinaryOperator::Less => compared(Ordering::is_lt),
        BinaryOperator::LessEq => compared(Ordering::is_le),
        BinaryOperator::Greater => compared(Ordering::is_gt),
        BinaryOperator::GreaterEq => compared(Ordering::is_ge),
        BinaryOperator::Plus => arithmetic(|a, b| a + b),
        BinaryOperator::Minus => arithmetic(|a, b| a - b),
        BinaryOperator::Mul => arithmetic(|a, b| a * b),
        BinaryOperator::Div => arithmetic(|a, b| a / b),
        BinaryOperator::Mod => arithmetic(|a, b| a % b),
        // What the left side did not decide the right one does.
        BinaryOperator::And | BinaryOperator::Or => Ok(Kind::Bool(truth(right)?)),
    }
}

pub(super) fn equal(left: &Value, right: &Value) -> bool {
    match (&left.kind, &right.kind) {
        (Kind::Null, Kind::Null) => true,
        (Kind::Bool(a), Kind::Bool(b)) => a == b,
        (Kind::Number(a), Kind::Number(b)) => a == b,
        (Kind::Text(a), Kind::Text(b)) => a.text == b.text,
        (Kind::List(a), Kind::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Kind::Map(a), Kind::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && equal(&v.value, &w.value))
        }
        _ => false,
    }
}
