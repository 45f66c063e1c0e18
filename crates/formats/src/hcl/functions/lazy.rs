//! Functions that decide themselves what of their arguments is evaluated.

use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, FuncCall};

use crate::hcl::eval::{Context, Evaluator, Frame};
use crate::hcl::operators;
use crate::hcl::types::Type;
use crate::problem::{Fault, Place};
use crate::tree::{Kind, Member, Value};

pub(super) const NAMES: [&str; 4] = ["can", "convert", "templatefile", "try"];

/// Names a template file may be given.
const VARIABLES_MAX: usize = 256;

pub(super) fn call(
    evaluator: &Evaluator<'_>,
    name: &str,
    call: &FuncCall,
    place: Place,
    cx: Context<'_>,
) -> Result<Kind, Fault> {
    let arguments: Vec<&Expression> = call.args.iter().collect();
    match (name, arguments.as_slice()) {
        ("can", [expression]) => Ok(Kind::Bool(evaluator.eval(expression, cx).is_ok())),
        ("try", [_, ..]) => {
            let mut last = None;
            for expression in arguments {
                match evaluator.eval(expression, cx) {
                    Ok(value) => return Ok(value.kind),
                    Err(fault) => last = Some(fault),
                }
            }
            Err(last.unwrap_or_else(|| Fault::new(place, "try() needs an argument")))
        }
        ("convert", [value, kind]) => {
            let value = evaluator.eval(value, cx)?;
            let kind = Type::read(kind, cx.place(kind.span()))?;
            Ok(kind.convert(value)?.kind)
        }
        ("templatefile", [path, variables]) => {
            let path = operators::text(&evaluator.eval(path, cx)?)?;
            let variables = evaluator.eval(variables, cx)?;
            match variables.kind {
                Kind::Map(members) if members.len() <= VARIABLES_MAX => file(evaluator, &path, members, place),
                _ => Err(Fault::new(variables.place, "the second argument is a map of names")),
            }
        }
        ("templatefile" | "convert", _) => Err(Fault::new(place, format!("{name}() takes 2 arguments"))),
        _ => Err(Fault::new(place, format!("{name}() takes an expression"))),
    }
}

fn file(evaluator: &Evaluator<'_>, path: &str, members: BTreeMap<String, Member>, place: Place) -> Result<Kind, Fault> {
    let failed = |why: String| Fault::new(place, format!("templatefile(): {why}"));
    let bytes = evaluator.around.read(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| failed(format!("{path} is not a text")))?;
    if text.len() > crate::hcl::FILE_BYTES_MAX {
        return Err(failed(format!("{path} is larger than 1 MiB")));
    }
    let values: Vec<(String, Value)> = members.into_iter().map(|(name, member)| (name, member.value)).collect();
    render(evaluator, &text, &values, None, place)
}

/// Frames refer to those outside them, so each is made by a call of its own.
fn render(
    evaluator: &Evaluator<'_>,
    text: &str,
    values: &[(String, Value)],
    outer: Option<&Frame<'_>>,
    place: Place,
) -> Result<Kind, Fault> {
    match values.split_first() {
        Some(((name, value), rest)) => {
            let frame = Frame { name, value, outer };
            render(evaluator, text, rest, Some(&frame), place)
        }
        None => evaluator.template_text(text, place, outer),
    }
}
