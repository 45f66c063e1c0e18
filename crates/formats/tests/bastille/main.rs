//! Templates of jails: every verb, every way to write one, and what a value of an argument can not do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

mod any_value;
mod arguments;
mod includes;
mod seed;
mod verbs;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use moat_formats::Problems;
use moat_formats::bastille::{ArgFile, Args, Facts, Plan, Planned, Sources, TemplateUrl, plan};
use moat_model::jail::steps::Action;
use moat_model::jail::{JailName, TemplateName};

/// Templates by name, and the files they have.
#[derive(Debug, Default)]
pub struct Shelf {
    texts: BTreeMap<String, String>,
    files: BTreeSet<String>,
}

impl Shelf {
    pub fn of(text: &str) -> Self {
        Self::default().with("t/t", text)
    }

    pub fn with(mut self, name: &str, text: &str) -> Self {
        self.texts.insert(name.to_owned(), text.to_owned());
        self
    }

    pub fn file(mut self, path: &str) -> Self {
        self.files.insert(path.to_owned());
        self
    }
}

impl Sources for Shelf {
    fn bastillefile(&self, template: &TemplateName, url: Option<&TemplateUrl>) -> Result<Option<String>, String> {
        match url {
            Some(url) if url.repository().contains("elsewhere") => Err(format!("{template} is from another place")),
            _ => Ok(self.texts.get(template.as_str()).cloned()),
        }
    }

    fn exists(&self, _: &TemplateName, path: &Path) -> Result<bool, String> {
        Ok(self.files.contains(path.to_str().unwrap()))
    }
}

pub fn facts() -> Facts {
    Facts { name: JailName::parse("web").unwrap(), address: Some([10, 0, 0, 1].into()) }
}

pub fn args(given: &[&str], file: &str) -> Args {
    let file = (!file.is_empty()).then(|| ArgFile { origin: "values".to_owned(), text: file.to_owned() });
    Args { given: given.iter().map(|text| (*text).to_owned()).collect(), file }
}

pub fn ask(shelf: &Shelf, args: &Args) -> Result<Planned, Problems> {
    plan(&TemplateName::parse("t/t").unwrap(), shelf, args, &facts())
}

pub fn planned(shelf: &Shelf, args: &Args) -> Plan {
    match ask(shelf, args) {
        Ok(Planned::Plan(plan)) => plan,
        Ok(Planned::Needs(needs)) => panic!("needs {needs:?}"),
        Err(problems) => panic!("{problems}"),
    }
}

/// What a text without arguments does.
pub fn actions(text: &str) -> Vec<Action> {
    planned(&Shelf::of(text), &Args::default()).steps.into_iter().map(|step| step.action).collect()
}

pub fn refused(text: &str) -> Problems {
    ask(&Shelf::of(text), &Args::default()).unwrap_err()
}

/// Line, column and width of the one problem, and what it says.
pub fn only(text: &str) -> ((usize, usize, usize), String) {
    let problems = refused(text);
    assert_eq!(problems.problems.len(), 1, "{problems}");
    let problem = &problems.problems[0];
    let said = format!("{} = {}", problem.message, problem.fix.clone().unwrap_or_default());
    ((problem.line, problem.column, problem.width), said)
}

/// The words of `SYSRC`, which takes any: what the reader of words makes of a text.
pub fn words(text: &str) -> Vec<String> {
    match actions(&format!("SYSRC v={text}")).as_slice() {
        [Action::Sysrc { args }] => args.clone(),
        other => panic!("{other:?}"),
    }
}

pub fn word(text: &str) -> String {
    match words(text).as_slice() {
        [word] => word.strip_prefix("v=").unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}
