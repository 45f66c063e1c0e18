//! Every verb, in every way it is written.

use moat_formats::bastille::Args;
use moat_model::jail::steps::{Action, CopySource};
use moat_model::jail::{JailLimit, JailMount, MountKind, Redirect, Tag, TemplateName};
use moat_model::network::Protocol;

use super::{Shelf, actions, only, planned, refused};

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn one(text: &str) -> Action {
    let mut actions = actions(text);
    assert_eq!(actions.len(), 1, "{text}");
    actions.pop().unwrap()
}

#[test]
fn b02_commands_packages_and_services() {
    let script = "cd /tmp && echo \"$HOME ${UNKNOWN:-x} $(id -u)\" | tee `hostname` > out # said";
    assert_eq!(one(&format!("CMD {script}")), Action::Cmd { script: script.to_owned() });
    assert_eq!(one("PKG git go \"vim\""), Action::Pkg { packages: texts(&["git", "go", "vim"]) });
    assert_eq!(one("SERVICE nginx start"), Action::Service { name: "nginx".to_owned(), action: "start".to_owned() });
    assert_eq!(one("SYSRC a=b c+=\"d e\""), Action::Sysrc { args: texts(&["a=b", "c+=d e"]) });
    assert_eq!(one("SYSRC -f /etc/x.conf a=b"), Action::Sysrc { args: texts(&["-f", "/etc/x.conf", "a=b"]) });
    assert_eq!(one("SYSRC -x a"), Action::Sysrc { args: texts(&["-x", "a"]) });
    assert_eq!(actions("START\nSTOP\nRESTART"), [Action::Start, Action::Stop, Action::Restart]);
}

#[test]
fn b02_verbs_in_any_case() {
    for text in ["pkg git", "Pkg git", "  PKG git", "\tpKg\t git  "] {
        assert_eq!(one(text), Action::Pkg { packages: texts(&["git"]) }, "{text:?}");
    }
}

#[test]
fn b02_copies() {
    let template = TemplateName::parse("t/t").unwrap();
    let own = |path: &str| CopySource::Template { template: template.clone(), path: path.into() };
    let copy = |source, contents, target: &str, into| Action::Copy { source, contents, target: target.into(), into };
    let shelf = |text: &str| Shelf::of(text).file("usr").file("a b").file("etc/x.conf");
    for (text, expected) in [
        ("CP usr /", vec![copy(own("usr"), false, "/", true)]),
        ("COPY usr/ /usr/local", vec![copy(own("usr"), true, "/usr/local", false)]),
        ("CP \"usr\" \"/\"", vec![copy(own("usr"), false, "/", true)]),
        ("CP 'a b' \"/c d\"", vec![copy(own("a b"), false, "/c d", false)]),
        ("CP a\\ b etc/", vec![copy(own("a b"), false, "/etc", true)]),
        ("cp ./etc//x.conf /etc/x.conf", vec![copy(own("etc/x.conf"), false, "/etc/x.conf", false)]),
        ("CP /srv/file /root", vec![copy(CopySource::Host("/srv/file".into()), false, "/root", false)]),
        ("CP \"/srv/a b\" /root", vec![copy(CopySource::Host("/srv/a b".into()), false, "/root", false)]),
        ("CP . /", vec![copy(own(""), true, "/", true)]),
        ("OVERLAY usr", vec![copy(own("usr"), false, "/", true)]),
        ("CP usr 'a b' /x", vec![copy(own("usr"), false, "/x", true), copy(own("a b"), false, "/x", true)]),
    ] {
        let plan = planned(&shelf(text), &Args::default());
        let found: Vec<_> = plan.steps.into_iter().map(|step| step.action).collect();
        assert_eq!(found, expected, "{text}");
    }
    for (text, place) in [
        ("CP usr", (1, 1, 2)),
        ("CP missing /", (1, 4, 7)),
        ("CP ../x /", (1, 4, 4)),
        ("CP /srv/x /a/../../b", (1, 11, 10)),
        ("CP *.conf /etc", (1, 4, 6)),
        ("CP \"\" /etc", (1, 4, 2)),
        ("OVERLAY", (1, 1, 7)),
    ] {
        assert_eq!(only(text).0, place, "{text}");
    }
}

#[test]
fn b02_lines_and_renders() {
    let expected = Action::LineInFile { line: "a  \"b\" $c".to_owned(), path: "/etc/x y".into() };
    for verb in ["LINE_IN_FILE", "LIF", "LINEINFILE", "lif"] {
        assert_eq!(one(&format!("{verb} \"a  \\\"b\\\" \\$c\" '/etc/x y'")), expected);
    }
    let Action::Render { path, values } = &actions("ARG A=1\nRENDER /etc/x\nARG B=2")[0] else { panic!("a render") };
    assert_eq!(path.to_str(), Some("/etc/x"));
    let expected = [("JAIL_NAME", "web"), ("JAIL_IP", "10.0.0.1"), ("JAIL_IP6", ""), ("A", "1")];
    assert_eq!(*values, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Without an ARG the built-in names are filled in.
    let plan = planned(&Shelf::of("RENDER /etc"), &Args::default());
    assert!(matches!(&plan.steps[0].action, Action::Render { values, .. } if values.len() == 3));
    for text in
        ["LIF a", "LIF a b c", "LIF '' /x", "LIF a /x/", "RENDER", "RENDER / ", "RENDER /a /b", "RENDER /a/../.."]
    {
        refused(text);
    }
}

#[test]
fn b02_mounts_and_redirects() {
    let mount = |read_only| {
        Action::Mount(JailMount { kind: MountKind::Host("/srv/a b".into()), target: "/mnt".into(), read_only })
    };
    assert_eq!(one("MOUNT '/srv/a b' /mnt"), mount(true));
    assert_eq!(one("FSTAB \"/srv/a b\" mnt nullfs rw 0 0"), mount(false));
    assert_eq!(one("UMOUNT /mnt"), Action::Unmount { target: "/mnt".into() });
    assert_eq!(only("MOUNT tmpfs /tmp tmpfs rw 0 0").0, (1, 18, 5));
    let redirect = Redirect { protocol: Protocol::Tcp, host_address: None, host_port: 8080, port: 80, count: 1 };
    let everywhere = Redirect { host_address: Some([0, 0, 0, 0].into()), ..redirect };
    for (text, asked) in [
        ("RDR tcp 8080 80", redirect),
        ("RDR dual any any any tcp 8080 80", everywhere),
        ("RDR -t ipv4 -s any -d any tcp 8080 80", everywhere),
    ] {
        assert_eq!(one(text), Action::Redirect(asked), "{text}");
    }
    assert_eq!(one("RDR reset"), Action::Unredirect);
    for (text, place) in [
        ("RDR tcp 0 80", (1, 9, 1)),
        ("RDR tcp 80 80 log", (1, 15, 3)),
        ("RDR ipv4 em0 any any tcp 80 80", (1, 10, 3)),
        ("RDR -x 1 tcp 80 80", (1, 5, 2)),
        ("RDR tcp 80", (1, 1, 3)),
    ] {
        assert_eq!(only(text).0, place, "{text}");
    }
}

#[test]
fn b02_limits_tags_and_properties() {
    let limit = |resource: &str, value: &str| {
        Action::Limit(JailLimit { resource: resource.to_owned(), value: value.to_owned() })
    };
    assert_eq!(one("LIMITS memoryuse 1G"), limit("memoryuse", "1G"));
    assert_eq!(one("LIMITS add maxproc 100"), limit("maxproc", "100"));
    assert_eq!(one("LIMITS remove maxproc"), Action::Unlimit { resource: Some("maxproc".to_owned()) });
    assert_eq!(one("LIMITS reset"), Action::Unlimit { resource: None });
    assert_eq!(only("LIMITS wallclock 5").0, (1, 8, 9));
    assert_eq!(only("LIMITS memoryuse lots").0, (1, 18, 4));
    let tags = |names: &[&str]| names.iter().map(|name| Tag::parse(name).unwrap()).collect();
    for text in ["TAGS a b", "TAG a,b", "TAGS add a,b"] {
        assert_eq!(one(text), Action::Tags { tags: tags(&["a", "b"]) }, "{text}");
    }
    assert_eq!(one("TAGS delete a"), Action::Untag { tags: tags(&["a"]) });
    let services = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(one("MONITOR add nginx,db"), Action::Watch { services: services(&["nginx", "db"]) });
    assert_eq!(one("MONITOR delete db"), Action::Unwatch { services: services(&["db"]) });
    let config = |property: &str, value: Option<&str>| Action::Config {
        property: property.to_owned(),
        value: value.map(str::to_owned),
    };
    assert_eq!(one("CONFIG set priority 10"), config("priority", Some("10")));
    assert_eq!(one("CONFIG set boot=off"), config("boot", Some("off")));
    assert_eq!(one("CONFIG set depend \"a b\""), config("depend", Some("a b")));
    assert_eq!(one("CONFIG remove boot"), config("boot", None));
    // What holds for every jail needs no step, and is said.
    let plan = planned(&Shelf::of("CONFIG set sysvshm new\nCONFIG set allow.sysvipc\nRESTART"), &Args::default());
    assert_eq!((plan.steps.len(), plan.warnings.len()), (1, 2));
    for (text, place) in [
        ("CONFIG set allow.raw_sockets 1", (1, 12, 17)),
        ("CONFIG set priority high", (1, 12, 8)),
        ("CONFIG set nonsense 1", (1, 12, 8)),
        ("CONFIG get boot", (1, 8, 3)),
        ("CONFIG boot off", (1, 8, 4)),
        ("CONFIG", (1, 1, 6)),
    ] {
        assert_eq!(only(text).0, place, "{text}");
    }
}

#[test]
fn b02_what_is_not_there_is_refused_by_name() {
    for verb in [
        "HPKG",
        "NETWORK",
        "ZFS",
        "CREATE",
        "DESTROY",
        "CLONE",
        "RENAME",
        "EXPORT",
        "IMPORT",
        "MIGRATE",
        "CONSOLE",
        "TOP",
        "HTOP",
        "EDIT",
        "JCP",
        "RCP",
        "BOOTSTRAP",
        "SETUP",
        "UPDATE",
        "UPGRADE",
        "ETCUPDATE",
        "CONVERT",
        "LIST",
        "LOGS",
        "VERIFY",
        "PLUGIN",
        "UP",
        "PF",
        "PRE",
        "TARGET",
    ] {
        let (place, said) = only(&format!("PKG git\n  {} x y", verb.to_lowercase()));
        assert_eq!(place, (2, 3, verb.len()), "{verb}");
        assert!(said.starts_with(&format!("{verb} is no verb of templates here = ")) && said.len() > 50, "{said}");
    }
    assert!(only("HPKG git").1.contains("PKG installs"));
    assert!(only("SERVCE nginx start").1.contains("did you mean SERVICE?"));
    assert!(only("nonsense").1.contains("begins with a verb"));
}

#[test]
fn b02_words_a_verb_does_not_take() {
    for text in [
        "RESTART now",
        "CMD",
        "CMD   ",
        "PKG",
        "PKG -y git",
        "PKG \"git go\"",
        "SERVICE nginx",
        "SERVICE nginx start now",
        "SERVICE ../x start",
        "SERVICE -v start",
        "SYSRC",
        "SYSRC name",
        "SYSRC 'a b=c'",
        "SYSRC -R / a=b",
        "TAGS",
        "TAGS a/b",
        "MONITOR add",
        "MONITOR list x",
        "LIMITS memoryuse",
        "LIMITS clear",
        "RDR clear",
        "RDR list",
        "UMOUNT",
        "ARG",
        "ARG A B",
        "ARG 1A=2",
        "ARG A-B=2",
        "ARG JAIL_NAME=x",
        "ARG A=1\nARG A=2",
        "INCLUDE",
        "INCLUDE one",
        "INCLUDE ../t",
    ] {
        only(text);
    }
    assert!(refused("INCLUDE t/x --other").to_string().contains("INCLUDE takes no \"--other\""));
}

#[test]
fn b02_all_problems_are_shown_at_their_lines() {
    let problems = refused("PKG git\n\nNOPE\nSERVICE x\nCMD ok\nRDR tcp a 80\n");
    let lines: Vec<_> = problems.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [3, 4, 6]);
    let text = problems.to_string();
    assert!(
        text.contains("t/t/Bastillefile:6:9: \"a\" is no port") && text.contains(" 6 | RDR tcp a 80\n   |         ^"),
        "{text}"
    );
    assert!(refused("\n# nothing\n").to_string().contains("says nothing"));
}
