//! Expressions into values, within bounds: a small file must not be able to cost much.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, ForExpr, FuncCall, ObjectKey};

use super::functions;
use super::operators;
use crate::around::Around;
use crate::json::{Json, JsonKind};
use crate::problem::{Fault, Place, alike};
use crate::tree::{Kind, Member, Value};

/// Bytes all values of a file may cost together, copies included: sixty times what a file may have.
const BUDGET: u64 = 64 << 20;
/// Expressions within expressions, through locals. The evaluator is recursive.
const DEPTH_MAX: usize = 160;
/// Nesting of a value that is kept. Dropping and comparing values is recursive, too.
pub(crate) const VALUE_DEPTH_MAX: usize = 64;

/// What evaluating may still cost.
#[derive(Debug)]
pub(crate) struct Budget(Cell<u64>);

impl Budget {
    /// Takes from it.
    pub fn spend(&self, cost: usize) -> Result<(), String> {
        let left = self.0.get().checked_sub(u64::try_from(cost).unwrap_or(u64::MAX));
        match left {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => {
                self.0.set(0);
                Err(format!("evaluating this file takes more than {} MiB", BUDGET >> 20))
            }
        }
    }
}

/// An expression as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written<'a> {
    Hcl(&'a Expression),
    Json(&'a Json),
}

/// A text that expressions were read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub base: Base,
}

/// What the places of its expressions are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    /// Those of a source.
    Source(usize),
    /// All the same: the text stands in another as a whole.
    Within(Place),
}

/// A name in scope.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'s> {
    pub name: &'s str,
    pub value: &'s Value,
    pub outer: Option<&'s Frame<'s>>,
}

/// Where an expression is evaluated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'s> {
    pub origin: Origin,
    pub scope: Option<&'s Frame<'s>>,
}

impl<'s> Context<'s> {
    pub fn place(self, span: Option<std::ops::Range<usize>>) -> Place {
        match self.origin.base {
            Base::Source(source) => Place::new(source, span.unwrap_or_default()),
            Base::Within(place) => place,
        }
    }

    pub fn with<'t>(self, frame: &'t Frame<'t>) -> Context<'t>
    where
        's: 't,
    {
        Context { origin: self.origin, scope: Some(frame) }
    }

    fn find(self, name: &str) -> Option<&'s Value> {
        let mut frame = self.scope;
        while let Some(here) = frame {
            if here.name == name {
                return Some(here.value);
            }
            frame = here.outer;
        }
        None
    }
}

/// Evaluates the expressions of one file.
pub(crate) struct Evaluator<'a> {
    pub around: &'a dyn Around,
    pub origin: Origin,
    pub budget: Budget,
    pub variables: BTreeMap<String, Value>,
    pub locals: BTreeMap<String, Written<'a>>,
    known: RefCell<BTreeMap<String, Value>>,
    under_way: RefCell<Vec<String>>,
    depth: Cell<usize>,
}

struct Level<'e>(&'e Cell<usize>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl<'a> Evaluator<'a> {
    pub fn new(around: &'a dyn Around, origin: Origin) -> Self {
        Self {
            around,
            origin,
            budget: Budget(Cell::new(BUDGET)),
            variables: BTreeMap::new(),
            locals: BTreeMap::new(),
            known: RefCell::default(),
            under_way: RefCell::default(),
            depth: Cell::new(0),
        }
    }

    /// Where nothing but variables and locals is known.
    pub fn root(&self) -> Context<'static> {
        Context { origin: self.origin, scope: None }
    }

    /// Evaluates what was written at the top.
    pub fn value(&self, written: Written<'_>, cx: Context<'_>) -> Result<Value, Fault> {
        let value = match written {
            Written::Hcl(expression) => self.eval(expression, cx)?,
            Written::Json(json) => self.json(json, cx.scope)?,
        };
        if value.is_within(VALUE_DEPTH_MAX) {
            Ok(value)
        } else {
            Err(Fault::new(value.place, format!("this value is nested deeper than {VALUE_DEPTH_MAX}")))
        }
    }

    fn enter(&self, place: Place) -> Result<Level<'_>, Fault> {
        self.spend(place, 16)?;
        self.depth.set(self.depth.get() + 1);
        let level = Level(&self.depth);
        if self.depth.get() > DEPTH_MAX {
            return Err(Fault::new(place, format!("expressions are nested deeper than {DEPTH_MAX}")));
        }
        Ok(level)
    }

    pub fn spend(&self, place: Place, cost: usize) -> Result<(), Fault> {
        self.budget.spend(cost).map_err(|message| Fault::new(place, message))
    }

    /// A copy is paid for.
    pub fn copy(&self, place: Place, value: &Value) -> Result<Kind, Fault> {
        self.spend(place, value.weight())?;
        Ok(value.kind.clone())
    }

    pub fn eval(&self, expression: &Expression, cx: Context<'_>) -> Result<Value, Fault> {
        let place = cx.place(expression.span());
        let _level = self.enter(place)?;
        let kind = match expression {
            Expression::Null(_) => Kind::Null,
            Expression::Bool(value) => Kind::Bool(*value.value()),
            Expression::Number(value) => Kind::Number(value.value().as_f64().unwrap_or_default()),
            Expression::String(value) => {
                self.spend(place, value.len())?;
                Kind::text(value.value().as_str())
            }
            Expression::Array(items) => {
                Kind::List(items.iter().map(|item| self.eval(item, cx)).collect::<Result<_, _>>()?)
            }
            Expression::Object(object) => {
                let mut members = BTreeMap::new();
                for (key, value) in object {
                    let (key_place, key) = self.key(key, cx)?;
                    let value = self.eval(value.expr(), cx)?;
                    if members.insert(key.clone(), Member { place: key_place, value }).is_some() {
                        return Err(Fault::new(key_place, format!("{key:?} is given twice")));
                    }
                }
                Kind::Map(members)
            }
            Expression::StringTemplate(template) => self.template(template, cx, false)?,
            Expression::HeredocTemplate(heredoc) => self.template(&heredoc.template, cx, true)?,
            Expression::Parenthesis(inner) => self.eval(inner.inner(), cx)?.kind,
            Expression::Variable(name) => self.traverse(name.as_str(), &[], place, cx)?,
            Expression::Traversal(traversal) => self.traversal(traversal, place, cx)?,
            Expression::Conditional(conditional) => {
                let condition = self.eval(&conditional.cond_expr, cx)?;
                let chosen =
                    if operators::truth(&condition)? { &conditional.true_expr } else { &conditional.false_expr };
                self.eval(chosen, cx)?.kind
            }
            Expression::FuncCall(call) => self.call(call, place, cx)?,
            Expression::UnaryOp(unary) => operators::unary(*unary.operator.value(), &self.eval(&unary.expr, cx)?)?,
            Expression::BinaryOp(binary) => self.binary(binary, place, cx)?,
            Expression::ForExpr(expression) => self.for_expression(expression, place, cx)?,
        };
        Ok(Value { place, kind })
    }

    fn binary(&self, binary: &hcl_edit::expr::BinaryOp, place: Place, cx: Context<'_>) -> Result<Kind, Fault> {
        let left = self.eval(&binary.lhs_expr, cx)?;
        let operator = *binary.operator.value();
        if let Some(decided) = operators::short(operator, &left)? {
            return Ok(decided);
        }
        let right = self.eval(&binary.rhs_expr, cx)?;
        self.spend(place, left.weight().min(right.weight()))?;
        operators::binary(operator, &left, &right, place)
    }

    fn key(&self, key: &ObjectKey, cx: Context<'_>) -> Result<(Place, String), Fault> {
        match key {
            ObjectKey::Ident(name) => Ok((cx.place(name.span()), name.as_str().to_owned())),
            ObjectKey::Expression(expression) => {
                let value = self.eval(expression, cx)?;
                Ok((value.place, operators::text(&value)?))
            }
        }
    }

    fn for_expression(&self, expression: &ForExpr, place: Place, cx: Context<'_>) -> Result<Kind, Fault> {
        let collection = self.eval(&expression.intro.collection_expr, cx)?;
        let mut items = Vec::new();
        let mut members: BTreeMap<String, Member> = BTreeMap::new();
        for (key, value) in operators::pairs(collection)? {
            let inner = Frame { name: expression.intro.value_var.as_str(), value: &value, outer: cx.scope };
            let name = expression.intro.key_var.as_ref().map(|name| name.as_str());
            let keyed = name.map(|name| Frame { name, value: &key, outer: Some(&inner) });
            let cx = cx.with(keyed.as_ref().unwrap_or(&inner));
            if let Some(condition) = &expression.cond
                && !operators::truth(&self.eval(&condition.expr, cx)?)?
            {
                continue;
            }
            let made = self.eval(&expression.value_expr, cx)?;
            let Some(key) = &expression.key_expr else {
                items.push(made);
                continue;
            };
            let key = self.eval(key, cx)?;
            let text = operators::text(&key)?;
            match members.get_mut(&text) {
                Some(Member { value: Value { kind: Kind::List(group), .. }, .. }) if expression.grouping => {
                    group.push(made)
                }
                Some(_) => {
                    let fault = Fault::new(key.place, format!("{text:?} comes more than once"));
                    return Err(fault.fix("end the value with ... to have a list of them"));
                }
                None if expression.grouping => {
                    let value = Value::new(place, Kind::List(vec![made]));
                    members.insert(text, Member { place: key.place, value });
                }
                None => {
                    members.insert(text, Member { place: key.place, value: made });
                }
            }
        }
        Ok(if expression.key_expr.is_some() { Kind::Map(members) } else { Kind::List(items) })
    }

    fn call(&self, call: &FuncCall, place: Place, cx: Context<'_>) -> Result<Kind, Fault> {
        let name = call.name.name.as_str();
        if call.name.is_namespaced() {
            return Err(Fault::new(place, "functions of plugins do not exist here"));
        }
        if let Some(result) = functions::lazily(self, name, call, place, cx) {
            return result;
        }
        let mut arguments = Vec::new();
        for argument in call.args.iter() {
            arguments.push(self.eval(argument, cx)?);
        }
        if call.args.expand_final() {
            match arguments.pop() {
                Some(Value { kind: Kind::List(items), .. }) => arguments.extend(items),
                Some(other) => {
                    let what = other.kind.what();
                    return Err(Fault::new(other.place, format!("... is for a list, and this is {what}")));
                }
                None => {}
            }
        }
        functions::call(self, name, arguments, place)
    }

    /// A name of this file's, with the first of what follows it if that belongs to the name.
    pub fn named(&self, name: &str, member: Option<&str>, place: Place, cx: Context<'_>) -> Result<Value, Fault> {
        if let Some(value) = cx.find(name) {
            return Ok(Value::new(place, self.copy(place, value)?));
        }
        match (name, member) {
            ("var", Some(member)) => match self.variables.get(member) {
                Some(value) => Ok(Value::new(place, self.copy(place, value)?)),
                None => {
                    let fault = Fault::new(place, format!("there is no variable {member:?}"));
                    Err(match alike(member, self.variables.keys().map(String::as_str)) {
                        Some(near) => fault.fix(format!("did you mean var.{near}?")),
                        None => fault.fix(format!("declare it: variable \"{member}\" {{}}")),
                    })
                }
            },
            ("local", Some(member)) => self.local(member, place),
            ("var" | "local", None) => Err(Fault::new(place, format!("{name} alone is nothing: write {name}.NAME"))),
            _ => Err(self.unknown(name, place)),
        }
    }

    fn unknown(&self, name: &str, place: Place) -> Fault {
        let fault = Fault::new(place, format!("there is no {name:?} here"));
        if self.variables.contains_key(name) {
            return fault.fix(format!("did you mean var.{name}?"));
        }
        if self.locals.contains_key(name) {
            return fault.fix(format!("did you mean local.{name}?"));
        }
        fault.fix(format!(
            "a node fills in NOMAD_…, attr.…, meta.…, node.… and env[\"…\"]; a text is written in quotes; for ${{{name}}} in a text write $${{{name}}}"
        ))
    }

    fn local(&self, name: &str, place: Place) -> Result<Value, Fault> {
        if let Some(value) = self.known.borrow().get(name) {
            return Ok(Value::new(place, self.copy(place, value)?));
        }
        let Some(written) = self.locals.get(name).copied() else {
            let fault = Fault::new(place, format!("there is no local {name:?}"));
            return Err(match alike(name, self.locals.keys().map(String::as_str)) {
                Some(near) => fault.fix(format!("did you mean local.{near}?")),
                None => fault.fix(format!("define it: locals {{ {name} = … }}")),
            });
        };
        if self.under_way.borrow().iter().any(|other| other == name) {
            return Err(Fault::new(place, format!("local.{name} is defined by itself")));
        }
        self.under_way.borrow_mut().push(name.to_owned());
        let value = self.value(written, self.root());
        self.under_way.borrow_mut().pop();
        let value = value?;
        let copy = Value::new(place, self.copy(place, &value)?);
        self.known.borrow_mut().insert(name.to_owned(), value);
        Ok(copy)
    }

    /// JSON's texts are templates.
    fn json(&self, json: &Json, scope: Option<&Frame<'_>>) -> Result<Value, Fault> {
        let place = json.place;
        let _level = self.enter(place)?;
        let kind = match &json.kind {
            JsonKind::Null => Kind::Null,
            JsonKind::Bool(value) => Kind::Bool(*value),
            JsonKind::Number(value) => Kind::Number(*value),
            JsonKind::Text(text) => self.template_text(text, place, scope)?,
            JsonKind::List(items) => {
                Kind::List(items.iter().map(|item| self.json(item, scope)).collect::<Result<_, _>>()?)
            }
            JsonKind::Map(members) => {
                let member = |(key, (place, value)): (&String, &(Place, Json))| {
                    Ok((key.clone(), Member { place: *place, value: self.json(value, scope)? }))
                };
                Kind::Map(members.iter().map(member).collect::<Result<_, Fault>>()?)
            }
        };
        Ok(Value { place, kind })
    }

    /// A text that is a template as a whole.
    pub fn template_text(&self, text: &str, place: Place, scope: Option<&Frame<'_>>) -> Result<Kind, Fault> {
        self.spend(place, text.len())?;
        if !text.contains("${") && !text.contains("%{") {
            return Ok(Kind::text(text));
        }
        let template = hcl_edit::parser::parse_template(text)
            .map_err(|e| Fault::new(place, format!("this is not a template: {}", e.message())))?;
        let origin = Origin { base: Base::Within(place) };
        self.template(&template, Context { origin, scope }, false)
    }
}
