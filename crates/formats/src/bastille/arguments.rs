//! Arguments of a template: what is declared, and where its values are from.

use std::collections::BTreeMap;

use super::words::is_valid_name;
use super::{ArgFile, Facts, VALUE_BYTES_MAX, ValueFrom};
use crate::problem::{Fault, Place, Reports, alike};

/// Names every template has.
const BUILT_IN: [&str; 3] = ["JAIL_NAME", "JAIL_IP", "JAIL_IP6"];
/// Arguments of one template. Nobody writes so many.
const ARGUMENTS_MAX: usize = 512;

/// What a line sees: names declared before it, and their values.
#[derive(Debug)]
pub(super) struct Scope {
    built_in: [Option<String>; 3],
    declared: BTreeMap<String, String>,
}

impl Scope {
    pub fn new(jail: &Facts) -> Self {
        let address = jail.address.map(|address| address.to_string());
        Self { built_in: [Some(jail.name.to_string()), address, Some(String::new())], declared: BTreeMap::new() }
    }

    /// Whether `${name}` is filled in.
    pub fn knows(&self, name: &str) -> bool {
        BUILT_IN.contains(&name) || self.declared.contains_key(name)
    }

    /// The value, if there is one.
    pub fn known(&self, name: &str) -> Option<&str> {
        match BUILT_IN.iter().position(|known| *known == name) {
            Some(index) => self.built_in.get(index)?.as_deref(),
            None => self.declared.get(name).map(String::as_str),
        }
    }

    /// The value, for a use at `place`; what is wrong with that use is reported.
    pub fn value(&self, name: &str, place: Place, reports: &Reports) -> String {
        if name == "JAIL_IP6" {
            reports.warn(Fault::new(place, "jails have no IPv6 address: this is empty"));
        }
        if let Some(value) = self.known(name) {
            return value.to_owned();
        }
        if name == "JAIL_IP" {
            let fault = Fault::new(place, "this jail is isolated and has no address");
            reports.push(fault.fix("create it with an address, or apply a template that needs none"));
            return String::new();
        }
        let fault = Fault::new(place, format!("{name} is not declared before this line"));
        let like = alike(name, self.declared.keys().map(String::as_str).chain(BUILT_IN));
        reports.push(match like {
            Some(like) => fault.fix(format!("did you mean ${{{like}}}?")),
            None => fault.fix(format!("write ARG {name}=default above; the environment of the host is not looked at")),
        });
        String::new()
    }

    /// All that is known, for `RENDER`.
    pub fn all(&self) -> Vec<(String, String)> {
        let built_in = BUILT_IN.iter().zip(&self.built_in);
        let built_in = built_in.filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        built_in.chain(self.declared.clone()).collect()
    }

    /// Adds a name. What stands against it is reported.
    pub fn declare(&mut self, name: &str, value: String, place: Place, reports: &Reports) {
        let refused = if BUILT_IN.contains(&name) {
            Some((format!("{name} is there in every template"), "choose another name"))
        } else if self.declared.contains_key(name) {
            Some((format!("{name} is declared twice"), "leave one of the two"))
        } else if self.declared.len() >= ARGUMENTS_MAX {
            Some((format!("a template has at most {ARGUMENTS_MAX} arguments"), "divide it with INCLUDE"))
        } else {
            None
        };
        match refused {
            Some((message, fix)) => reports.push(Fault::new(place, message).fix(fix)),
            None => {
                self.declared.insert(name.to_owned(), value);
            }
        }
    }
}

/// One `NAME=VALUE`.
#[derive(Debug)]
struct Binding {
    name: String,
    value: String,
    place: Place,
    is_used: bool,
}

/// Values for the arguments of one template.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    given: Vec<Binding>,
    file: Vec<Binding>,
}

impl Bindings {
    /// Takes what was given with `--arg`, and where that stands.
    pub fn give(&mut self, text: &str, place: Place, reports: &Reports) {
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| is_valid_name(name)) else {
            reports.push(Fault::new(place, "an argument is NAME=VALUE").fix("such as --arg PORT=8080"));
            return;
        };
        check_value(value, place, reports);
        self.given.push(Binding { name: name.to_owned(), value: value.to_owned(), place, is_used: false });
    }

    /// Takes a file of them.
    pub fn read(&mut self, file: &ArgFile, reports: &mut Reports) {
        let source = reports.add(&file.origin, &file.text);
        let mut offset = 0;
        for line in file.text.split('\n') {
            let written = line.strip_suffix('\r').unwrap_or(line);
            let place = Place::new(source, offset..offset + written.len());
            offset += line.len() + 1;
            let from = written.trim_start();
            if from.is_empty() || from.starts_with('#') {
                continue;
            }
            let Some((name, value)) = from.split_once('=').filter(|(name, _)| is_valid_name(name)) else {
                reports.push(Fault::new(place, "a line of this file is NAME=VALUE").fix("comments begin with #"));
                continue;
            };
            check_value(value, place, reports);
            let is_quoted = |quote| value.len() >= 2 && value.starts_with(quote) && value.ends_with(quote);
            if is_quoted('"') || is_quoted('\'') {
                reports.warn(Fault::new(place, "the quotes are part of the value: no shell reads this file"));
            }
            self.file.push(Binding { name: name.to_owned(), value: value.to_owned(), place, is_used: false });
        }
    }

    /// The value of a name, and where it is from: given, in the file, the default, nothing.
    pub fn take(&mut self, name: &str, default: Option<&str>) -> (String, ValueFrom) {
        let mut found = None;
        for (bindings, from) in [(&mut self.given, ValueFrom::Given), (&mut self.file, ValueFrom::File)] {
            for binding in bindings.iter_mut().filter(|binding| binding.name == name) {
                binding.is_used = true;
                found.get_or_insert_with(|| (binding.value.clone(), from));
            }
        }
        found.unwrap_or_else(|| match default {
            Some(default) => (default.to_owned(), ValueFrom::Default),
            None => (String::new(), ValueFrom::Nothing),
        })
    }

    /// What nobody asked for: given for nothing is a mistake, a file may serve several templates.
    pub fn report_unused(&self, scope: &Scope, reports: &Reports) {
        for binding in self.given.iter().filter(|binding| !binding.is_used) {
            let fault = Fault::new(binding.place, format!("the template has no argument {}", binding.name));
            let names = scope.declared.keys().map(String::as_str);
            reports.push(match alike(&binding.name, names) {
                Some(like) => fault.fix(format!("did you mean {like}?")),
                None if scope.declared.is_empty() => fault.fix("it has none at all"),
                None => {
                    let names: Vec<_> = scope.declared.keys().map(String::as_str).collect();
                    fault.fix(format!("it has {}", names.join(", ")))
                }
            });
        }
        for binding in self.file.iter().filter(|binding| !binding.is_used) {
            reports.warn(Fault::new(binding.place, format!("the template has no argument {}", binding.name)));
        }
    }
}

/// A value is one line: it becomes part of lines.
fn check_value(value: &str, place: Place, reports: &Reports) {
    if value.len() > VALUE_BYTES_MAX {
        let message = format!("a value has at most {VALUE_BYTES_MAX} bytes; this one has {}", value.len());
        reports.push(Fault::new(place, message).fix("copy a file into the jail with CP"));
    }
    if value.contains(['\n', '\r', '\0']) {
        reports.push(Fault::new(place, "a value is one line of text").fix("copy a file into the jail with CP"));
    }
}
