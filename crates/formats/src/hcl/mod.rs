//! A text into a tree of blocks and values: parsed with hcl-edit, evaluated here.

pub(crate) mod eval;
pub(crate) mod functions;
mod operators;
mod template;
mod types;
pub(crate) mod variables;

use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Block as HclBlock, Body as HclBody, Structure};

use self::eval::{Base, Context, Evaluator, Frame, Origin, Written};
use crate::json::{Json, JsonKind};
use crate::problem::{Fault, Place, Reports};
use crate::tree::{Block, Body, Kind, Member, Value};

/// Bytes of one file. Job files are written by hand or by programs that mean people to read them.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// What one block costs of the evaluator's budget: a file of dynamic blocks may have a quarter million.
const BLOCK_COST: usize = 256;

/// A file that is read but not yet evaluated.
pub(crate) enum Parsed {
    Hcl(HclBody),
    Json(Json),
}

/// Reads a text: JSON if it begins with a brace, else HCL.
pub(crate) fn parse(reports: &Reports, source: usize, text: &str) -> Option<Parsed> {
    if text.len() > FILE_BYTES_MAX {
        reports.push(Fault::new(Place::new(source, 0..0), "this file is larger than 1 MiB"));
        return None;
    }
    if text.trim_start().starts_with('{') {
        return match crate::json::parse(source, text) {
            Ok(json) => Some(Parsed::Json(json)),
            Err(fault) => {
                reports.push(fault);
                None
            }
        };
    }
    match hcl_edit::parser::parse_body(text) {
        Ok(body) => Some(Parsed::Hcl(body)),
        Err(error) => {
            let at = error.location().offset();
            let fault = Fault::new(Place::new(source, at..at + 1), format!("not HCL: {}", error.message()));
            // The rule of HCL people stumble over.
            reports.push(if error.message().contains("expected `=`") {
                fault.fix("a block on one line holds one attribute and no block: give each a line of its own")
            } else {
                fault
            });
            None
        }
    }
}

/// Where the expressions of a text stand.
pub(crate) fn origin(source: usize) -> Origin {
    Origin { base: Base::Source(source) }
}

/// Evaluates what remains of a file when variables and locals are known.
pub(crate) struct Builder<'b, 'a> {
    pub evaluator: &'b Evaluator<'a>,
    pub reports: &'b Reports,
}

impl Builder<'_, '_> {
    /// All of a body but blocks of the kinds left out.
    pub fn hcl(&self, body: &HclBody, cx: Context<'_>, left_out: &[&str]) -> Body {
        let place = cx.place(body.span());
        let mut out = Body { place, ..Body::default() };
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let place = cx.place(attribute.key.span());
                    let name = attribute.key.as_str().to_owned();
                    let value = self.or_broken(self.evaluator.value(Written::Hcl(&attribute.value), cx), place);
                    if out.attributes.insert(name.clone(), Member { place, value }).is_some() {
                        self.reports.push(Fault::new(place, format!("{name:?} is given twice")));
                    }
                }
                Structure::Block(block) if left_out.contains(&block.ident.as_str()) => {}
                Structure::Block(block) => {
                    if let Err(fault) = self.block(block, cx, &mut out.blocks) {
                        self.reports.push(fault);
                    }
                }
            }
        }
        out
    }

    /// JSON's members are all attributes; whoever reads them knows which are blocks.
    pub fn json(&self, json: &Json, left_out: &[&str]) -> Body {
        let JsonKind::Map(members) = &json.kind else {
            self.reports.push(Fault::new(json.place, "a job file in JSON is an object"));
            return Body::default();
        };
        let mut attributes = BTreeMap::new();
        for (name, (place, value)) in members {
            if name == "//" || left_out.contains(&name.as_str()) {
                continue;
            }
            let value = self.or_broken(self.evaluator.value(Written::Json(value), self.evaluator.root()), *place);
            attributes.insert(name.clone(), Member { place: *place, value });
        }
        Body { place: json.place, attributes, blocks: Vec::new(), json: true, nanoseconds: false }
    }

    fn or_broken(&self, value: Result<Value, Fault>, place: Place) -> Value {
        value.unwrap_or_else(|fault| {
            self.reports.push(fault);
            Value::new(place, Kind::Broken)
        })
    }

    fn block(&self, block: &HclBlock, cx: Context<'_>, out: &mut Vec<Block>) -> Result<(), Fault> {
        let start = cx.place(block.ident.span());
        if block.ident.as_str() == "dynamic" {
            return self.dynamic(block, start, cx, out);
        }
        self.evaluator.spend(start, BLOCK_COST)?;
        let labels: Vec<(String, Place)> =
            block.labels.iter().map(|label| (label.as_str().to_owned(), cx.place(label.span()))).collect();
        let end = labels.last().map_or(start.end, |(_, place)| place.end.max(start.end));
        let body = self.hcl(&block.body, cx, &[]);
        out.push(Block { kind: block.ident.as_str().to_owned(), place: Place { end, ..start }, labels, body });
        Ok(())
    }

    /// `dynamic "kind" { for_each = …  iterator = name  labels = […]  content { … } }`
    fn dynamic(&self, block: &HclBlock, place: Place, cx: Context<'_>, out: &mut Vec<Block>) -> Result<(), Fault> {
        let Some(kind) = block.labels.first().filter(|_| block.labels.len() == 1).map(|label| label.as_str()) else {
            return Err(Fault::new(place, "dynamic has one label: the kind of block it makes"));
        };
        let known = ["for_each", "iterator", "labels", "content"];
        for structure in &block.body {
            let (name, span) = match structure {
                Structure::Attribute(attribute) => (attribute.key.as_str(), attribute.key.span()),
                Structure::Block(block) => (block.ident.as_str(), block.ident.span()),
            };
            if !known.contains(&name) {
                let fault = Fault::new(cx.place(span), format!("dynamic has no {name:?}"));
                return Err(fault.fix("what each block is to hold stands in content { … }"));
            }
        }
        let attribute = |name: &str| block.body.get_attribute(name).map(|attribute| &attribute.value);
        let for_each = attribute("for_each").ok_or_else(|| Fault::new(place, "dynamic needs for_each"))?;
        let content = block.body.get_blocks("content").next();
        let content = content.ok_or_else(|| Fault::new(place, "dynamic needs content { … }"))?;
        let iterator = match attribute("iterator") {
            None => kind,
            Some(Expression::Variable(name)) => name.as_str(),
            Some(_) => return Err(Fault::new(place, "iterator is a name, without quotes")),
        };
        let collection = self.evaluator.eval(for_each, cx)?;
        for (key, value) in operators::pairs(collection)? {
            self.evaluator.spend(place, BLOCK_COST.saturating_add(value.weight()))?;
            let member = |value: Value| Member { place, value };
            let each = Kind::Map([("key".to_owned(), member(key)), ("value".to_owned(), member(value))].into());
            let each = Value::new(place, each);
            let frame = Frame { name: iterator, value: &each, outer: cx.scope };
            let cx = cx.with(&frame);
            let labels = match attribute("labels") {
                Some(labels) => self.labels(labels, cx)?,
                None => Vec::new(),
            };
            let body = self.hcl(&content.body, cx, &[]);
            out.push(Block { kind: kind.to_owned(), place, labels, body });
        }
        Ok(())
    }

    fn labels(&self, labels: &Expression, cx: Context<'_>) -> Result<Vec<(String, Place)>, Fault> {
        let labels = self.evaluator.eval(labels, cx)?;
        let place = labels.place;
        match labels.kind {
            Kind::List(items) => items.iter().map(|item| Ok((operators::text(item)?, place))).collect(),
            other => Err(Fault::new(place, format!("labels is a list, and this is {}", other.what()))),
        }
    }
}
