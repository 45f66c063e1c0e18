//! Functions of expressions: those of Nomad that compute, and those that read what the caller shows.

mod collections;
mod encoding;
mod format;
mod lazy;
mod net;
mod numbers;
mod sets;
mod texts;
mod time;
mod world;

use hcl_edit::expr::FuncCall;

use super::eval::{Budget, Context, Evaluator};
use super::operators;
use crate::around::Around;
use crate::problem::{Fault, Place, alike};
use crate::tree::{Kind, Value};

/// Why a function has no value.
pub(super) type Computed = Result<Kind, String>;

/// Name, fewest and most arguments, and what it does.
pub(super) type Function = (&'static str, usize, usize, fn(&Arguments<'_>) -> Computed);

/// As many arguments as one likes.
pub(super) const MANY: usize = usize::MAX;

/// Functions of Nomad that are not here, and why.
const ABSENT: &[(&str, &str)] = &[
    ("bcrypt", "a hash that differs each time makes each plan a change: give the hash as a variable"),
    ("rsadecrypt", "a private key does not belong into a job file: give what it decrypts as a variable"),
    ("yamldecode", "write the data as JSON and use jsondecode()"),
    ("yamlencode", "jsonencode() writes JSON, which YAML's readers take"),
    ("vault", "there is no Vault: give the value as a variable"),
    ("consul_key", "there is no Consul: give the value as a variable"),
];

/// What a function is given.
pub(super) struct Arguments<'a> {
    values: Vec<Value>,
    pub around: &'a dyn Around,
    pub budget: &'a Budget,
    pub place: Place,
}

impl Arguments<'_> {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn all(&self) -> &[Value] {
        &self.values
    }

    pub fn value(&self, index: usize) -> Result<&Value, String> {
        self.values.get(index).ok_or_else(|| format!("argument {} is missing", index + 1))
    }

    pub fn has(&self, index: usize) -> bool {
        index < self.values.len()
    }

    /// A text that is known here.
    pub fn text(&self, index: usize) -> Result<String, String> {
        operators::text(self.value(index)?).map_err(|fault| fault.message)
    }

    pub fn number(&self, index: usize) -> Result<f64, String> {
        operators::number(self.value(index)?).map_err(|fault| fault.message)
    }

    pub fn integer(&self, index: usize) -> Result<i64, String> {
        let number = self.number(index)?;
        let whole = number.fract() == 0.0 && number.abs() < 9e15;
        // Within 2^53 the text of a whole number is that number.
        whole
            .then(|| crate::tree::number_text(number).parse().ok())
            .flatten()
            .ok_or_else(|| format!("argument {} must be a whole number", index + 1))
    }

    pub fn count(&self, index: usize) -> Result<usize, String> {
        usize::try_from(self.integer(index)?).map_err(|_| format!("argument {} must not be negative", index + 1))
    }

    pub fn list(&self, index: usize) -> Result<&[Value], String> {
        match &self.value(index)?.kind {
            Kind::List(items) => Ok(items),
            other => Err(format!("argument {} must be a list, and is {}", index + 1, other.what())),
        }
    }

    pub fn map(&self, index: usize) -> Result<&std::collections::BTreeMap<String, crate::tree::Member>, String> {
        match &self.value(index)?.kind {
            Kind::Map(members) => Ok(members),
            other => Err(format!("argument {} must be a map, and is {}", index + 1, other.what())),
        }
    }

    /// A value of the call's place.
    pub fn made(&self, kind: Kind) -> Value {
        Value::new(self.place, kind)
    }

    pub fn spend(&self, cost: usize) -> Result<(), String> {
        self.budget.spend(cost)
    }

    /// A list of texts, paid for.
    pub fn texts(&self, texts: impl IntoIterator<Item = String>) -> Computed {
        let mut items = Vec::new();
        for text in texts {
            self.spend(16 + text.len())?;
            items.push(self.made(Kind::text(text)));
        }
        Ok(Kind::List(items))
    }
}

/// A list's texts.
pub(super) fn strings(values: &[Value]) -> Result<Vec<String>, String> {
    values.iter().map(|value| operators::text(value).map_err(|fault| fault.message)).collect()
}

fn families() -> [&'static [Function]; 9] {
    [
        collections::FUNCTIONS,
        encoding::FUNCTIONS,
        format::FUNCTIONS,
        net::FUNCTIONS,
        numbers::FUNCTIONS,
        sets::FUNCTIONS,
        texts::FUNCTIONS,
        time::FUNCTIONS,
        world::FUNCTIONS,
    ]
}

/// Names of all functions, for documentation and for those who mistype one.
pub(crate) fn names() -> Vec<&'static str> {
    let eager = families().into_iter().flatten().map(|(name, ..)| *name);
    let mut names: Vec<&str> = eager.chain(lazy::NAMES.iter().copied()).collect();
    names.sort_unstable();
    names
}

/// Functions that decide themselves which of their arguments are evaluated, and how.
pub(super) fn lazily(
    evaluator: &Evaluator<'_>,
    name: &str,
    call: &FuncCall,
    place: Place,
    cx: Context<'_>,
) -> Option<Result<Kind, Fault>> {
    lazy::NAMES.contains(&name).then(|| lazy::call(evaluator, name, call, place, cx))
}

/// Calls one by name.
pub(super) fn call(evaluator: &Evaluator<'_>, name: &str, values: Vec<Value>, place: Place) -> Result<Kind, Fault> {
    let found = families().into_iter().flatten().find(|(known, ..)| *known == name);
    let Some((_, fewest, most, compute)) = found else {
        if let Some((_, instead)) = ABSENT.iter().find(|(absent, _)| *absent == name) {
            return Err(Fault::new(place, format!("the function {name}() does not exist here")).fix(*instead));
        }
        let fault = Fault::new(place, format!("there is no function {name}()"));
        return Err(match alike(name, names()) {
            Some(near) => fault.fix(format!("did you mean {near}()?")),
            None => fault,
        });
    };
    if !(*fewest..=*most).contains(&values.len()) {
        let wanted = match (*fewest, *most) {
            (fewest, most) if fewest == most => format!("{fewest}"),
            (fewest, MANY) => format!("at least {fewest}"),
            (fewest, most) => format!("{fewest} to {most}"),
        };
        return Err(Fault::new(place, format!("{name}() takes {wanted} arguments, and got {}", values.len())));
    }
    let cost = values.iter().fold(0usize, |sum, value| sum.saturating_add(value.weight()));
    evaluator.spend(place, cost)?;
    let arguments = Arguments { values, around: evaluator.around, budget: &evaluator.budget, place };
    compute(&arguments).map_err(|why| Fault::new(place, format!("{name}(): {why}")))
}
