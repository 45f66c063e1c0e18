//! No value of an argument changes what a template does, only what its words say.

use moat_formats::bastille::{Args, plan};
use moat_model::jail::TemplateName;
use moat_model::jail::steps::Action;
use proptest::prelude::*;

use super::{Shelf, args, ask, facts, planned};

const TEMPLATE: &str = "ARG V=x\n\
    SYSRC a=${V} b=\"${V}\" c='${V}' d=pre\"${V}\"post\n\
    LINE_IN_FILE \"say ${V}\" /etc/file\n\
    RENDER /etc/file\n\
    CMD printf %s \"${V}\" '${V}'\n\
    INCLUDE u/inner --arg W=${V}\n";
const INNER: &str = "ARG W\nSYSRC e=${W}";

fn shelf() -> Shelf {
    Shelf::of(TEMPLATE).with("u/inner", INNER)
}

/// What must come of a value, whatever it is.
fn arrives(plan: &moat_formats::bastille::Plan, value: &str) {
    let actions: Vec<_> = plan.steps.iter().map(|step| &step.action).collect();
    let sysrc = |names: &[&str]| Action::Sysrc { args: names.iter().map(|text| text.replace("{}", value)).collect() };
    assert_eq!(actions.len(), 5);
    assert_eq!(*actions[0], sysrc(&["a={}", "b={}", "c={}", "d=pre{}post"]));
    assert_eq!(*actions[1], Action::LineInFile { line: format!("say {value}"), path: "/etc/file".into() });
    let Action::Render { values, .. } = actions[2] else { panic!("{:?}", actions[2]) };
    assert!(values.contains(&("V".to_owned(), value.to_owned())));
    let quoted = value.replace('\'', "'\\''");
    let script = format!("moat_arg_V='{quoted}'\nprintf %s \"${{moat_arg_V}}\" ''\"${{moat_arg_V}}\"''");
    assert_eq!(*actions[3], Action::Cmd { script });
    assert_eq!(*actions[4], sysrc(&["e={}"]));
}

/// Values made to get out of the word they stand in.
pub const HOSTILE: [&str; 26] = [
    "$(touch /tmp/x)",
    "`touch /tmp/x`",
    "a b  c",
    "\"",
    "'",
    "\" ; touch /tmp/x ; \"",
    "' ; touch /tmp/x ; '",
    "'; touch /tmp/x #",
    "'\"'\"'",
    "\\",
    "\\\\",
    "a\\",
    "&& touch /tmp/x",
    "| sh",
    "> /tmp/x",
    "a&b/c\\d$e",
    "$HOME ${HOME} $1 $$",
    "${V}",
    "${JAIL_NAME}",
    "*",
    "~root",
    "# comment",
    "-f",
    "{{.Count}} {a,b}",
    "!!",
    "é\u{7f}\t\u{1b}[31m",
];

#[test]
fn b03_hostile_values_arrive_as_they_are() {
    for value in HOSTILE {
        for args in [args(&[&format!("V={value}")], ""), args(&[], &format!("V={value}"))] {
            arrives(&planned(&shelf(), &args), value);
        }
    }
}

#[test]
fn b03_hostile_defaults_are_refused_or_text() {
    for default in ["$(touch /tmp/x)", "`touch /tmp/x`", "\"$(touch /tmp/x)\"", "a;touch", "$HOME", "${HOME}"] {
        assert!(ask(&Shelf::of(&format!("ARG V={default}\nRESTART")), &Args::default()).is_err(), "{default}");
    }
    let plan = planned(&Shelf::of("ARG V='$(touch /tmp/x)'\nSYSRC a=${V}"), &Args::default());
    assert_eq!(plan.steps[0].action, Action::Sysrc { args: vec!["a=$(touch /tmp/x)".to_owned()] });
}

#[test]
fn b03_what_is_shown_of_a_step_cannot_drive_a_terminal() {
    let plan = planned(&Shelf::of("ARG V\nSYSRC a=${V}"), &args(&["V=\u{1b}[2J"], ""));
    assert_eq!(plan.steps[0].text, "SYSRC a=\u{fffd}[2J");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn b03_no_value_changes_the_number_of_words_or_steps(value in "[^\n\r\u{0}]{0,40}") {
        arrives(&planned(&shelf(), &args(&[&format!("V={value}")], "")), &value);
    }

    #[test]
    fn b03_no_value_of_shell_characters_does(value in "[ '\"`$(){}\\\\;&|<>#*?!~a-c=-]{0,20}") {
        arrives(&planned(&shelf(), &args(&[&format!("V={value}")], "")), &value);
    }

    #[test]
    fn b02_any_text_has_an_answer(
        text in "((PKG|CMD|CP|ARG|ARG\\+|SYSRC|INCLUDE t/t|RDR|LIF|nope)[ a'\"$(){}A=`\\\\/#\n]{0,20}\n?){0,6}",
        values in "[A=a'\n]{0,10}",
    ) {
        let name = TemplateName::parse("t/t").unwrap();
        if let Err(problems) = plan(&name, &Shelf::of(&text), &args(&["A=1"], &values), &facts()) {
            prop_assert!(!problems.problems.is_empty() && problems.problems.len() <= 20);
            for problem in &problems.problems {
                prop_assert!(problem.line >= 1 && problem.column >= 1 && problem.width >= 1);
            }
        }
    }
}
