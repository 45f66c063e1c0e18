//! What a group or a task offers, and how one sees that it works.

use std::time::Duration;

use moat_model::job::{Check, CheckKind, CheckRestart, ServiceSpec};

use crate::fields::{Absent, Fields};

const ABSENT: Absent = &[
    ("connect", "there is no service mesh"),
    ("id", "a service is known by its name and its allocation"),
    ("identity", "there is no Consul to prove it to"),
    ("cluster", "there is no Consul"),
    ("enable_tag_override", "tags are the job's"),
    ("tagged_addresses", "a service has the address of its port"),
    ("canary_meta", "canary_tags tell canaries apart"),
    ("on_update", "write on_update in the check"),
    ("kind", "there is no Consul"),
    ("weights", "all instances weigh the same"),
    ("address", "a service has the address of its port"),
];

const CHECK_ABSENT: Absent = &[
    ("success_before_passing", "one success is enough"),
    ("failures_before_critical", "check_restart { limit = … } counts failures"),
    ("failures_before_warning", "there is no state between passing and failing"),
    ("initial_status", "a check that has not run yet does not pass"),
    ("address_mode", "a check goes to the port of its service"),
    ("expose", "there is no service mesh"),
    ("grpc_service", "grpc checks do not exist here: use a tcp or script check"),
    ("grpc_use_tls", "grpc checks do not exist here: use a tcp or script check"),
    ("tls_server_name", "a check goes to the task itself: use tls_skip_verify"),
    ("notes", "comments of HCL begin with #"),
];

pub(super) fn services(fields: &Fields<'_>) -> Vec<ServiceSpec> {
    let mut services = Vec::new();
    for part in fields.blocks("service", 0) {
        let inner = Fields::of(&part, fields, "service", "service".to_owned());
        services.push(service(inner));
    }
    services
}

fn service(fields: Fields<'_>) -> ServiceSpec {
    // Nomad's own word for the group, or the task, it stands in.
    let name = fields.text("name").unwrap_or_else(|| "${NOMAD_JOB_NAME}-${NOMAD_GROUP_NAME}".to_owned());
    match fields.word("provider").as_deref() {
        None | Some("nomad" | "moat") => {}
        Some(other) => {
            let message = format!("provider {other:?} does not exist here");
            fields.refuse("provider", message, "leave it out: services are found in the cluster's own directory");
        }
    }
    if let Some(other) = fields.word("address_mode").filter(|mode| !["auto", "host"].contains(&mode.as_str())) {
        let message = format!("address_mode {other:?} does not exist here");
        fields.refuse("address_mode", message, "others reach a service at its port of the node: leave it out");
    }
    let mut task = fields.word("task");
    let restart = check_restart(&fields);
    let mut checks: Vec<Check> = Vec::new();
    for part in fields.blocks("check", 0) {
        let inner = Fields::of(&part, &fields, "check", "check".to_owned());
        if let Some(given) = inner.word("task") {
            match &task {
                Some(task) if *task != given => {
                    inner.refuse("task", "checks of one service belong to one task", "make another service of it");
                }
                _ => task = Some(given),
            }
        }
        checks.extend(check(inner, &name, checks.len(), restart));
    }
    let service = ServiceSpec {
        name,
        port: fields.word("port"),
        task,
        tags: fields.texts("tags").unwrap_or_default(),
        canary_tags: fields.texts("canary_tags").unwrap_or_default(),
        meta: fields.map("meta"),
        checks,
    };
    fields.finish(ABSENT);
    service
}

fn check(fields: Fields<'_>, service: &str, index: usize, shared: Option<CheckRestart>) -> Option<Check> {
    let kind = kind(&fields);
    let name = fields.text("name").unwrap_or_else(|| match index {
        0 => format!("service: {service:?} check"),
        more => format!("service: {service:?} check {}", more + 1),
    });
    let words = [("require_healthy", false), ("ignore", true)];
    let at_least_a_second = |name: &'static str| {
        let span = fields.needed(name, fields.span(name), "\"10s\"");
        if span.is_some_and(|span| span < Duration::from_secs(1)) {
            fields.refuse(name, format!("{name} is at least 1s"), "");
        }
        span.unwrap_or(Duration::from_secs(10))
    };
    let check = Check {
        name,
        interval: at_least_a_second("interval"),
        timeout: at_least_a_second("timeout"),
        port: fields.word("port"),
        restart: check_restart(&fields).or(shared),
        ignored_on_update: fields.choice("on_update", &words).unwrap_or(false),
        kind: kind?,
    };
    fields.finish(CHECK_ABSENT);
    Some(check)
}

fn kind(fields: &Fields<'_>) -> Option<CheckKind> {
    let kinds = [("tcp", "tcp"), ("http", "http"), ("script", "script")];
    let given = match fields.word("type") {
        Some(grpc) if grpc == "grpc" => {
            fields.refuse("type", "grpc checks do not exist here", "use a tcp check, or a script that asks");
            return None;
        }
        _ => {
            let kind = fields.choice("type", &kinds);
            fields.needed("type", kind, "\"tcp\", \"http\" or \"script\"")?
        }
    };
    let http = ["path", "protocol", "method", "body", "tls_skip_verify", "header"];
    let script = ["command", "args"];
    let foreign: &[&str] = match given {
        "tcp" => &["path", "protocol", "method", "body", "tls_skip_verify", "header", "command", "args"],
        "http" => &script,
        _ => &http,
    };
    for name in foreign.iter().filter(|name| fields.has(name)) {
        fields.refuse(name, format!("{name} means nothing in a {given} check"), "leave it out");
    }
    // Read in any case, so that they are known keys.
    let path = fields.text("path");
    let tls = fields.choice("protocol", &[("http", false), ("https", true)]);
    let (method, body) = (fields.word("method"), fields.text("body"));
    let (skip, headers) = (fields.flag("tls_skip_verify"), fields.lists("header"));
    let (command, args) = (fields.text("command"), fields.texts("args"));
    match given {
        "tcp" => Some(CheckKind::Tcp),
        "http" => {
            let path = fields.needed("path", path, "\"/health\"")?;
            if !path.starts_with('/') && !path.starts_with("${") {
                fields.refuse("path", format!("the path {path:?} does not begin with /"), "");
            }
            Some(CheckKind::Http {
                tls: tls.unwrap_or(false),
                tls_skip_verify: skip.unwrap_or(false),
                path,
                method: method.unwrap_or_else(|| "GET".to_owned()),
                headers,
                body,
            })
        }
        _ => {
            let command = fields.needed("command", command, "\"/bin/true\"")?;
            Some(CheckKind::Script { command, args: args.unwrap_or_default() })
        }
    }
}

fn check_restart(fields: &Fields<'_>) -> Option<CheckRestart> {
    let part = fields.block("check_restart")?;
    let inner = Fields::of(&part, fields, "check_restart", "check_restart".to_owned());
    let restart = CheckRestart {
        limit: inner.count("limit").unwrap_or(0),
        grace: inner.span("grace").unwrap_or(Duration::from_secs(1)),
    };
    inner.finish(&[("ignore_warnings", "there is no state between passing and failing: leave it out")]);
    // A limit of 0 switches it off.
    (restart.limit > 0).then_some(restart)
}
