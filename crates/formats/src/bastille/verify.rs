//! What a template has: its hooks and what it includes, checked as far as that goes without values.

use moat_model::jail::TemplateName;
use serde::{Deserialize, Serialize};

use super::arguments::Scope;
use super::lines::lines;
use super::plan::reference;
use super::verbs::{Verb, verb};
use super::words::{is_valid_name, words};
use super::{FILE_BYTES_MAX, Facts, Need, Sources, TemplateUrl};
use crate::problem::{Fault, Place, Problem, Problems, Reports};

/// Templates that are looked at. A template that includes more is not applied either.
const TEMPLATES_MAX: usize = 256;

/// What was found in a template and those it includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Lines that do something, in their order.
    pub hooks: Vec<Hook>,
    /// Templates that were looked at, the asked one first.
    pub templates: Vec<TemplateName>,
    /// Templates that are included and not here.
    pub needs: Vec<Need>,
    /// What whoever applies it should know.
    pub warnings: Vec<Problem>,
}

/// A line of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Whose.
    pub template: TemplateName,
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its verb, in capitals.
    pub verb: String,
    /// What follows, as it was written.
    pub text: String,
}

/// Looks through `template` and all it includes. Nothing is changed, whatever is found.
pub fn verify(template: &TemplateName, sources: &dyn Sources, jail: &Facts) -> Result<Verified, Problems> {
    let mut reports = Reports::default();
    let source = reports.add(template.as_str(), template.as_str());
    let place = Place::new(source, 0..template.as_str().len());
    let found = Verified { hooks: Vec::new(), templates: Vec::new(), needs: Vec::new(), warnings: Vec::new() };
    let mut verifier = Verifier { sources, jail, reports, found };
    let mut waiting = vec![(template.clone(), None, place)];
    // A list of what is to be done, not a tree: templates that include each other are looked at once.
    while let Some((name, url, place)) = waiting.pop() {
        if verifier.found.templates.contains(&name) || verifier.reports.is_full() {
            continue;
        }
        if verifier.found.templates.len() >= TEMPLATES_MAX {
            let fault = Fault::new(place, format!("more than {TEMPLATES_MAX} templates are included"));
            verifier.reports.push(fault.fix("include fewer"));
            break;
        }
        let mut included = verifier.template(&name, url, place);
        included.reverse();
        waiting.append(&mut included);
    }
    let Verifier { reports, mut found, .. } = verifier;
    found.warnings = reports.warnings();
    reports.into_result(Some(found))
}

type Waiting = (TemplateName, Option<TemplateUrl>, Place);

struct Verifier<'a> {
    sources: &'a dyn Sources,
    jail: &'a Facts,
    reports: Reports,
    found: Verified,
}

impl Verifier<'_> {
    fn template(&mut self, name: &TemplateName, url: Option<TemplateUrl>, place: Place) -> Vec<Waiting> {
        let text = match (self.sources.bastillefile(name, url.as_ref()), url) {
            (Ok(Some(text)), _) => text,
            (Ok(None), Some(url)) => {
                let need = Need { template: name.clone(), url };
                if !self.found.needs.contains(&need) {
                    self.found.needs.push(need);
                }
                return Vec::new();
            }
            (Ok(None), None) => {
                let fault = Fault::new(place, format!("there is no template {name}, or it has no Bastillefile"));
                self.reports.push(fault.fix("bootstrap it, or convert it if it has one file for each hook"));
                return Vec::new();
            }
            (Err(message), _) => {
                self.reports.push(Fault::new(place, message));
                return Vec::new();
            }
        };
        self.found.templates.push(name.clone());
        let whole = text.get(..text.floor_char_boundary(FILE_BYTES_MAX)).unwrap_or_default();
        let source = self.reports.add(&format!("{name}/Bastillefile"), whole);
        let before = self.found.hooks.len();
        let included = self.lines(name, whole, source);
        if text.len() > FILE_BYTES_MAX {
            let fault =
                Fault::new(Place::new(source, 0..0), format!("a Bastillefile has at most {FILE_BYTES_MAX} bytes"));
            self.reports.push(fault.fix("copy payload with CP"));
        } else if self.found.hooks.len() == before && self.reports.is_clean() {
            let fault = Fault::new(Place::new(source, 0..0), "the file says nothing");
            self.reports.push(fault.fix("write lines such as PKG git"));
        }
        included
    }

    fn lines(&mut self, name: &TemplateName, text: &str, source: usize) -> Vec<Waiting> {
        let mut scope = Scope::new(self.jail);
        let mut included = Vec::new();
        for line in lines(text, source) {
            let (from, word, rest) = line.bare_word(0);
            let place = line.place(from, from + word.chars().count());
            let Some(verb) = verb(&word, place, &self.reports) else { continue };
            let hook = Hook {
                template: name.clone(),
                line: line.number,
                verb: word.to_ascii_uppercase(),
                text: line
                    .rest(rest)
                    .chars()
                    .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
                    .collect(),
            };
            self.found.hooks.push(hook);
            if verb == Verb::Cmd {
                continue;
            }
            let words = words(&line, rest, &scope, &self.reports);
            match (verb, words.first()) {
                (Verb::Arg { .. }, Some(word)) => {
                    let (name, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
                    if is_valid_name(name) {
                        scope.declare(name, value.to_owned(), word.place, &self.reports);
                    }
                }
                (Verb::Include, Some(word)) => {
                    if let Some((name, url)) = reference(word, &self.reports) {
                        included.push((name, url, word.place));
                    }
                }
                _ => {}
            }
        }
        included
    }
}
