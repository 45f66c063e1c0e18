//! Templates of jails: what anybody writes must be answered, and no value of an argument may change how many steps there are.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moat_formats::bastille::{ArgFile, Args, Facts, Planned, Sources, TemplateUrl, convert, plan, verify};
use moat_model::jail::{JailName, TemplateName};

/// One text for every template: it may include itself.
struct One<'a>(&'a str);

impl Sources for One<'_> {
    fn bastillefile(&self, _: &TemplateName, _: Option<&TemplateUrl>) -> Result<Option<String>, String> {
        Ok(Some(self.0.to_owned()))
    }

    fn exists(&self, _: &TemplateName, _: &Path) -> Result<bool, String> {
        Ok(true)
    }
}

const WORDS: &str = "ARG V=x\nSYSRC a=${V} b=\"${V}\" c='${V}'\nLINE_IN_FILE \"${V}.\" /f\nCMD printf \"${V}\" '${V}' ${V}\n";

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    let (Ok(name), Ok(jail)) = (TemplateName::parse("t/t"), JailName::parse("web")) else { return };
    let facts = Facts { name: jail, address: Some([10, 0, 0, 1].into()) };
    let file = Some(ArgFile { origin: "values".to_owned(), text: value.to_owned() });
    if let Err(problems) = plan(&name, &One(text), &Args { given: Vec::new(), file }, &facts) {
        assert!(!problems.problems.is_empty() && !problems.to_string().is_empty());
    }
    let _ = verify(&name, &One(text), &facts);
    let converted = convert(&[("CMD".to_owned(), text.to_owned()), ("PKG".to_owned(), value.to_owned())]);
    assert!(!converted.text.is_empty() || !converted.warnings.is_empty());
    let args = Args { given: vec![format!("V={value}")], file: None };
    if let Ok(Planned::Plan(plan)) = plan(&name, &One(WORDS), &args, &facts) {
        assert_eq!(plan.steps.len(), 3);
    }
});
