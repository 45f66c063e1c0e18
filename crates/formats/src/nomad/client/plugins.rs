//! `plugin "…" { config { … } }` and `options { … }`.

use super::limits::list;
use super::{ClientConfig, absent};
use crate::fields::Fields;

pub(super) fn plugins(fields: &Fields<'_>, config: &mut ClientConfig) {
    for part in fields.blocks("plugin", 1) {
        let name = part.label();
        let inner = Fields::of(&part, fields, "plugin", format!("plugin {name:?}"));
        let settings = inner.loose_block("config");
        match (name, &settings) {
            ("exec", Some(part)) => exec(Fields::of(part, &inner, "config", "plugin \"exec\"".to_owned()), config),
            ("raw_exec", Some(part)) => {
                raw_exec(Fields::of(part, &inner, "config", "plugin \"raw_exec\"".to_owned()), config);
            }
            ("exec" | "raw_exec", None) => {}
            (other, _) => {
                let message = format!("there is no driver {other:?} here");
                inner.warn(message, "its settings have no effect: jobs have exec, raw_exec and microvm");
                continue;
            }
        }
        inner.ignore(&[("args", "drivers are part of the node")]);
        inner.finish(&[]);
    }
}

fn exec(fields: Fields<'_>, config: &mut ClientConfig) {
    config.allow_caps = fields.words("allow_caps").map(|caps| {
        let plain = |cap: String| {
            let lower = cap.to_ascii_lowercase();
            lower.strip_prefix("cap_").map_or(lower.clone(), str::to_owned)
        };
        caps.into_iter().map(plain).collect()
    });
    denied(&fields, config);
    if fields.flag("no_pivot_root") == Some(true) {
        let fix = "roots are made ready on file systems that have it: leave it out";
        fields.refuse("no_pivot_root", "no_pivot_root is not supported", fix);
    }
    for (name, task) in [("default_pid_mode", "pid_mode"), ("default_ipc_mode", "ipc_mode")] {
        let modes = [("private", false), ("host", true), ("", false)];
        if fields.choice(name, &modes) == Some(true) {
            let fix = format!("a task asks for it: {task} = \"host\", and [jobs] host_pid or host_ipc allows it");
            fields.refuse(name, format!("{name} = \"host\" is not supported"), &fix);
        }
    }
    fields.finish(&[]);
}

fn raw_exec(fields: Fields<'_>, config: &mut ClientConfig) {
    config.raw_exec = fields.flag("enabled").or(config.raw_exec);
    denied(&fields, config);
    config.env_denied.extend(fields.words("denied_envvars").unwrap_or_default());
    fields.ignore(&[("no_cgroups", "each task has a cgroup of its own")]);
    fields.finish(&[]);
}

/// What one driver denies is denied to all: a node has one list.
fn denied(fields: &Fields<'_>, config: &mut ClientConfig) {
    for (name, ids) in [("denied_host_uids", &mut config.uids_denied), ("denied_host_gids", &mut config.gids_denied)] {
        let given = fields.word(name).map(|text| list(&text)).unwrap_or_default();
        for range in &given {
            if !is_range(range) {
                fields.refuse(name, format!("{range:?} is neither an id nor a range such as 0-999"), "");
            }
        }
        ids.extend(given.into_iter().filter(|range| is_range(range)));
    }
}

fn is_range(text: &str) -> bool {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
        (Ok(first), Ok(last)) => first <= last,
        _ => false,
    }
}

/// The client's `options`: texts by dotted names.
pub(super) fn options(fields: &Fields<'_>, config: &mut ClientConfig) {
    for (name, value) in fields.map("options") {
        match name.as_str() {
            "user.denylist" | "user.blacklist" => config.users_denied = Some(list(&value)),
            "env.denylist" | "env.blacklist" => config.env_denied.extend(list(&value)),
            "driver.allowlist" | "driver.whitelist" => config.drivers_allowed = Some(list(&value)),
            "driver.denylist" | "driver.blacklist" => config.drivers_denied.extend(list(&value)),
            "driver.raw_exec.enable" => {
                config.raw_exec = Some(matches!(value.as_str(), "1" | "true" | "t" | "T" | "TRUE" | "True"))
            }
            other => match absent::OPTIONS.iter().find(|(prefix, _)| other.starts_with(prefix)) {
                Some((_, why)) => fields.warn(format!("the option {other:?} has no meaning here"), why),
                None => {
                    let known =
                        "user.denylist, env.denylist, driver.allowlist, driver.denylist, driver.raw_exec.enable";
                    fields.refuse("options", format!("there is no option {other:?}"), &format!("there are {known}"));
                }
            },
        }
    }
}
