//! `variable` and `locals`: what they declare, and where their values come from.

use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Block, Body, Structure};

use super::eval::{Context, Evaluator, Origin, Written};
use super::operators;
use super::types::Type;
use super::{Parsed, origin};
use crate::around::Around;
use crate::json::{Json, JsonKind};
use crate::problem::{Fault, Place, Reports, alike};
use crate::tree::{Kind, Value};

/// Values for a file's variables. The last that gives one wins: default, environment, files in their order, then `vars`.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `NOMAD_VAR_name` and `MOAT_VAR_name`, by name. Names no file declares are somebody else's.
    pub environment: BTreeMap<String, String>,
    /// `-var-file`: what it is called, and its text.
    pub files: Vec<(String, String)>,
    /// `-var name=value`.
    pub vars: Vec<(String, String)>,
}

/// Kinds of blocks that declare something.
pub(crate) const DECLARING: [&str; 2] = ["variable", "locals"];

struct Declared<'a> {
    place: Place,
    kind: Option<Type>,
    default: Option<Value>,
    checks: Vec<(&'a Expression, Option<&'a Expression>)>,
}

/// Texts of inputs, each with the number of its source.
pub(crate) struct Texts {
    environment: Vec<(String, usize, String)>,
    files: Vec<(usize, String)>,
    vars: Vec<(String, usize, String)>,
}

impl Texts {
    /// Takes them up as sources, so that problems in them are shown.
    pub fn add(reports: &mut Reports, inputs: &Inputs) -> Self {
        let mut one = |kind: &str, (name, value): (&String, &String)| {
            (name.clone(), reports.add(&format!("{kind} {name}"), value), value.clone())
        };
        let environment = inputs.environment.iter().map(|given| one("variable of the environment", given)).collect();
        let vars = inputs.vars.iter().map(|(name, value)| one("-var", (name, value))).collect();
        let files = inputs.files.iter().map(|(name, text)| (reports.add(name, text), text.clone())).collect();
        Self { environment, files, vars }
    }
}

/// Makes an evaluator that knows what a file declares.
pub(crate) fn declare<'a>(
    parsed: &'a Parsed,
    at: Origin,
    texts: &Texts,
    around: &'a dyn Around,
    reports: &Reports,
) -> Evaluator<'a> {
    let mut evaluator = Evaluator::new(around, at);
    let mut declared = BTreeMap::new();
    match parsed {
        Parsed::Hcl(body) => hcl(body, &mut evaluator, &mut declared, reports),
        Parsed::Json(json) => json_declared(json, &mut evaluator, &mut declared, reports),
    }
    let given = given(&declared, texts, around, reports);
    for (name, declared) in &declared {
        let value = match given.get(name).or(declared.default.as_ref()) {
            Some(value) => value.clone(),
            None => {
                let fault = Fault::new(declared.place, format!("the variable {name:?} has no value"));
                reports.push(fault.fix(format!("give one: -var {name}=VALUE, or a default in the file")));
                Value::new(declared.place, Kind::Broken)
            }
        };
        let value = match &declared.kind {
            Some(kind) if !matches!(value.kind, Kind::Broken) => kind.convert(value).unwrap_or_else(|fault| {
                let message = format!("the variable {name:?}: {}", fault.message);
                reports.push(Fault { message, ..fault });
                Value::new(declared.place, Kind::Broken)
            }),
            _ => value,
        };
        evaluator.variables.insert(name.clone(), value);
    }
    for (name, declared) in &declared {
        for (condition, message) in &declared.checks {
            if let Err(fault) = check(&evaluator, name, condition, *message) {
                reports.push(fault);
            }
        }
    }
    evaluator
}

fn check(
    evaluator: &Evaluator<'_>,
    name: &str,
    condition: &Expression,
    message: Option<&Expression>,
) -> Result<(), Fault> {
    let cx = evaluator.root();
    if matches!(evaluator.variables.get(name).map(|value| &value.kind), Some(Kind::Broken)) {
        return Ok(());
    }
    let holds = evaluator.eval(condition, cx)?;
    if operators::truth(&holds)? {
        return Ok(());
    }
    let message = match message {
        Some(message) => operators::text(&evaluator.eval(message, cx)?)?,
        None => "its condition does not hold".to_owned(),
    };
    Err(Fault::new(holds.place, format!("the variable {name:?}: {message}")))
}

fn hcl<'a>(
    body: &'a Body,
    evaluator: &mut Evaluator<'a>,
    declared: &mut BTreeMap<String, Declared<'a>>,
    reports: &Reports,
) {
    for block in body.get_blocks("locals") {
        for attribute in block.body.attributes() {
            evaluator.locals.insert(attribute.key.as_str().to_owned(), Written::Hcl(&attribute.value));
        }
    }
    for block in body.get_blocks("variable") {
        let place = evaluator.root().place(block.ident.span());
        let Some(name) = block.labels.first().filter(|_| block.labels.len() == 1) else {
            reports.push(Fault::new(place, "variable has one label: its name"));
            continue;
        };
        let place = evaluator.root().place(name.span());
        match variable(block, place, evaluator) {
            Ok(variable) => {
                if declared.insert(name.as_str().to_owned(), variable).is_some() {
                    reports.push(Fault::new(place, format!("the variable {:?} is declared twice", name.as_str())));
                }
            }
            Err(fault) => reports.push(fault),
        }
    }
}

fn variable<'a>(block: &'a Block, place: Place, evaluator: &Evaluator<'_>) -> Result<Declared<'a>, Fault> {
    let cx = evaluator.root();
    let mut out = Declared { place, kind: None, default: None, checks: Vec::new() };
    for structure in &block.body {
        match structure {
            Structure::Attribute(attribute) => match attribute.key.as_str() {
                "type" => out.kind = Some(Type::read(&attribute.value, cx.place(attribute.value.span()))?),
                "default" => out.default = Some(evaluator.value(Written::Hcl(&attribute.value), cx)?),
                "description" | "sensitive" => {}
                other => {
                    let fault = Fault::new(cx.place(attribute.key.span()), format!("variable has no {other:?}"));
                    return Err(fault.fix("there are type, default, description and validation"));
                }
            },
            Structure::Block(inner) if inner.ident.as_str() == "validation" => {
                let part = |name: &str| inner.body.get_attribute(name).map(|attribute| &attribute.value);
                let here = cx.place(inner.ident.span());
                let condition = part("condition").ok_or_else(|| Fault::new(here, "validation needs a condition"))?;
                out.checks.push((condition, part("error_message")));
            }
            Structure::Block(inner) => {
                let fault =
                    Fault::new(cx.place(inner.ident.span()), format!("variable has no {:?}", inner.ident.as_str()));
                return Err(fault.fix("there are type, default, description and validation"));
            }
        }
    }
    out.kind = out.kind.or_else(|| out.default.as_ref().filter(|value| !value.is_null()).map(Type::of));
    Ok(out)
}

fn json_declared<'a>(
    json: &'a Json,
    evaluator: &mut Evaluator<'a>,
    declared: &mut BTreeMap<String, Declared<'a>>,
    reports: &Reports,
) {
    let JsonKind::Map(members) = &json.kind else { return };
    let inside = |name: &str| match members.get(name) {
        Some((_, Json { kind: JsonKind::Map(inner), .. })) => Some(inner),
        Some((place, _)) => {
            reports.push(Fault::new(*place, format!("{name:?} is an object")));
            None
        }
        None => None,
    };
    for (name, (_, value)) in inside("locals").into_iter().flatten() {
        evaluator.locals.insert(name.clone(), Written::Json(value));
    }
    for (name, (place, value)) in inside("variable").into_iter().flatten() {
        match json_variable(value, *place, evaluator) {
            Ok(variable) => {
                declared.insert(name.clone(), variable);
            }
            Err(fault) => reports.push(fault),
        }
    }
}

fn json_variable<'a>(json: &Json, place: Place, evaluator: &Evaluator<'_>) -> Result<Declared<'a>, Fault> {
    let mut out = Declared { place, kind: None, default: None, checks: Vec::new() };
    let JsonKind::Map(members) = &json.kind else {
        return Err(Fault::new(json.place, "a variable is an object with type and default"));
    };
    for (name, (place, value)) in members {
        match (name.as_str(), &value.kind) {
            ("type", JsonKind::Text(text)) => {
                let expression = hcl_edit::parser::parse_expr(text);
                let expression = expression.map_err(|_| Fault::new(value.place, "this is not a type"))?;
                out.kind = Some(Type::read(&expression, value.place)?);
            }
            ("default", _) => out.default = Some(evaluator.value(Written::Json(value), evaluator.root())?),
            ("description" | "//", _) => {}
            ("validation", _) => return Err(Fault::new(*place, "validation is written in HCL only")),
            _ => return Err(Fault::new(*place, format!("variable has no {name:?}"))),
        }
    }
    out.kind = out.kind.or_else(|| out.default.as_ref().filter(|value| !value.is_null()).map(Type::of));
    Ok(out)
}

/// What inputs give to declared names, the strongest last.
fn given(
    declared: &BTreeMap<String, Declared<'_>>,
    texts: &Texts,
    around: &dyn Around,
    reports: &Reports,
) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let undeclared = |name: &str, place: Place| {
        let fault = Fault::new(place, format!("the file declares no variable {name:?}"));
        reports.push(match alike(name, declared.keys().map(String::as_str)) {
            Some(near) => fault.fix(format!("did you mean {near:?}?")),
            None => fault.fix(format!("declare it: variable \"{name}\" {{}}")),
        });
    };
    let one =
        |out: &mut BTreeMap<String, Value>, (name, source, text): &(String, usize, String), declared: &Declared<'_>| {
            match from_text(text, *source, declared, around) {
                Ok(value) => {
                    out.insert(name.clone(), value);
                }
                Err(fault) => {
                    out.insert(name.clone(), Value::new(fault.place, Kind::Broken));
                    reports.push(fault);
                }
            }
        };
    for given in &texts.environment {
        if let Some(declared) = declared.get(&given.0) {
            one(&mut out, given, declared);
        }
    }
    for (source, text) in &texts.files {
        for (name, place, value) in file(*source, text, around, reports) {
            if declared.contains_key(&name) {
                out.insert(name, value);
            } else {
                undeclared(&name, place);
            }
        }
    }
    for given in &texts.vars {
        match declared.get(&given.0) {
            Some(declared) => one(&mut out, given, declared),
            None => undeclared(&given.0, Place::new(given.1, 0..given.2.len())),
        }
    }
    out
}

/// A value from a command line: itself, if that is what is declared, else an expression.
fn from_text(text: &str, source: usize, declared: &Declared<'_>, around: &dyn Around) -> Result<Value, Fault> {
    let place = Place::new(source, 0..text.len());
    let composed = matches!(declared.default.as_ref().map(|value| &value.kind), Some(Kind::List(_) | Kind::Map(_)));
    if declared.kind.as_ref().map_or(!composed, |kind| kind.is_plain() || (matches!(kind, Type::Any) && !composed)) {
        return Ok(Value::new(place, Kind::text(text)));
    }
    if text.len() > super::FILE_BYTES_MAX {
        return Err(Fault::new(place, "this value is larger than 1 MiB"));
    }
    let expression = hcl_edit::parser::parse_expr(text).map_err(|error| {
        let at = error.location().offset();
        Fault::new(Place::new(source, at..at + 1), format!("not an expression of HCL: {}", error.message()))
    })?;
    let evaluator = Evaluator::new(around, origin(source));
    evaluator.value(Written::Hcl(&expression), evaluator.root())
}

/// A file of values: attributes only.
fn file(source: usize, text: &str, around: &dyn Around, reports: &Reports) -> Vec<(String, Place, Value)> {
    let Some(parsed) = super::parse(reports, source, text) else { return Vec::new() };
    let evaluator = Evaluator::new(around, origin(source));
    let cx: Context<'_> = evaluator.root();
    let written: Vec<(&str, Place, Written<'_>)> = match &parsed {
        Parsed::Hcl(body) => {
            for block in body.blocks() {
                let place = cx.place(block.ident.span());
                reports.push(Fault::new(place, "a file of variables has no blocks: NAME = VALUE in each line"));
            }
            let one = |attribute: &hcl_edit::structure::Attribute| cx.place(attribute.key.span());
            body.attributes().map(|a| (a.key.as_str(), one(a), Written::Hcl(&a.value))).collect()
        }
        Parsed::Json(Json { kind: JsonKind::Map(members), .. }) => {
            members.iter().map(|(name, (place, value))| (name.as_str(), *place, Written::Json(value))).collect()
        }
        Parsed::Json(json) => {
            reports.push(Fault::new(json.place, "a file of variables in JSON is an object"));
            Vec::new()
        }
    };
    let mut out = Vec::new();
    for (name, place, written) in written {
        match evaluator.value(written, cx) {
            Ok(value) => out.push((name.to_owned(), place, value)),
            Err(fault) => reports.push(fault),
        }
    }
    out
}
