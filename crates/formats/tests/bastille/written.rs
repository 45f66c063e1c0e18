//! How a line is written: continuations, comments, quotes, and what a shell would have done.

use moat_formats::bastille::Args;
use moat_model::jail::steps::Action;

use super::{Shelf, actions, only, planned, word, words};

#[test]
fn b02_continuations_and_comments() {
    let text = "# first\nPKG git \\\n    go \\\r\n    vim\r\n\n   # PKG no\nPKG one # PKG two\n# goes on \\\nPKG swallowed\nSYSRC a=b#c";
    let plan = planned(&Shelf::of(text), &Args::default());
    let found: Vec<_> = plan.steps.iter().map(|step| (step.line, step.text.as_str())).collect();
    assert_eq!(found, [(2, "PKG git     go     vim"), (7, "PKG one # PKG two"), (10, "SYSRC a=b#c")]);
    assert_eq!(plan.steps[0].action, Action::Pkg { packages: ["git", "go", "vim"].map(str::to_owned).into() });
    assert_eq!(plan.steps[1].action, Action::Pkg { packages: vec!["one".to_owned()] });
    // A problem in the second line of two is shown there.
    assert_eq!(only("PKG git\nPKG git \\\n  -y").0, (3, 3, 2));
    assert_eq!(actions("CMD echo a \\\n  b"), [Action::Cmd { script: "echo a   b".to_owned() }]);
    assert_eq!(actions("PKG git \\"), actions("PKG git"));
}

#[test]
fn b02_quoting_torture() {
    for (text, expected) in [
        ("plain", "plain"),
        ("'a b'", "a b"),
        ("\"a b\"", "a b"),
        ("a\\ b", "a b"),
        ("a'b'\"c\"\\d", "abcd"),
        ("''", ""),
        ("'\"'", "\""),
        ("\"'\"", "'"),
        ("\"\\\"\\\\\\$\\`\\n\"", "\"\\$`\\n"),
        ("'\\'", "\\"),
        ("\\\\", "\\"),
        ("'&;|<>()*?[]{}~!'", "&;|<>()*?[]{}~!"),
        ("a*b?[c]", "a*b?[c]"),
        ("{{.Count}}", "{{.Count}}"),
        ("{a,b}", "{a,b}"),
        ("~root", "~root"),
        ("a#b", "a#b"),
        ("100%", "100%"),
        ("a/b\\/c", "a/b/c"),
        ("5$", "5$"),
        ("\"5$\"", "5$"),
        ("'$HOME `id` $(id)'", "$HOME `id` $(id)"),
        ("\\$HOME", "$HOME"),
        ("\"\\${X}\"", "${X}"),
        ("'${X}'", "${X}"),
        ("é—ü", "é—ü"),
    ] {
        assert_eq!(word(text), expected, "{text}");
    }
    assert_eq!(words("1 w='' x=\"\" y=a\"b c\"d"), ["v=1", "w=", "x=", "y=ab cd"]);
}

#[test]
fn b02_what_only_a_shell_does_is_refused_at_its_place() {
    for (text, place) in [
        ("SYSRC a=$(id)", (1, 9, 2)),
        ("SYSRC a=\"x$(id)\"", (1, 11, 2)),
        ("SYSRC a=`id`b", (1, 9, 1)),
        ("SYSRC a=$HOME", (1, 9, 5)),
        ("SYSRC a=\"$?\"", (1, 10, 2)),
        ("SYSRC a=${X:-y} b=c", (1, 9, 7)),
        ("SYSRC a=${HOME}", (1, 9, 7)),
        ("SYSRC a=b;c", (1, 10, 1)),
        ("SERVICE nginx start&", (1, 20, 1)),
        ("SYSRC a=b >x", (1, 11, 1)),
        ("SYSRC a='b", (1, 9, 1)),
        ("SYSRC a=\"b", (1, 9, 1)),
    ] {
        let problems = super::refused(text);
        let first = &problems.problems[0];
        assert_eq!((first.line, first.column, first.width), place, "{problems}");
        assert!(first.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{problems}");
    }
    assert!(only("SYSRC a=${HOME}").1.contains("environment of the host is not looked at"));
    assert!(only("ARG PORT=1\nSYSRC a=${PORTS}").1.contains("did you mean ${PORT}?"));
    assert_eq!(only("ARG A=$(hostname)").0, (1, 7, 2));
}

#[test]
fn b02_names_nobody_declared_are_the_inner_shells_in_a_command() {
    let script = "echo ${HOME} $PATH \"${X:-y}\" '${Z}' \\${A} $A";
    assert_eq!(actions(&format!("ARG A=1\nCMD {script}")), [Action::Cmd { script: script.to_owned() }]);
}
