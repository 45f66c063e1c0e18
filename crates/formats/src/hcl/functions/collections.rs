//! Functions of lists and maps.

use std::collections::BTreeMap;

use super::{Arguments, Computed, Function, MANY};
use crate::hcl::operators::{self, as_number};
use crate::tree::{Kind, Member, Value};

/// What range() may make.
const RANGE_MAX: usize = 1024;

pub(super) const FUNCTIONS: &[Function] = &[
    ("alltrue", 1, 1, |a| truths(a).map(|all| Kind::Bool(all.into_iter().all(|one| one)))),
    ("anytrue", 1, 1, |a| truths(a).map(|all| Kind::Bool(all.into_iter().any(|one| one)))),
    ("chunklist", 2, 2, |a| {
        let size = a.count(1)?;
        let list = a.list(0)?;
        if size == 0 {
            return Ok(Kind::List(vec![a.made(Kind::List(list.to_vec()))]));
        }
        Ok(Kind::List(list.chunks(size).map(|chunk| a.made(Kind::List(chunk.to_vec()))).collect()))
    }),
    ("coalesce", 1, MANY, |a| {
        let given = |value: &&Value| !matches!(&value.kind, Kind::Null) && !is_empty_text(value);
        a.all()
            .iter()
            .find(given)
            .map(|value| value.kind.clone())
            .ok_or_else(|| "everything is null or empty".to_owned())
    }),
    ("coalescelist", 1, MANY, |a| {
        let given = |value: &&Value| matches!(&value.kind, Kind::List(items) if !items.is_empty());
        a.all().iter().find(given).map(|value| value.kind.clone()).ok_or_else(|| "every list is empty".to_owned())
    }),
    ("compact", 1, 1, |a| {
        Ok(Kind::List(a.list(0)?.iter().filter(|v| !v.is_null() && !is_empty_text(v)).cloned().collect()))
    }),
    ("concat", 1, MANY, |a| {
        let mut items = Vec::new();
        for index in 0..a.len() {
            items.extend_from_slice(a.list(index)?);
        }
        Ok(Kind::List(items))
    }),
    ("contains", 2, 2, |a| {
        let wanted = a.value(1)?;
        Ok(Kind::Bool(a.list(0)?.iter().any(|item| operators::equal(item, wanted))))
    }),
    ("element", 2, 2, |a| {
        let (list, index) = (a.list(0)?, a.integer(1)?);
        let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
        let at = index.checked_rem_euclid(length).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| list.get(at)).map(|item| item.kind.clone()).ok_or_else(|| "the list is empty".to_owned())
    }),
    ("flatten", 1, 1, |a| {
        let mut out = Vec::new();
        flatten(a.list(0)?, &mut out);
        Ok(Kind::List(out))
    }),
    ("index", 2, 2, |a| {
        let wanted = a.value(1)?;
        let found = a.list(0)?.iter().position(|item| operators::equal(item, wanted));
        found.map(|at| Kind::Number(as_number(at))).ok_or_else(|| "there is no such item".to_owned())
    }),
    ("keys", 1, 1, |a| a.texts(a.map(0)?.keys().cloned())),
    ("length", 1, 1, |a| match &a.value(0)?.kind {
        Kind::List(items) => Ok(Kind::Number(as_number(items.len()))),
        Kind::Map(members) => Ok(Kind::Number(as_number(members.len()))),
        Kind::Text(_) => Ok(Kind::Number(as_number(a.text(0)?.chars().count()))),
        other => Err(format!("{} has no length", other.what())),
    }),
    ("lookup", 2, 3, |a| {
        let (map, key) = (a.map(0)?, a.text(1)?);
        match map.get(&key) {
            Some(member) => Ok(member.value.kind.clone()),
            None if a.has(2) => Ok(a.value(2)?.kind.clone()),
            None => Err(format!("there is no {key:?}, and no default was given")),
        }
    }),
    ("merge", 0, MANY, |a| {
        let mut all = BTreeMap::new();
        for index in 0..a.len() {
            if !a.value(index)?.is_null() {
                all.extend(a.map(index)?.clone());
            }
        }
        Ok(Kind::Map(all))
    }),
    ("one", 1, 1, |a| match a.list(0)? {
        [] => Ok(Kind::Null),
        [only] => Ok(only.kind.clone()),
        more => Err(format!("there are {} items", more.len())),
    }),
    ("range", 1, 3, range),
    ("reverse", 1, 1, |a| Ok(Kind::List(a.list(0)?.iter().rev().cloned().collect()))),
    ("slice", 3, 3, |a| {
        let (list, from, to) = (a.list(0)?, a.count(1)?, a.count(2)?);
        let items = list.get(from..to).ok_or_else(|| format!("{from} to {to} is not within {} items", list.len()))?;
        Ok(Kind::List(items.to_vec()))
    }),
    ("sort", 1, 1, |a| {
        let mut texts = super::texts::listed(a, 0)?;
        texts.sort();
        a.texts(texts)
    }),
    ("values", 1, 1, |a| Ok(Kind::List(a.map(0)?.values().map(|member| member.value.clone()).collect()))),
    ("zipmap", 2, 2, |a| {
        let (keys, values) = (super::texts::listed(a, 0)?, a.list(1)?);
        if keys.len() != values.len() {
            return Err(format!("there are {} keys and {} values", keys.len(), values.len()));
        }
        let member = |(key, value): (String, &Value)| (key, Member { place: a.place, value: value.clone() });
        Ok(Kind::Map(keys.into_iter().zip(values).map(member).collect()))
    }),
];

fn is_empty_text(value: &Value) -> bool {
    matches!(&value.kind, Kind::Text(text) if text.text.is_empty())
}

fn truths(arguments: &Arguments<'_>) -> Result<Vec<bool>, String> {
    let truths = arguments.list(0)?.iter().map(operators::truth).collect::<Result<Vec<_>, _>>();
    truths.map_err(|fault| fault.message)
}

fn flatten(list: &[Value], out: &mut Vec<Value>) {
    for item in list {
        match &item.kind {
            Kind::List(inner) => flatten(inner, out),
            _ => out.push(item.clone()),
        }
    }
}

fn range(arguments: &Arguments<'_>) -> Computed {
    let (start, end) = match arguments.len() {
        1 => (0.0, arguments.number(0)?),
        _ => (arguments.number(0)?, arguments.number(1)?),
    };
    let step = if arguments.has(2) {
        arguments.number(2)?
    } else if end < start {
        -1.0
    } else {
        1.0
    };
    if step == 0.0 || (end - start) * step < 0.0 {
        return Err("the step never leads from the start to the end".to_owned());
    }
    let mut items = Vec::new();
    let mut at = start;
    while (step > 0.0 && at < end) || (step < 0.0 && at > end) {
        if items.len() >= RANGE_MAX {
            return Err(format!("more than {RANGE_MAX} numbers"));
        }
        items.push(arguments.made(Kind::Number(at)));
        at += step;
    }
    arguments.spend(items.len().saturating_mul(32))?;
    Ok(Kind::List(items))
}
