//! `driver` and `config { … }` of a task.

use moat_model::job::{TaskConfig, TaskDriver};

use crate::fields::{Absent, Fields};

/// Drivers of others, and what does the same here.
const OTHERS: &[(&str, &str)] = &[
    (
        "docker",
        "driver = \"exec\" with config { template = \"NAME\" } runs an image: `moat template create` makes NAME of it",
    ),
    (
        "podman",
        "driver = \"exec\" with config { template = \"NAME\" } runs an image: `moat template create` makes NAME of it",
    ),
    ("containerd-driver", "driver = \"exec\" with config { template = \"NAME\" } runs an image"),
    ("rkt", "driver = \"exec\" with config { template = \"NAME\" } runs an image"),
    ("lxc", "driver = \"exec\" with config { template = \"NAME\" } runs an image"),
    ("java", "driver = \"exec\" with command = \"/usr/bin/java\" and args = [\"-jar\", …]"),
    ("qemu", "driver = \"microvm\" runs a program in a machine of its own; images of disks do not run"),
    ("firecracker-task-driver", "driver = \"microvm\" runs a program in a machine of its own"),
    ("virt", "driver = \"microvm\" runs a program in a machine of its own"),
    ("exec2", "driver = \"exec\""),
    ("pledge", "driver = \"exec\""),
    ("nix", "driver = \"exec\" with the paths of the store in the node's chroot_env"),
    ("mock_driver", "driver = \"raw_exec\""),
];

const IMAGE: &str =
    "make a template of the image (`moat template create NAME --image …`) and write template = \"NAME\"";

const EXEC_ABSENT: Absent = &[
    ("image", IMAGE),
    ("ports", "name a port's task with a service; the only main task gets the others"),
    ("volumes", "volumes are asked for with volume { } in the group and volume_mount { } here"),
    ("mount", "volumes are asked for with volume { } in the group and volume_mount { } here"),
    ("privileged", "nothing runs privileged; cap_add asks for single capabilities"),
    ("network_mode", "the group's network { mode = … } says it"),
    ("cgroup_v1_override", "a sandbox is in a cgroup of its own, always"),
    ("cgroup_v2_override", "a sandbox is in a cgroup of its own, always"),
    ("oom_score_adj", "it is for raw_exec"),
    ("denied_envvars", "it is for raw_exec; a sandbox gets only what the operator's env_allowed lists"),
];

const RAW_ABSENT: Absent = &[
    ("cgroup_v1_override", "its cgroup is how a task is limited and killed whole: it is not given away"),
    ("cgroup_v2_override", "its cgroup is how a task is limited and killed whole: it is not given away"),
    ("template", "raw_exec runs on the bare host: use exec"),
    ("image", "raw_exec runs on the bare host: use exec with a template"),
    ("cap_add", "raw_exec has what its user has: use exec"),
    ("cap_drop", "raw_exec has what its user has: use exec"),
    ("pid_mode", "raw_exec sees the host's processes anyway"),
    ("ipc_mode", "raw_exec shares the host's IPC anyway"),
    ("cpu_hard_limit", "it is for exec"),
];

const MICROVM_ABSENT: Absent = &[
    ("image", IMAGE),
    ("image_path", "images of disks do not run: make a template, and write template = \"NAME\""),
    ("cap_add", "a machine has a kernel of its own: its root may do there what it likes"),
    ("cap_drop", "a machine has a kernel of its own"),
    ("pid_mode", "a machine has no processes of the host's"),
    ("ipc_mode", "a machine has no IPC of the host's"),
    ("oom_score_adj", "it is for raw_exec"),
    ("denied_envvars", "it is for raw_exec"),
    ("cpu_hard_limit", "a machine has as many CPUs as cores says, or the operator"),
];

pub(super) fn driver(fields: &Fields<'_>) -> Option<TaskDriver> {
    let given = fields.word("driver");
    let given = fields.needed("driver", given, "\"exec\"")?;
    let ours = [TaskDriver::Exec, TaskDriver::RawExec, TaskDriver::Microvm];
    if let Some(driver) = ours.into_iter().find(|driver| driver.as_str() == given) {
        return Some(driver);
    }
    let other = OTHERS.iter().find(|(name, _)| *name == given);
    let fix = other.map_or("there are exec, raw_exec and microvm", |(_, instead)| instead);
    fields.refuse("driver", format!("there is no driver {given:?}"), fix);
    None
}

pub(super) fn config(fields: &Fields<'_>, driver: TaskDriver) -> TaskConfig {
    // A config block looks like any other; `config = { … }` is the same.
    let Some(part) = fields.loose_block("config") else {
        fields.refuse("config", "config is missing", "write config { command = … }");
        return TaskConfig::default();
    };
    let inner = Fields::of(&part, fields, "config", "config".to_owned());
    let command = inner.text("command");
    let command = match driver {
        // An image may have a command of its own; its arguments are then its own, too.
        TaskDriver::Exec | TaskDriver::Microvm if inner.has("template") => command,
        _ => inner.needed("command", command, "\"/usr/bin/…\" or \"local/…\""),
    };
    let mut config = TaskConfig {
        command: command.unwrap_or_default(),
        args: inner.texts("args").unwrap_or_default(),
        work_dir: inner.text("work_dir"),
        ..TaskConfig::default()
    };
    if let Some(dir) = config.work_dir.as_ref().filter(|dir| !dir.starts_with('/') && !dir.starts_with("${")) {
        inner.refuse("work_dir", format!("work_dir {dir:?} is not an absolute path"), "");
    }
    match driver {
        TaskDriver::Exec => {
            exec(&inner, &mut config);
            inner.finish(EXEC_ABSENT);
        }
        TaskDriver::RawExec => {
            config.oom_score_adj = inner.whole("oom_score_adj", 0, 1000);
            config.denied_envvars = inner.words("denied_envvars").unwrap_or_default();
            inner.finish(RAW_ABSENT);
        }
        TaskDriver::Microvm => {
            config.template = inner.text("template");
            inner.finish(MICROVM_ABSENT);
        }
    }
    config
}

fn exec(fields: &Fields<'_>, config: &mut TaskConfig) {
    config.template = fields.text("template");
    let modes = [("private", false), ("host", true), ("", false)];
    config.host_pid = fields.choice("pid_mode", &modes).unwrap_or(false);
    config.host_ipc = fields.choice("ipc_mode", &modes).unwrap_or(false);
    config.cap_add = capabilities(fields, "cap_add");
    config.cap_drop = capabilities(fields, "cap_drop");
    config.cpu_hard_limit = fields.flag("cpu_hard_limit").unwrap_or(false);
}

/// Names in one spelling. Whether a kernel has them, and an operator allows them, a node knows.
fn capabilities(fields: &Fields<'_>, name: &'static str) -> Vec<String> {
    let given = fields.words(name).unwrap_or_default();
    let plain = |text: &String| {
        let lower = text.to_ascii_lowercase();
        lower.strip_prefix("cap_").map_or(lower.clone(), str::to_owned)
    };
    let names: Vec<String> = given.iter().map(plain).collect();
    let unknown: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "all" && !moat_model::capability::NAMES.contains(name))
        .collect();
    if !unknown.is_empty() {
        fields.refuse(name, format!("{name} names no capability of Linux: {}", unknown.join(", ")), "");
    }
    names
}
