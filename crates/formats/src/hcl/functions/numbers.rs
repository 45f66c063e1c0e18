//! Functions of numbers.

use super::{Arguments, Computed, Function, MANY};
use crate::tree::Kind;

pub(super) const FUNCTIONS: &[Function] = &[
    ("abs", 1, 1, |a| finite(a.number(0)?.abs())),
    ("ceil", 1, 1, |a| finite(a.number(0)?.ceil())),
    ("floor", 1, 1, |a| finite(a.number(0)?.floor())),
    ("log", 2, 2, |a| finite(a.number(0)?.log(a.number(1)?))),
    ("max", 1, MANY, |a| fold(a, f64::max)),
    ("min", 1, MANY, |a| fold(a, f64::min)),
    ("parseint", 2, 2, parseint),
    ("pow", 2, 2, |a| finite(a.number(0)?.powf(a.number(1)?))),
    ("signum", 1, 1, |a| {
        let number = a.number(0)?;
        finite(if number == 0.0 { 0.0 } else { number.signum() })
    }),
    ("sum", 1, 1, |a| {
        let numbers = a.list(0)?.iter().map(super::operators::number).collect::<Result<Vec<_>, _>>();
        finite(numbers.map_err(|fault| fault.message)?.into_iter().sum())
    }),
];

fn finite(number: f64) -> Computed {
    if number.is_finite() { Ok(Kind::Number(number)) } else { Err("the result is no number".to_owned()) }
}

fn fold(arguments: &Arguments<'_>, choose: fn(f64, f64) -> f64) -> Computed {
    let mut chosen = arguments.number(0)?;
    for index in 1..arguments.len() {
        chosen = choose(chosen, arguments.number(index)?);
    }
    finite(chosen)
}

fn parseint(arguments: &Arguments<'_>) -> Computed {
    let (text, base) = (arguments.text(0)?, arguments.integer(1)?);
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base)).ok_or("the base is 2 to 36")?;
    let number = i64::from_str_radix(&text, base).map_err(|_| format!("{text:?} is no whole number in base {base}"))?;
    number.to_string().parse().map(Kind::Number).map_err(|_| "out of range".to_owned())
}
