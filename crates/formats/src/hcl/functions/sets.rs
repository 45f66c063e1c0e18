//! Functions of lists as sets.

use super::{Arguments, Computed, Function, MANY};
use crate::hcl::operators::equal;
use crate::tree::{Kind, Value};

/// Items of a list that is compared item by item.
const ITEMS_MAX: usize = 4096;

pub(super) const FUNCTIONS: &[Function] = &[
    ("distinct", 1, 1, |a| distinct(a, a.list(0)?.iter())),
    ("setintersection", 1, MANY, |a| {
        let others: Vec<&[Value]> = (1..a.len()).map(|index| a.list(index)).collect::<Result<_, _>>()?;
        distinct(a, a.list(0)?.iter().filter(|item| others.iter().all(|other| has(other, item))))
    }),
    ("setproduct", 1, MANY, product),
    ("setsubtract", 2, 2, |a| {
        let other = a.list(1)?;
        distinct(a, a.list(0)?.iter().filter(|item| !has(other, item)))
    }),
    ("setsymmetricdifference", 2, 2, |a| {
        let (left, right) = (a.list(0)?, a.list(1)?);
        let ours = left.iter().filter(|item| !has(right, item));
        distinct(a, ours.chain(right.iter().filter(|item| !has(left, item))))
    }),
    ("setunion", 1, MANY, |a| {
        let all: Vec<&[Value]> = (0..a.len()).map(|index| a.list(index)).collect::<Result<_, _>>()?;
        distinct(a, all.into_iter().flatten())
    }),
];

fn has(list: &[Value], item: &Value) -> bool {
    list.iter().take(ITEMS_MAX).any(|other| equal(other, item))
}

fn distinct<'v>(arguments: &Arguments<'_>, items: impl Iterator<Item = &'v Value>) -> Computed {
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        // Each is compared with all before it.
        arguments.spend(out.len().saturating_mul(4))?;
        if !has(&out, item) {
            out.push(item.clone());
        }
        if out.len() > ITEMS_MAX {
            return Err(format!("more than {ITEMS_MAX} items"));
        }
    }
    Ok(Kind::List(out))
}

fn product(arguments: &Arguments<'_>) -> Computed {
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for index in 0..arguments.len() {
        let list = arguments.list(index)?;
        if rows.len().saturating_mul(list.len()) > ITEMS_MAX {
            return Err(format!("more than {ITEMS_MAX} combinations"));
        }
        let mut next = Vec::new();
        for row in &rows {
            for item in list {
                arguments.spend(item.weight().saturating_mul(row.len() + 1))?;
                let mut longer = row.clone();
                longer.push(item.clone());
                next.push(longer);
            }
        }
        rows = next;
    }
    Ok(Kind::List(rows.into_iter().map(|row| arguments.made(Kind::List(row))).collect()))
}
