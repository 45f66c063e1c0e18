//! Nomad's files: jobs ([`parse`]) and what nodes are told ([`client`]).
//!
//! A job file is read in three steps: text to a tree of evaluated values (`hcl`), the tree to a [`Job`] with every default
//! filled in (`job`, `group`, `task`), the job against the rules that concern more than one key ([`rules`]). All steps go
//! on after a problem, so that a file's problems are shown together.

mod api;
pub mod client;
mod config;
mod content;
mod group;
mod job;
mod network;
mod place;
mod policy;
pub mod rules;
mod service;
mod task;

use moat_model::job::Job;

use crate::around::Around;
use crate::fields::Fields;
use crate::hcl::variables::{DECLARING, Inputs, Texts, declare};
use crate::hcl::{Builder, Parsed, origin as text_origin, parse as parse_text};
use crate::problem::{Fault, Place, Problems, Reports, SEPARATOR};
use crate::tree::{Block, Body};

/// Stack of the reader: the deepest file takes a quarter of it.
const STACK_BYTES: usize = 32 << 20;

/// Names of the functions expressions may call, in order.
pub fn functions() -> Vec<&'static str> {
    crate::hcl::functions::names()
}

/// Reads a job file: HCL, HCL's JSON, or the JSON of Nomad's API (`{"Job": …}`).
///
/// `origin` is what the file is called in problems. A file that holds nothing but one `group` or one `task` is a job of
/// that name.
pub fn parse(origin: &str, text: &str, inputs: &Inputs, around: &dyn Around) -> Result<Job, Problems> {
    // Reading is recursive, within bounds. They fit this stack, whatever the caller's is; what is not used costs nothing.
    let read = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().stack_size(STACK_BYTES);
        let reader = reader.spawn_scoped(scope, || parse_here(origin, text, inputs, around));
        reader.ok().and_then(|reader| reader.join().ok())
    });
    read.unwrap_or_else(|| {
        let mut reports = Reports::default();
        let source = reports.add(origin, "");
        reports
            .push(Fault::new(Place::new(source, 0..0), "this file could not be read: no thread, or a fault of ours"));
        reports.into_result(None)
    })
}

fn parse_here(origin: &str, text: &str, inputs: &Inputs, around: &dyn Around) -> Result<Job, Problems> {
    let mut reports = Reports::default();
    let source = reports.add(origin, text);
    let texts = Texts::add(&mut reports, inputs);
    let job = read(&reports, source, text, &texts, around);
    reports.into_result(job)
}

fn read(reports: &Reports, source: usize, text: &str, texts: &Texts, around: &dyn Around) -> Option<Job> {
    let parsed = parse_text(reports, source, text)?;
    let body = match &parsed {
        Parsed::Json(json) if api::is_one(json) => api::body(json, reports),
        parsed => {
            let evaluator = declare(parsed, text_origin(source), texts, around, reports);
            let builder = Builder { evaluator: &evaluator, reports };
            match parsed {
                Parsed::Hcl(body) => builder.hcl(body, evaluator.root(), &DECLARING),
                Parsed::Json(json) => builder.json(json, &DECLARING),
            }
        }
    };
    let body = wrapped(body, reports)?;
    let root = Fields::root(&body, "the file", reports);
    let mut parts = root.blocks("job", 1).into_iter();
    let first = parts.next();
    for more in parts {
        reports.push(Fault::new(more.place, "the file: a file holds one job").fix("put it into a file of its own"));
    }
    let job = first.as_ref().and_then(|part| {
        let fields = Fields::of(part, &root, "job", format!("job {:?}", part.label()));
        job::job(fields, part)
    });
    if first.is_none() && reports.is_clean() {
        root.refuse("job", "there is no job in it", "a job file holds job \"NAME\" { … }, or one group or task");
    }
    root.finish(&[]);
    // Rules about a job of which parts could not be read would blame what is not at fault.
    if reports.is_clean() {
        for violation in rules::check(job.as_ref()?) {
            let label = first.as_ref().map_or("", |part| part.label());
            let place = reports.place_of(&standing(violation.mark(label), &violation.path, label, reports));
            let fault = Fault::new(place, violation.message);
            reports.push(match violation.fix {
                Some(fix) => fault.fix(fix),
                None => fault,
            });
        }
    }
    job
}

/// A task outside any group stands in the job itself.
fn standing(mark: String, path: &[String], job: &str, reports: &Reports) -> String {
    match path {
        [kind, group, rest @ ..] if kind == "group" => {
            let group = format!("job{SEPARATOR}{job}{SEPARATOR}group{SEPARATOR}{group}");
            if reports.is_marked(&group) {
                return mark;
            }
            rest.iter().fold(format!("job{SEPARATOR}{job}"), |mark, part| format!("{mark}{SEPARATOR}{part}"))
        }
        _ => mark,
    }
}

/// A file that is a snippet, one group or one task, is a job of its name.
fn wrapped(body: Body, reports: &Reports) -> Option<Body> {
    let has = |body: &Body, kind: &str| {
        body.attributes.contains_key(kind) || body.blocks.iter().any(|block| block.kind == kind)
    };
    if has(&body, "job") {
        return Some(body);
    }
    let kind = ["group", "task"].into_iter().find(|kind| has(&body, kind));
    let Some(kind) = kind else { return Some(body) };
    let root = Fields::root(&body, "the file", reports);
    let parts = root.blocks(kind, 1);
    let [part] = parts.as_slice() else {
        if let Some(second) = parts.get(1) {
            let message = format!("the file: it holds several {kind}s and no job");
            reports.push(Fault::new(second.place, message).fix("put them into job \"NAME\" { … }"));
        }
        return None;
    };
    let (label, place) = (part.label().to_owned(), part.place);
    let outer = Body { place: body.place, json: body.json, ..Body::default() };
    let job = Block { kind: "job".to_owned(), place, labels: vec![(label, place)], body };
    Some(Body { blocks: vec![job], ..outer })
}
