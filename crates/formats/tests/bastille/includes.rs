//! Templates that include others.

use moat_formats::bastille::{Args, Planned, verify};
use moat_model::jail::TemplateName;
use moat_model::jail::steps::Action;

use super::{Shelf, args, ask, facts, planned};

#[test]
fn b02_arguments_are_passed_by_name_and_nothing_else_is() {
    let outer = "ARG A=x\nINCLUDE u/inner --arg A=${A}y --arg=B=\"b c\"\nSYSRC after=${A}";
    let inner = "ARG A=1\nARG B=2\nARG C=3\nSYSRC v=${A},${B},${C}";
    let plan = planned(&Shelf::of(outer).with("u/inner", inner), &args(&["A=given"], "C=file\nA=file"));
    let found: Vec<_> = plan.steps.iter().map(|step| (step.origin.as_str(), step.line, step.action.clone())).collect();
    let sysrc = |text: &str| Action::Sysrc { args: vec![text.to_owned()] };
    let expected =
        [("u/inner/Bastillefile", 4, sysrc("v=giveny,b c,3")), ("t/t/Bastillefile", 3, sysrc("after=given"))];
    assert_eq!(found, expected);
    assert_eq!(plan.arguments.len(), 4);
    // The file's C is for the template that was asked for, which has none: said, and not passed on.
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn b02_problems_are_those_of_the_file_they_stand_in() {
    let shelf = Shelf::of("INCLUDE u/inner").with("u/inner", "PKG git\nSYSRC a=${A}");
    let text = ask(&shelf, &Args::default()).unwrap_err().to_string();
    assert!(text.contains("u/inner/Bastillefile:2:9: A is not declared"), "{text}");
    // What the outer one declared is not there.
    let shelf = Shelf::of("ARG A=1\nINCLUDE u/inner").with("u/inner", "SYSRC a=${A}");
    assert!(ask(&shelf, &Args::default()).is_err());
    let shelf = Shelf::of("INCLUDE u/inner --arg X=1").with("u/inner", "ARG A=1\nRESTART");
    let text = ask(&shelf, &Args::default()).unwrap_err().to_string();
    assert!(text.contains("t/t/Bastillefile:1:23: the template has no argument X"), "{text}");
    let shelf = Shelf::of("INCLUDE u/inner").with("u/inner", "ARG+ A\nRESTART");
    assert!(ask(&shelf, &Args::default()).unwrap_err().to_string().contains("A is needed"));
}

#[test]
fn b02_circles_and_depth_are_bounded() {
    let shelf = Shelf::of("INCLUDE u/a").with("u/a", "INCLUDE u/b").with("u/b", "INCLUDE t/t");
    let text = ask(&shelf, &Args::default()).unwrap_err().to_string();
    assert!(text.contains("u/b/Bastillefile:1:9") && text.contains("t/t -> u/a -> u/b -> t/t"), "{text}");
    let mut shelf = Shelf::of("INCLUDE d/0");
    for depth in 0..30 {
        shelf = shelf.with(&format!("d/{depth}"), &format!("INCLUDE d/{}", depth + 1));
    }
    assert!(ask(&shelf, &Args::default()).unwrap_err().to_string().contains("more than 16 deep"));
    // Two at each of fifteen levels would be 32,768 templates.
    let mut shelf = Shelf::of("INCLUDE d/0");
    for depth in 0..14 {
        let text = format!("INCLUDE d/{}\nINCLUDE d/{}", depth + 1, depth + 1);
        shelf = shelf.with(&format!("d/{depth}"), &text);
    }
    shelf = shelf.with("d/14", "RESTART");
    assert!(ask(&shelf, &Args::default()).unwrap_err().to_string().contains("more than 256 templates"));
    let many = "RESTART\n".repeat(10_001);
    assert!(ask(&Shelf::of(&many), &Args::default()).unwrap_err().to_string().contains("more than 10000 steps"));
    // The same one twice, not in a circle, is fine.
    let shelf = Shelf::of("INCLUDE u/a\nINCLUDE u/a").with("u/a", "RESTART");
    assert_eq!(planned(&shelf, &Args::default()).steps.len(), 2);
}

#[test]
fn b02_addresses_become_needs() {
    let text = "INCLUDE https://example.com/u/one\nPKG git\nINCLUDE git@example.com:u/two.git --arg A=1\n\
        INCLUDE https://example.com/u/one\nINCLUDE https://example.com/g/sub/three#0123abc";
    let Ok(Planned::Needs(needs)) = ask(&Shelf::of(text), &Args::default()) else { panic!("needs") };
    let names: Vec<_> = needs.iter().map(|need| (need.template.as_str(), need.url.to_string())).collect();
    let expected = [
        ("u/one", "https://example.com/u/one"),
        ("u/two", "git@example.com:u/two.git"),
        ("sub/three", "https://example.com/g/sub/three#0123abc"),
    ];
    assert_eq!(names, expected.map(|(name, url)| (name, url.to_owned())));
    assert_eq!(needs[2].url.commit(), Some("0123abc"));
    let shelf = Shelf::of(text).with("u/one", "RESTART").with("u/two", "ARG A=2\nPKG x").with("sub/three", "STOP");
    assert_eq!(planned(&shelf, &Args::default()).steps.len(), 5);
    for (text, expected) in [
        ("INCLUDE https://elsewhere.example/u/one", "is from another place"),
        ("INCLUDE https://example.com/one", "no user and repository"),
        ("INCLUDE file:///etc/x/y", "an unknown scheme"),
        ("INCLUDE u/none", "there is no template u/none"),
    ] {
        let text = ask(&Shelf::of(text), &Args::default()).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn what_verify_finds() {
    let name = TemplateName::parse("t/t").unwrap();
    let shelf = Shelf::of("ARG+ A\nINCLUDE u/a --arg X=${A}\nINCLUDE https://example.com/u/b\nTEMPLATE u/c")
        .with("u/a", "ARG+ X\nRDR tcp ${X} 80\nINCLUDE t/t")
        .with("u/c", "CMD true");
    let found = verify(&name, &shelf, &facts()).unwrap();
    let templates: Vec<_> = found.templates.iter().map(TemplateName::as_str).collect();
    assert_eq!(templates, ["t/t", "u/a", "u/c"]);
    assert_eq!((found.hooks.len(), found.needs.len()), (8, 1));
    for (text, expected) in [
        ("", "says nothing"),
        ("NOPE", "is no verb"),
        ("SYSRC a=${A}", "not declared"),
        ("SYSRC a=$(id)", "no command substitution"),
        ("INCLUDE u/x", "or it has no Bastillefile"),
    ] {
        let text = verify(&name, &Shelf::of(text), &facts()).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}
