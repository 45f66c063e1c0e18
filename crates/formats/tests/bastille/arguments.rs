//! Arguments: where values are from, which lines see them.

use moat_formats::bastille::{Args, Facts, ValueFrom, plan};
use moat_model::jail::steps::Action;
use moat_model::jail::{JailName, TemplateName};

use super::{Shelf, actions, args, ask, only, planned};

fn value(text: &str, args: &Args) -> (String, ValueFrom) {
    let plan = planned(&Shelf::of(text), args);
    (plan.arguments[0].value.clone(), plan.arguments[0].from)
}

#[test]
fn b02_given_then_file_then_default() {
    let file = "# values\n\nA=file\nA=second\n";
    for (text, args, expected, from) in [
        ("ARG A=default\nRESTART", args(&["A=given", "A=again"], file), "given", ValueFrom::Given),
        ("ARG A=default\nRESTART", args(&[], file), "file", ValueFrom::File),
        ("ARG A=default\nRESTART", args(&[], "A=file\r\nB=x"), "file", ValueFrom::File),
        ("ARG A=default\nRESTART", Args::default(), "default", ValueFrom::Default),
        ("ARG A=\nRESTART", Args::default(), "", ValueFrom::Default),
        ("ARG A\nRESTART", Args::default(), "", ValueFrom::Nothing),
        ("ARG A=\"a b\"\nRESTART", Args::default(), "a b", ValueFrom::Default),
        ("ARG+ A\nRESTART", args(&["A=x"], ""), "x", ValueFrom::Given),
        ("arg+ A=y\nRESTART", Args::default(), "y", ValueFrom::Default),
        ("ARG A=x\nRESTART", args(&["A="], file), "", ValueFrom::Given),
        ("ARG A=x\nRESTART", args(&["A=b=c"], ""), "b=c", ValueFrom::Given),
        ("ARG A=x\nRESTART", args(&[], "A=\"quoted\""), "\"quoted\"", ValueFrom::File),
    ] {
        assert_eq!(value(text, &args), (expected.to_owned(), from), "{text}");
    }
    // Quotes in a file belong to the value, which is said; so is a name nobody declared, and an empty one.
    let warned = |text: &str, args: &Args| planned(&Shelf::of(text), args).warnings.len();
    assert_eq!(warned("ARG A\nRESTART", &args(&[], "A=\"x\"\nB=1")), 2);
    assert_eq!(warned("ARG A\nRESTART", &Args::default()), 1);
    assert_eq!(warned("ARG A=\nRESTART", &Args::default()), 0);
}

#[test]
fn b02_a_mandatory_argument_without_a_value() {
    for text in ["ARG+ A", "ARG+ A=", "PKG x\nARG+ A"] {
        let (place, said) = only(&format!("{text}\nCMD echo ${{A}}"));
        assert_eq!(place.0, text.lines().count());
        assert!(said.contains("A is needed and has no value = give it with --arg A=VALUE"), "{said}");
    }
    assert!(ask(&Shelf::of("ARG+ A\nRESTART"), &args(&["A="], "")).is_err());
}

#[test]
fn b02_only_lines_after_an_argument_see_it() {
    assert_eq!(only("SYSRC a=${A}\nARG A=1").0, (1, 9, 4));
    let found = actions("CMD echo ${A}\nARG A=1\nCMD echo ${A}");
    assert_eq!(found[0], Action::Cmd { script: "echo ${A}".to_owned() });
    assert_eq!(found[1], Action::Cmd { script: "moat_arg_A='1'\necho ${moat_arg_A}".to_owned() });
    let found = actions("ARG A=x\nARG B=${A}/y\nSYSRC v=${B}");
    assert_eq!(found, [Action::Sysrc { args: vec!["v=x/y".to_owned()] }]);
}

#[test]
fn b02_built_in_names() {
    let found = actions("SYSRC v=${JAIL_NAME}@${JAIL_IP}[${JAIL_IP6}]");
    assert_eq!(found, [Action::Sysrc { args: vec!["v=web@10.0.0.1[]".to_owned()] }]);
    let plan_of = |text: &str| {
        let isolated = Facts { name: JailName::parse("web").unwrap(), address: None };
        plan(&TemplateName::parse("t/t").unwrap(), &Shelf::of(text), &Args::default(), &isolated)
    };
    for text in ["SYSRC v=${JAIL_IP}", "CMD ping \"${JAIL_IP}\""] {
        let problems = plan_of(text).unwrap_err();
        assert!(problems.to_string().contains("has no address"), "{problems}");
    }
    assert!(plan_of("CMD echo ${JAIL_NAME}").is_ok());
    assert_eq!(planned(&Shelf::of("CMD echo ${JAIL_IP6}"), &Args::default()).warnings.len(), 1);
}

#[test]
fn b02_values_nobody_asked_for() {
    for (text, given, file, expected) in [
        ("ARG PORT=1\nRESTART", &["PORTS=2"][..], "", "did you mean PORT?"),
        ("ARG PORT=1\nRESTART", &["HOST=2"], "", "it has PORT"),
        ("RESTART", &["HOST=2"], "", "it has none at all"),
        ("RESTART", &["HOST"], "", "an argument is NAME=VALUE"),
        ("RESTART", &["=x"], "", "an argument is NAME=VALUE"),
        ("ARG A=1\nRESTART", &["A=1\n2"], "", "a value is one line"),
        ("ARG A=1\nRESTART", &["A=\u{0}"], "", "a value is one line"),
        ("RESTART", &[], "A=1\nnonsense", "values:2:1"),
    ] {
        let text = ask(&Shelf::of(text), &args(given, file)).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let long = format!("A={}", "x".repeat(20_000));
    assert!(ask(&Shelf::of("ARG A=1\nRESTART"), &args(&[&long], "")).is_err());
}
