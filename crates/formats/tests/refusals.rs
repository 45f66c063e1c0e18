//! What is refused, and in which words: the snapshot is what users see.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

use std::fmt::Write as _;

use moat_formats::nomad::{client, parse};
use moat_formats::{Inputs, Nothing};

/// Compares with what was written down, without the source of the test beside it.
macro_rules! shown {
    ($text:expr) => {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!($text) })
    };
}

fn refused(text: &str) -> String {
    match parse("j.nomad", text, &Inputs::default(), &Nothing) {
        Ok(job) => panic!("{text}\nwas accepted: {job:?}"),
        Err(problems) => problems.to_string(),
    }
}

/// A task in a group in a job, with more in each.
fn with(job: &str, group: &str, task: &str) -> String {
    let driver = if task.contains("driver") { "" } else { "driver = \"exec\"\n" };
    let config = if task.contains("config") { "" } else { "config { command = \"local/x\" }\n" };
    format!("job \"j\" {{\n{job}\ngroup \"g\" {{\n{group}\ntask \"t\" {{\n{driver}{config}{task}\n}}\n}}\n}}\n")
}

fn table(rows: &[(&str, &str, &str)]) -> String {
    let mut out = String::new();
    for (job, group, task) in rows {
        let given: Vec<&str> = [*job, *group, *task].into_iter().filter(|text| !text.is_empty()).collect();
        let _ = writeln!(out, "### {}\n{}\n", given.join(" | ").replace('\n', " "), refused(&with(job, group, task)));
    }
    out
}

#[test]
fn rules_of_jobs() {
    shown!(table(&[
        ("priority = 101", "", ""),
        ("type = \"servise\"", "", ""),
        ("namespace = \"a b\"", "", ""),
        ("datacenters = []", "", ""),
        ("periodic { cron = \"0 3 * * *\" }", "", ""),
        ("type = \"batch\"\nperiodic { cron = \"whenever\" }", "", ""),
        ("type = \"batch\"\nperiodic {\ncron = \"@daily\"\ntime_zone = \"Mars/Olympus\"\n}", "", ""),
        ("type = \"batch\"\nperiodic { cron = \"@daily\" }\nparameterized {}", "", ""),
        ("type = \"batch\"\nparameterized {\nmeta_required = [\"a\"]\nmeta_optional = [\"a\"]\n}", "", ""),
        ("type = \"batch\"\nupdate { max_parallel = 1 }", "", ""),
        ("type = \"system\"\nreschedule { attempts = 1 }", "", ""),
        ("type = \"system\"\naffinity {\nattribute = \"${node.class}\"\nvalue = \"x\"\n}", "", ""),
        ("type = \"system\"", "count = 2", ""),
        ("", "count = 1001", ""),
        ("vault {}", "", ""),
        ("multiregion {}", "", ""),
        ("name = \"${NOMAD_ALLOC_ID}\"", "", ""),
        ("constraint { value = \"x\" }", "", ""),
        ("constraint {\nattribute = \"${attr.a}\"\noperator = \"like\"\nvalue = \"x\"\n}", "", ""),
        ("constraint {\nattribute = \"${attr.a}\"\noperator = \"regexp\"\nvalue = \"(\"\n}", "", ""),
        ("affinity {\nattribute = \"${attr.a}\"\nvalue = \"x\"\nweight = 0\n}", "", ""),
        (
            "spread {\nattribute = \"${attr.a}\"\ntarget \"a\" { percent = 60 }\ntarget \"b\" { percent = 60 }\n}",
            "",
            ""
        ),
        ("task \"t\" { driver = \"exec\" }\ngroup \"t\" {}", "", ""),
    ]));
}

#[test]
fn rules_of_groups() {
    shown!(table(&[
        ("", "count = \"${NOMAD_ALLOC_INDEX}\"", ""),
        ("", "cuont = 2", ""),
        ("", "count = -1", ""),
        ("", "restart { interval = \"4s\" }", ""),
        ("", "restart {\nattempts = 10\ndelay = \"1m\"\ninterval = \"5m\"\n}", ""),
        ("", "restart {\nattempts = 0\nmode = \"delay\"\n}", ""),
        ("", "restart { delay = 15 }", ""),
        ("", "reschedule { delay = \"1s\" }", ""),
        ("", "reschedule {\nattempts = 3\nunlimited = true\n}", ""),
        ("", "reschedule {\nattempts = 3\ninterval = \"1m\"\n}", ""),
        ("", "update {\nmin_healthy_time = \"5m\"\nhealthy_deadline = \"5m\"\n}", ""),
        ("", "update {\nhealthy_deadline = \"10m\"\n}", ""),
        ("", "update { auto_promote = true }", ""),
        ("", "update { stagger = \"30s\" }", ""),
        ("", "update { max_paralel = 1 }", ""),
        ("", "migrate { max_parallel = 0 }", ""),
        ("", "disconnect { lost_after = \"1m\" }", ""),
        ("", "ephemeral_disk { size = 5 }", ""),
        ("", "ephemeral_disk { migrate = true }", ""),
        ("", "max_run_duration = \"1h\"", ""),
        ("", "network { mode = \"host\" }", ""),
        ("", "network { mode = \"cni/x\" }", ""),
        ("", "network {\nmode = \"none\"\nport \"a\" {}\n}", ""),
        ("", "network {\nport \"a b\" {}\n}", ""),
        ("", "network {\nport \"a\" { static = 80 }\nport \"b\" { static = 80 }\n}", ""),
        ("", "network {\nport \"a\" { host_network = \"x\" }\n}", ""),
        ("", "network { port \"a\" {} }", ""),
        ("", "network {\ndns { servers = [\"1.1.1.1\"] }\n}", ""),
        ("", "network {\nport \"a\" {}\n}\ntask \"u\" {\ndriver = \"exec\"\nconfig { command = \"y\" }\n}", ""),
        ("", "volume \"v\" { type = \"csi\" }", ""),
        ("", "service {\nname = \"a b\"\n}", ""),
        ("", "service {\nport = \"http\"\n}", ""),
        ("", "service { provider = \"consul\" }", ""),
        ("", "service {\ncheck {\ntype = \"http\"\ninterval = \"10s\"\ntimeout = \"2s\"\n}\n}", ""),
        ("", "service {\nport = \"8080\"\ncheck {\ntype = \"tcp\"\ninterval = \"500ms\"\n}\n}", ""),
        ("", "service {\ncheck {\ntype = \"grpc\"\ninterval = \"10s\"\ntimeout = \"2s\"\n}\n}", ""),
        ("", "service {\ncheck {\ntype = \"tcp\"\ninterval = \"10s\"\ntimeout = \"2s\"\n}\n}", ""),
        ("", "task \"t\" {\ndriver = \"exec\"\nconfig { command = \"y\" }\n}", ""),
        ("", "task \"alloc\" {\ndriver = \"exec\"\nconfig { command = \"y\" }\n}", ""),
        ("", "task \"a/b\" {\ndriver = \"exec\"\nconfig { command = \"y\" }\n}", ""),
        ("", "scaling { max = 3 }", ""),
    ]));
}

#[test]
fn rules_of_tasks() {
    shown!(table(&[
        ("", "", "driver = \"docker\""),
        ("", "", "driver = \"jav\""),
        ("", "", "config { comand = \"x\" }"),
        ("", "", "config {\ncommand = \"x\"\nwork_dir = \"local\"\n}"),
        ("", "", "config {\ncommand = \"x\"\npid_mode = \"hots\"\n}"),
        ("", "", "config {\ncommand = \"x\"\ncap_add = [\"net_raww\"]\n}"),
        ("", "", "config {\ncommand = \"x\"\nimage = \"alpine\"\n}"),
        ("", "", "driver = \"raw_exec\"\nconfig {\ncommand = \"x\"\ncgroup_v2_override = \"/x\"\n}"),
        ("", "", "driver = \"raw_exec\"\nconfig {\ncommand = \"x\"\noom_score_adj = -5\n}"),
        ("", "", "driver = \"microvm\"\nconfig {\ncommand = \"x\"\ncap_add = [\"chown\"]\n}"),
        ("", "", "lifecycle { hook = \"prestart\" }"),
        ("", "", "lifecycle { hook = \"before\" }"),
        ("", "", "kill_signal = \"SIGFOO\""),
        ("", "", "kill_timeout = \"11m\""),
        ("", "", "kill_timeout = \"soon\""),
        ("", "", "resources {\ncpu = 100\ncores = 1\n}"),
        ("", "", "resources { memory = 9 }"),
        ("", "", "resources {\nmemory = 64\nmemory_max = 32\n}"),
        ("", "", "resources { disk = 100 }"),
        ("", "", "resources { device \"nvidia/gpu\" {} }"),
        ("", "", "logs { max_files = 0 }"),
        ("", "", "logs { max_files = 30 }"),
        ("", "", "artifact {}"),
        ("", "", "artifact { source = \"file:///etc/passwd\" }"),
        ("", "", "artifact {\nsource = \"http://x/y\"\ndestination = \"../../etc\"\n}"),
        ("", "", "artifact {\nsource = \"http://x/y\"\noptions { checksum = \"sha256:12\" }\n}"),
        ("", "", "artifact {\nsource = \"http://x/y\"\noptions { checksum = \"crc:12\" }\n}"),
        ("", "", "artifact {\nsource = \"http://x/y\"\nmode = \"zip\"\n}"),
        ("", "", "template { destination = \"local/a\" }"),
        ("", "", "template { data = \"x\" }"),
        ("", "", "template {\ndata = \"x\"\ndestination = \"local/a\"\nperms = \"9\"\n}"),
        ("", "", "template {\ndata = \"x\"\ndestination = \"../../a\"\n}"),
        (
            "",
            "",
            "template {\ndata = \"x\"\ndestination = \"local/a\"\n}\ntemplate {\ndata = \"y\"\ndestination = \"local/a\"\n}"
        ),
        (
            "",
            "",
            "template {\ndata = \"x\"\ndestination = \"local/a\"\nenv = true\nchange_mode = \"signal\"\nchange_signal = \"SIGHUP\"\n}"
        ),
        ("", "", "template {\ndata = \"x\"\ndestination = \"local/a\"\nchange_mode = \"script\"\n}"),
        ("", "", "volume_mount {\nvolume = \"v\"\ndestination = \"/srv\"\n}"),
        ("", "volume \"v\" { source = \"v\" }", "volume_mount {\nvolume = \"v\"\ndestination = \"/proc/x\"\n}"),
        (
            "",
            "volume \"v\" { source = \"v\" }",
            "driver = \"microvm\"\nvolume_mount {\nvolume = \"v\"\ndestination = \"/srv\"\n}"
        ),
        ("", "", "constraint { distinct_hosts = true }"),
        ("", "", "dispatch_payload { file = \"x\" }"),
        ("", "", "env = { \"A=B\" = \"x\" }"),
        ("", "", "vault { policies = [] }"),
        ("", "", "leader = true\n}\ntask \"u\" {\nleader = true\ndriver = \"exec\"\nconfig { command = \"y\" }"),
    ]));
}

#[test]
fn expressions() {
    let mut out = String::new();
    for text in [
        "meta = { a = var.x }",
        "meta = { a = local.x }",
        "meta = { a = foo }",
        "meta = { a = \"${FOO}\" }",
        "meta = { a = uper(\"x\") }",
        "meta = { a = upper(1, 2) }",
        "meta = { a = upper(\"${NOMAD_TASK_NAME}\") }",
        "meta = { a = 1 / 0 }",
        "meta = { a = 1 + \"x\" }",
        "meta = { a = [1][3] }",
        "meta = { a = { b = 1 }.c }",
        "meta = { a = \"${attr.a == \"b\" ? 1 : 2}\" }",
        "meta = { a = file(\"/etc/shadow\") }",
        "meta = { a = yamldecode(\"a\") }",
        "meta = { a = \"x${[1]}\" }",
        "priority = null + 1",
        "dynamic \"group\" { for_each = [1] }",
        "dynamic \"group\" {\nfor_each = [1]\nlabels = [\"a\"]\nname = \"x\"\n}",
        "meta = { a = \"unfinished }",
        "meta {",
    ] {
        let _ = writeln!(out, "### {text}\n{}\n", refused(&with(text, "", "")));
    }
    shown!(out);
}

#[test]
fn files() {
    let mut out = String::new();
    let two = with("", "", "") + &with("", "", "");
    for text in [
        "",
        "locals { a = 1 }",
        "job \"a/b\" {}",
        "job {}",
        "job \"a\" {}",
        "group \"a\" {}\ngroup \"b\" {}",
        "job \"a\" { group \"g\" {} }",
        "variable \"x\" {}\njob \"a\" {}",
        "variable \"x\" {\ntype = strng\n}",
        "variable \"x\" {\ntype = number\ndefault = \"y\"\n}",
        "variable \"x\" {\ndefault = 1\nvalidation {\ncondition = var.x > 5\nerror_message = \"x is too small\"\n}\n}",
        "locals {\na = local.b\nb = local.a\n}\njob \"j\" { meta = { a = local.a } }",
        "{\"job\": 3}",
        "{\"job\": {\"j\": {\"nmae\": \"x\"}}}",
        "{\"a\": 1, \"a\": 2}",
        "{\"Job\": {\"ID\": \"j\", \"Nmae\": \"x\", \"Multiregion\": {\"A\": 1}}}",
        two.as_str(),
    ] {
        let _ = writeln!(out, "### {}\n{}\n", text.replace('\n', " "), refused(text));
    }
    shown!(out);
}

#[test]
fn all_problems_of_a_file_are_shown_together_and_bounded() {
    let text = with("prioriti = 1", "cuont = 1", "drivr = \"exec\"\nkill_timeout = \"x\"");
    let problems = parse("j", &text, &Inputs::default(), &Nothing).unwrap_err();
    assert_eq!(problems.problems.len(), 4, "{problems}");
    let lines: Vec<usize> = problems.problems.iter().map(|problem| problem.line).collect();
    assert!(lines.is_sorted());
    let many: String = (0..100).map(|n| format!("key{n} = {n}\n")).collect();
    let problems = parse("j", &with(&many, "", ""), &Inputs::default(), &Nothing).unwrap_err();
    assert_eq!((problems.problems.len(), problems.left_out), (20, 80));
}

#[test]
fn clients() {
    let mut out = String::new();
    for text in [
        "client { enabeld = true }",
        "client { options { \"user.denylst\" = \"root\" } }",
        "client { max_kill_timeout = \"x\" }",
        "client { artifact { disable_filesystem_isolation = true } }",
        "client { host_volume \"a\" {} }",
        "client { chroot_env { \"/a\" = [1] } }",
        "plugin \"exec\" { config { default_pid_mode = \"host\" } }",
        "plugin \"exec\" { config { denied_host_uids = \"5-1\" } }",
        "client {",
        "client = 5",
    ] {
        let message = client::parse("client.hcl", text).map(|config| panic!("{config:?}")).unwrap_err();
        let _ = writeln!(out, "### {text}\n{message}\n");
    }
    let warned = "server { enabled = true }\nplugin \"docker\" { config {} }\nclient { servers = [\"a\"] }\nlog_level = \"DEBUG\"";
    for warning in client::parse("client.hcl", warned).unwrap().warnings {
        let _ = writeln!(out, "warning: {warning}\n");
    }
    shown!(out);
}
