//! Walks through a template and those it includes.

use moat_model::jail::TemplateName;
use moat_model::jail::steps::{Action, Step};

use super::arguments::{Bindings, Scope};
use super::lines::{Line, lines};
use super::script::script;
use super::verbs::{Context, Verb, actions, verb};
use super::words::{Word, is_valid_name, named, words};
use super::{Args, Argument, FILE_BYTES_MAX, Facts, Need, Plan, Planned, Sources, TemplateUrl, ValueFrom};
use crate::problem::{Fault, Place, Problems, Reports};

/// How deep templates include each other. Deeper ones are a mistake, or made to hurt.
const DEPTH_MAX: usize = 16;
/// Templates of a plan: without it, sixteen that include each other twice were tens of thousands.
const TEMPLATES_MAX: usize = 256;
/// Steps of a plan.
const STEPS_MAX: usize = 10_000;

/// What `template` does to `jail` with these values: every line checked, nothing applied.
pub fn plan(template: &TemplateName, sources: &dyn Sources, args: &Args, jail: &Facts) -> Result<Planned, Problems> {
    let mut planner = Planner::new(sources, jail);
    let mut bindings = Bindings::default();
    for text in &args.given {
        let source = planner.reports.add("--arg", text);
        bindings.give(text, Place::new(source, 0..text.len()), &planner.reports);
    }
    if let Some(file) = &args.file {
        bindings.read(file, &mut planner.reports);
    }
    match sources.bastillefile(template, None) {
        Ok(Some(text)) => planner.template(template, &text, bindings, &mut Vec::new()),
        Ok(None) => {
            let source = planner.reports.add(template.as_str(), template.as_str());
            let fault = Fault::new(Place::new(source, 0..template.as_str().len()), "there is no such template");
            planner.reports.push(fault.fix("bootstrap it first, from where it is kept"));
        }
        Err(message) => {
            let source = planner.reports.add(template.as_str(), template.as_str());
            planner.reports.push(Fault::new(Place::new(source, 0..template.as_str().len()), message));
        }
    }
    let Planner { steps, arguments, needs, reports, .. } = planner;
    let warnings = reports.warnings();
    let planned =
        if needs.is_empty() { Planned::Plan(Plan { steps, arguments, warnings }) } else { Planned::Needs(needs) };
    reports.into_result(Some(planned))
}

struct Planner<'a> {
    sources: &'a dyn Sources,
    jail: &'a Facts,
    reports: Reports,
    steps: Vec<Step>,
    arguments: Vec<Argument>,
    needs: Vec<Need>,
    templates: usize,
}

impl<'a> Planner<'a> {
    fn new(sources: &'a dyn Sources, jail: &'a Facts) -> Self {
        let (steps, arguments, needs) = (Vec::new(), Vec::new(), Vec::new());
        Self { sources, jail, reports: Reports::default(), steps, arguments, needs, templates: 0 }
    }

    fn template(&mut self, name: &TemplateName, text: &str, mut bindings: Bindings, above: &mut Vec<TemplateName>) {
        let origin = format!("{name}/Bastillefile");
        self.templates += 1;
        let whole = text.get(..text.floor_char_boundary(FILE_BYTES_MAX)).unwrap_or_default();
        let source = self.reports.add(&origin, whole);
        if text.len() > FILE_BYTES_MAX {
            let fault =
                Fault::new(Place::new(source, 0..0), format!("a Bastillefile has at most {FILE_BYTES_MAX} bytes"));
            self.reports.push(fault.fix("copy payload with CP"));
            return;
        }
        let lines = lines(whole, source);
        if lines.is_empty() {
            let fault = Fault::new(Place::new(source, 0..0), "the file says nothing");
            self.reports.push(fault.fix("write lines such as PKG git"));
        }
        let mut scope = Scope::new(self.jail);
        above.push(name.clone());
        for line in &lines {
            if self.reports.is_full() || self.is_too_long(line) {
                break;
            }
            self.line(name, &origin, line, &mut scope, &mut bindings, above);
        }
        above.pop();
        bindings.report_unused(&scope, &self.reports);
    }

    fn is_too_long(&self, line: &Line) -> bool {
        let is_too_long = self.steps.len() >= STEPS_MAX;
        if is_too_long {
            let fault = Fault::new(
                line.place(0, line.chars.len()),
                format!("with this line there are more than {STEPS_MAX} steps"),
            );
            self.reports.push(fault.fix("apply several templates one after another"));
        }
        is_too_long
    }

    fn line(
        &mut self,
        template: &TemplateName,
        origin: &str,
        line: &Line,
        scope: &mut Scope,
        bindings: &mut Bindings,
        above: &mut Vec<TemplateName>,
    ) {
        let (from, word, rest) = line.bare_word(0);
        let place = line.place(from, from + word.chars().count());
        let Some(verb) = verb(&word, place, &self.reports) else { return };
        match verb {
            Verb::Arg { mandatory } => self.argument(template, line, rest, mandatory, scope, bindings),
            Verb::Include => {
                let words = words(line, rest, scope, &self.reports);
                self.include(place, &words, above);
            }
            Verb::Cmd => {
                let script = script(line, rest, scope, &self.reports);
                if line.rest(rest).is_empty() {
                    self.reports.push(Fault::new(place, "CMD without a command").fix("write CMD and what to run"));
                }
                self.step(origin, line, scope, Action::Cmd { script });
            }
            Verb::Words(verb) => {
                let words = words(line, rest, scope, &self.reports);
                let context =
                    Context { template, place, words: &words, scope, reports: &self.reports, sources: self.sources };
                for action in actions(verb, &context) {
                    self.step(origin, line, scope, action);
                }
            }
        }
    }

    fn step(&mut self, origin: &str, line: &Line, scope: &Scope, action: Action) {
        self.steps.push(Step { origin: origin.to_owned(), line: line.number, text: filled_in(line, scope), action });
    }

    fn argument(
        &mut self,
        template: &TemplateName,
        line: &Line,
        rest: usize,
        mandatory: bool,
        scope: &mut Scope,
        bindings: &mut Bindings,
    ) {
        let words = words(line, rest, scope, &self.reports);
        let [word] = words.as_slice() else {
            let place = words.get(1).map_or(line.place(0, line.chars.len()), |word| word.place);
            let fault = Fault::new(place, format!("ARG declares one name; here are {} words", words.len()));
            self.reports.push(fault.fix("write ARG NAME or ARG NAME=default, the default in quotes if it has blanks"));
            return;
        };
        let (name, default) = word.text.split_once('=').map_or((word.text.as_str(), None), |(n, d)| (n, Some(d)));
        if !is_valid_name(name) {
            let fault = Fault::new(word.place, format!("{name:?} is no name of an argument"));
            self.reports.push(fault.fix("letters, digits and '_', not beginning with a digit"));
            return;
        }
        let (value, from) = bindings.take(name, default);
        if value.is_empty() && mandatory {
            let fault = Fault::new(word.place, format!("{name} is needed and has no value"));
            self.reports.push(fault.fix(format!("give it with --arg {name}=VALUE, or in a file with --arg-file")));
        } else if value.is_empty() && from == ValueFrom::Nothing {
            self.reports.warn(Fault::new(word.place, format!("{name} has no value and is empty")));
        }
        scope.declare(name, value.clone(), word.place, &self.reports);
        let (template, name) = (template.clone(), name.to_owned());
        self.arguments.push(Argument { template, name, value, from, mandatory });
    }

    fn include(&mut self, place: Place, words: &[Word], above: &mut Vec<TemplateName>) {
        let Some((target, options)) = words.split_first() else {
            let fault = Fault::new(place, "INCLUDE without a template");
            self.reports.push(fault.fix("write INCLUDE PROJECT/TEMPLATE, or its address"));
            return;
        };
        let bindings = include_bindings(options, &self.reports);
        let Some((name, url)) = reference(target, &self.reports) else { return };
        if let Some(refused) = self.refused(&name, above) {
            self.reports.push(Fault::new(target.place, refused.0).fix(refused.1));
            return;
        }
        match (self.sources.bastillefile(&name, url.as_ref()), url) {
            (Ok(Some(text)), _) => self.template(&name, &text, bindings, above),
            (Ok(None), Some(url)) => {
                let need = Need { template: name, url };
                if !self.needs.contains(&need) {
                    self.needs.push(need);
                }
            }
            (Ok(None), None) => {
                let fault = Fault::new(target.place, format!("there is no template {name}"));
                self.reports.push(fault.fix("bootstrap it first, or include it by its address"));
            }
            (Err(message), _) => self.reports.push(Fault::new(target.place, message)),
        }
    }

    fn refused(&self, name: &TemplateName, above: &[TemplateName]) -> Option<(String, &'static str)> {
        if above.contains(name) {
            let names: Vec<_> = above.iter().chain([name]).map(TemplateName::as_str).collect();
            return Some((format!("templates include each other: {}", names.join(" -> ")), "leave one INCLUDE out"));
        }
        if above.len() >= DEPTH_MAX {
            return Some((format!("templates include each other more than {DEPTH_MAX} deep"), "include fewer"));
        }
        (self.templates >= TEMPLATES_MAX)
            .then(|| (format!("more than {TEMPLATES_MAX} templates are included"), "include fewer"))
    }
}

/// Which template is meant.
pub(super) fn reference(word: &Word, reports: &Reports) -> Option<(TemplateName, Option<TemplateUrl>)> {
    if TemplateUrl::is_meant(&word.text) {
        return match TemplateUrl::parse(&word.text) {
            Ok(url) => Some((url.template().clone(), Some(url))),
            Err(refusal) => {
                reports.push(Fault::new(word.place, refusal.message).fix(refusal.fix.unwrap_or_default()));
                None
            }
        };
    }
    match TemplateName::parse(&word.text) {
        Ok(name) => Some((name, None)),
        Err(e) => {
            let fault = Fault::new(word.place, e.to_string());
            reports.push(fault.fix("write PROJECT/TEMPLATE of one that is there, or https://HOST/USER/REPOSITORY"));
            None
        }
    }
}

/// What follows the name of an included template: `--arg NAME=VALUE`, any number of them.
fn include_bindings(options: &[Word], reports: &Reports) -> Bindings {
    let mut bindings = Bindings::default();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match (option.text.as_str(), option.text.strip_prefix("--arg=")) {
            ("--arg", _) => match options.next() {
                Some(value) => bindings.give(&value.text, value.place, reports),
                None => reports.push(Fault::new(option.place, "--arg without a value").fix("write --arg NAME=VALUE")),
            },
            (_, Some(value)) => bindings.give(value, option.place, reports),
            _ => {
                let fault = Fault::new(option.place, format!("INCLUDE takes no {:?}", option.text));
                reports.push(fault.fix("write --arg NAME=VALUE for each argument to pass on"));
            }
        }
    }
    bindings
}

/// The line as it reads with its values: for people.
fn filled_in(line: &Line, scope: &Scope) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some((c, _)) = line.chars.get(at) {
        at += 1;
        let name = if *c == '$' { named(line, at) } else { None };
        match name.and_then(|(name, after)| Some((scope.known(&name)?.to_owned(), after))) {
            Some((value, after)) => {
                text.push_str(&value);
                at = after;
            }
            None => text.push(*c),
        }
    }
    text.trim().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
