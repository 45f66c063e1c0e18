//! The template users have, unchanged.

use moat_formats::bastille::{Args, Planned, ValueFrom, plan, verify};
use moat_model::jail::TemplateName;
use moat_model::jail::steps::{Action, CopySource};

use super::{Shelf, facts};

const SEED: &str = include_str!("../seed/nats-jail/Bastillefile");
const NAME: &str = "henomis/nats-jail-template";

fn script(name: &str, assigned: &[(&str, &str)]) -> Action {
    let assigned: String = assigned.iter().map(|(name, value)| format!("moat_arg_{name}='{value}'\n")).collect();
    Action::Cmd { script: format!("{assigned}{name}") }
}

#[test]
fn b02_the_seed() {
    let name = TemplateName::parse(NAME).unwrap();
    let shelf = Shelf::default().with(NAME, SEED).file("usr");
    let Ok(Planned::Plan(plan)) = plan(&name, &shelf, &Args::default(), &facts()) else { panic!("a plan") };
    assert_eq!(plan.warnings, []);
    assert_eq!(plan.arguments.len(), 6);
    assert!(plan.arguments.iter().all(|argument| argument.from == ValueFrom::Default && !argument.mandatory));
    let pkg = |name: &str| Action::Pkg { packages: vec![name.to_owned()] };
    let sysrc = |text: &str| Action::Sysrc { args: vec![text.to_owned()] };
    let expected = [
        (2, pkg("git")),
        (3, pkg("go")),
        (13, script("pw groupadd \"${moat_arg_NATS_GROUP}\"", &[("NATS_GROUP", "nats")])),
        (
            15,
            script(
                "pw useradd -n \"${moat_arg_NATS_USER}\" -g \"${moat_arg_NATS_GROUP}\" -s /usr/sbin/nologin -w no",
                &[("NATS_GROUP", "nats"), ("NATS_USER", "nats")],
            ),
        ),
        (
            18,
            script(
                "\"${moat_arg_GO}\" install \"github.com/nats-io/nats-server/v2@${moat_arg_NATS_VERSION}\"",
                &[("GO", "/usr/local/bin/go"), ("NATS_VERSION", "latest")],
            ),
        ),
        (
            19,
            script(
                "\"${moat_arg_INSTALL}\" -o \"${moat_arg_NATS_USER}\" -g \"${moat_arg_NATS_GROUP}\" \
                 \"${moat_arg_GOPATH}/bin/nats-server\" /usr/local/bin/nats-server",
                &[
                    ("GOPATH", "/root/go"),
                    ("INSTALL", "/usr/bin/install"),
                    ("NATS_GROUP", "nats"),
                    ("NATS_USER", "nats"),
                ],
            ),
        ),
        (
            21,
            Action::Copy {
                source: CopySource::Template { template: name.clone(), path: "usr".into() },
                contents: false,
                target: "/".into(),
                into: true,
            },
        ),
        (22, script("chmod a+x /usr/local/etc/rc.d/nats", &[])),
        (24, sysrc("nats_enable=YES")),
        (25, sysrc("nats_user=nats")),
        (26, sysrc("nats_group=nats")),
        (27, Action::Service { name: "nats".to_owned(), action: "start".to_owned() }),
    ];
    let found: Vec<_> = plan.steps.iter().map(|step| (step.line, step.action.clone())).collect();
    assert_eq!(found, expected);
    assert_eq!(plan.steps[3].text, "CMD pw useradd -n \"nats\" -g \"nats\" -s /usr/sbin/nologin -w no");
    assert!(plan.steps.iter().all(|step| step.origin == format!("{NAME}/Bastillefile")));
}

#[test]
fn what_verify_prints_of_the_seed() {
    let name = TemplateName::parse(NAME).unwrap();
    let found = verify(&name, &Shelf::default().with(NAME, SEED), &facts()).unwrap();
    let verbs: Vec<_> = found.hooks.iter().map(|hook| hook.verb.as_str()).collect();
    let expected = "PKG PKG ARG ARG ARG ARG ARG ARG CMD CMD CMD CMD CP CMD SYSRC SYSRC SYSRC SERVICE";
    assert_eq!(verbs.join(" "), expected);
    assert_eq!(found.hooks[8].text, "pw groupadd \"${NATS_GROUP}\"");
    assert_eq!((found.templates, found.needs, found.warnings), (vec![name], vec![], vec![]));
}
