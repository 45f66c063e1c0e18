//! Templates of jails as Bastille writes them: a `Bastillefile` becomes a list of [`Step`]s, before anything of it is applied.
//!
//! Nothing of a file is run or expanded where it is read: there is no command substitution, no environment and no pattern. A value
//! of an argument is part of the word it stands in, whatever is in it; see [`script`] for how that holds in the text of a `CMD`.

mod arguments;
mod convert;
mod lines;
mod mount;
mod plan;
mod redirect;
mod script;
mod url;
mod verbs;
mod verify;
mod words;

use std::net::Ipv4Addr;
use std::path::Path;

use moat_model::jail::steps::Step;
use moat_model::jail::{JailName, TemplateName};
use serde::{Deserialize, Serialize};

pub use convert::{Converted, HOOKS, convert};
pub use mount::mount;
pub use plan::plan;
pub use redirect::{RedirectOptions, redirect};
pub use url::TemplateUrl;
pub use verify::{Hook, Verified, verify};

use crate::problem::Problem;

/// Longest file. Templates are written by hand; payload is copied, not read here.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Longest value of an argument: it becomes part of one argument of a program, of which Linux takes 128 KiB.
pub const VALUE_BYTES_MAX: usize = 16 << 10;

/// Where templates come from. The caller decides: this crate opens no file and asks nobody.
pub trait Sources {
    /// The text of a template's `Bastillefile`; none if the template is not there. `url` is where an `INCLUDE` says it is from: a
    /// template of that name from elsewhere is an error. The text of an error is shown.
    fn bastillefile(&self, template: &TemplateName, url: Option<&TemplateUrl>) -> Result<Option<String>, String>;

    /// Whether the template has this file or directory, a relative path without `..`.
    fn exists(&self, template: &TemplateName, path: &Path) -> Result<bool, String>;
}

/// Values for the arguments of a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// As given with `--arg`: `NAME=VALUE`. The first of a name holds. The value is what it is: quotes are part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<String>,
    /// What is not given is looked for here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<ArgFile>,
}

/// A file of `NAME=VALUE` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgFile {
    /// What it is called, for problems.
    pub origin: String,
    /// What is in it.
    pub text: String,
}

/// What a template can ask of the jail it is applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `${JAIL_NAME}`
    pub name: JailName,
    /// `${JAIL_IP}`; none for an isolated jail.
    pub address: Option<Ipv4Addr>,
}

/// What a template is, or what is missing to say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// All of it.
    Plan(Plan),
    /// Templates it includes that are not here: get these, then ask again.
    Needs(Vec<Need>),
}

/// What a template does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Its arguments and those of the templates it includes.
    pub arguments: Vec<Argument>,
    /// What whoever applies it should know.
    pub warnings: Vec<Problem>,
}

/// An argument of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// Whose.
    pub template: TemplateName,
    /// `NAME` of `ARG NAME=default`.
    pub name: String,
    /// What it is this time.
    pub value: String,
    /// Where that is from.
    pub from: ValueFrom,
    /// It was declared with `ARG+`: it has no empty value.
    pub mandatory: bool,
}

/// Where a value is from. The first that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueFrom {
    /// `--arg`, of the command or of the `INCLUDE`.
    Given,
    /// `--arg-file`
    File,
    /// What the template says.
    Default,
    /// Nobody said anything: it is empty.
    Nothing,
}

/// A template that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// What it will be called.
    pub template: TemplateName,
    /// Where it is from.
    pub url: TemplateUrl,
}

/// What was written for a command's argument, and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", fix.as_ref().map(|fix| format!(": {fix}")).unwrap_or_default())]
pub struct Refusal {
    /// Which of the words, from 0; none: all of them.
    pub word: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub fix: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { word: None, message: message.into(), fix: Some(fix.into()) }
    }

    fn at(word: usize, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { word: Some(word), ..Self::new(message, fix) }
    }
}
