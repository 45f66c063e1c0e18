//! Templates and what leads into values: `"…${…}…"`, heredocs, `a.b[0].*.c`.

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, Traversal, TraversalOperator};
use hcl_edit::repr::Decorated;
use hcl_edit::template::{Directive, Element, Strip, Template};

use super::eval::{Context, Evaluator, Frame};
use super::operators;
use crate::problem::{Fault, Place};
use crate::tree::{Kind, Text, Value};

/// What a template is made into.
#[derive(Default)]
struct Written {
    text: String,
    deferred: bool,
}

fn before(strip: Strip) -> bool {
    matches!(strip, Strip::Start | Strip::Both)
}

fn after(strip: Strip) -> bool {
    matches!(strip, Strip::End | Strip::Both)
}

/// Whether an element takes the white space before it away, and that behind it.
fn strips(element: &Element) -> (bool, bool) {
    match element {
        Element::Literal(_) => (false, false),
        Element::Interpolation(interpolation) => (before(interpolation.strip), after(interpolation.strip)),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(directive) => (before(directive.if_expr.strip), after(directive.endif_expr.strip)),
            Directive::For(directive) => (before(directive.for_expr.strip), after(directive.endfor_expr.strip)),
        },
    }
}

impl Evaluator<'_> {
    /// A template with nothing but `${…}` is that value; a heredoc always is a text.
    pub fn template(&self, template: &Template, cx: Context<'_>, heredoc: bool) -> Result<Kind, Fault> {
        if !heredoc
            && template.len() == 1
            && let Some(Element::Interpolation(only)) = template.get(0)
        {
            return Ok(self.eval(&only.expr, cx)?.kind);
        }
        let mut written = Written::default();
        self.write(template, cx, (false, false), &mut written)?;
        Ok(Kind::Text(Text { text: written.text, deferred: written.deferred }))
    }

    fn write(&self, template: &Template, cx: Context<'_>, edges: (bool, bool), out: &mut Written) -> Result<(), Fault> {
        for (index, element) in template.iter().enumerate() {
            match element {
                Element::Literal(literal) => {
                    let previous = index.checked_sub(1).and_then(|index| template.get(index));
                    let mut text = literal.as_str();
                    if previous.map_or(edges.0, |element| strips(element).1) {
                        text = text.trim_start();
                    }
                    if template.get(index + 1).map_or(edges.1, |element| strips(element).0) {
                        text = text.trim_end();
                    }
                    self.spend(cx.place(literal.span()), text.len())?;
                    out.text.push_str(text);
                }
                Element::Interpolation(interpolation) => {
                    let value = self.eval(&interpolation.expr, cx)?;
                    let text = operators::text_of(&value)?;
                    self.spend(value.place, text.text.len())?;
                    out.deferred |= text.deferred;
                    out.text.push_str(&text.text);
                }
                Element::Directive(directive) => self.directive(directive, cx, out)?,
            }
        }
        Ok(())
    }

    fn directive(&self, directive: &Directive, cx: Context<'_>, out: &mut Written) -> Result<(), Fault> {
        match directive {
            Directive::If(directive) => {
                let first = &directive.if_expr;
                let last = directive.else_expr.as_ref().map_or(directive.endif_expr.strip, |other| other.strip);
                if operators::truth(&self.eval(&first.cond_expr, cx)?)? {
                    return self.write(&first.template, cx, (after(first.strip), before(last)), out);
                }
                match &directive.else_expr {
                    Some(other) => {
                        let edges = (after(other.strip), before(directive.endif_expr.strip));
                        self.write(&other.template, cx, edges, out)
                    }
                    None => Ok(()),
                }
            }
            Directive::For(directive) => {
                let each = &directive.for_expr;
                let edges = (after(each.strip), before(directive.endfor_expr.strip));
                let collection = self.eval(&each.collection_expr, cx)?;
                let place = collection.place;
                for (key, value) in operators::pairs(collection)? {
                    self.spend(place, 16)?;
                    let inner = Frame { name: each.value_var.as_str(), value: &value, outer: cx.scope };
                    let name = each.key_var.as_ref().map(|name| name.as_str());
                    let keyed = name.map(|name| Frame { name, value: &key, outer: Some(&inner) });
                    self.write(&each.template, cx.with(keyed.as_ref().unwrap_or(&inner)), edges, out)?;
                }
                Ok(())
            }
        }
    }

    pub fn traversal(&self, traversal: &Traversal, place: Place, cx: Context<'_>) -> Result<Kind, Fault> {
        match &traversal.expr {
            Expression::Variable(name) => self.traverse(name.as_str(), &traversal.operators, place, cx),
            other => {
                let value = self.eval(other, cx)?;
                Ok(self.steps(value, &traversal.operators, cx)?.kind)
            }
        }
    }

    /// From a name on. What only a node knows stays as it was written.
    pub fn traverse(
        &self,
        name: &str,
        steps: &[Decorated<TraversalOperator>],
        place: Place,
        cx: Context<'_>,
    ) -> Result<Kind, Fault> {
        if is_of_the_node(name) && !cx.knows(name) {
            return left_alone(name, steps, place);
        }
        let member = match steps.first().map(|step| step.value()) {
            Some(TraversalOperator::GetAttr(member)) => Some(member.as_str()),
            _ => None,
        };
        let value = self.named(name, member, place, cx)?;
        // The first step belongs to names such as var.x, and to no other.
        let taken = usize::from(!cx.knows(name) && member.is_some());
        Ok(self.steps(value, steps.get(taken..).unwrap_or_default(), cx)?.kind)
    }

    fn steps(&self, mut value: Value, steps: &[Decorated<TraversalOperator>], cx: Context<'_>) -> Result<Value, Fault> {
        for (index, step) in steps.iter().enumerate() {
            let rest = steps.get(index + 1..).unwrap_or_default();
            let place = value.place;
            value = match step.value() {
                TraversalOperator::GetAttr(name) => operators::member(value, name.as_str())?,
                TraversalOperator::LegacyIndex(index) => {
                    operators::item(value, &Value::new(place, Kind::Number(f64::from(to_u32(*index.value())))))?
                }
                TraversalOperator::Index(expression) => operators::item(value, &self.eval(expression, cx)?)?,
                TraversalOperator::FullSplat(_) => return self.splat(value, rest, cx),
                TraversalOperator::AttrSplat(_) => {
                    let own = |step: &&Decorated<TraversalOperator>| {
                        matches!(step.value(), TraversalOperator::GetAttr(_) | TraversalOperator::LegacyIndex(_))
                    };
                    let count = rest.iter().take_while(own).count();
                    let (own, rest) = rest.split_at_checked(count).unwrap_or((rest, &[]));
                    let value = self.splat(value, own, cx)?;
                    return self.steps(value, rest, cx);
                }
            };
        }
        Ok(value)
    }

    fn splat(&self, value: Value, steps: &[Decorated<TraversalOperator>], cx: Context<'_>) -> Result<Value, Fault> {
        let place = value.place;
        let items = match value.kind {
            Kind::Null => Vec::new(),
            Kind::List(items) => items,
            other => vec![Value::new(place, other)],
        };
        self.spend(place, items.len().saturating_mul(16))?;
        let made = items.into_iter().map(|item| self.steps(item, steps, cx)).collect::<Result<_, _>>()?;
        Ok(Value::new(place, Kind::List(made)))
    }
}

impl Context<'_> {
    fn knows(self, name: &str) -> bool {
        let mut frame = self.scope;
        while let Some(here) = frame {
            if here.name == name {
                return true;
            }
            frame = here.outer;
        }
        false
    }
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Names a node fills in.
fn is_of_the_node(name: &str) -> bool {
    name.starts_with("NOMAD_") || matches!(name, "attr" | "meta" | "node" | "env")
}

/// `${attr.kernel.name}` in one spelling, whatever white space there was.
fn left_alone(name: &str, steps: &[Decorated<TraversalOperator>], place: Place) -> Result<Kind, Fault> {
    let mut text = format!("${{{name}");
    for step in steps {
        match step.value() {
            TraversalOperator::GetAttr(member) => {
                text.push('.');
                text.push_str(member.as_str());
            }
            TraversalOperator::LegacyIndex(index) => text.push_str(&format!(".{}", index.value())),
            TraversalOperator::Index(Expression::String(key)) if !key.contains(['"', '}', '\\']) => {
                text.push_str(&format!("[\"{}\"]", key.as_str()));
            }
            _ => {
                let fault = Fault::new(place, format!("{name} is filled in by the node, which knows only plain names"));
                return Err(fault.fix("write a name such as attr.kernel.name or env[\"HOME\"]"));
            }
        }
    }
    text.push('}');
    Ok(Kind::deferred(text))
}
