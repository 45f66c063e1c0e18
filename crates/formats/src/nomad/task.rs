//! `task "…" { … }`

use std::time::Duration;

use moat_model::job::{Hook, Lifecycle, LogLimits, Restart, Task, TaskResources, VolumeMount};
use moat_model::spec::Signal;

use super::{config, content, place, policy, service};
use crate::fields::{Absent, Fields};

const ABSENT: Absent = &[
    ("vault", "there is no Vault: give secrets as variables, or with a template"),
    ("consul", "there is no Consul: services are found by their names in the cluster's own directory"),
    ("identity", "tasks have no identity to prove: give credentials as variables, or with a template"),
    ("secret", "give secrets as variables, or with a template"),
    ("action", "`moat alloc exec` runs programs inside a task"),
    ("schedule", "a periodic job is started by the clock"),
    ("csi_plugin", "there are no CSI volumes"),
    ("scaling", "instances are counted by count alone"),
    ("kind", "there is no service mesh"),
    ("count", "count stands in the group"),
    ("network", "network stands in the group"),
    ("volume", "volume stands in the group, volume_mount here"),
    ("command", "command stands in config { }"),
    ("args", "args stands in config { }"),
    ("memory", "memory stands in resources { }"),
    ("cpu", "cpu stands in resources { }"),
];

const RESOURCES_ABSENT: Absent = &[
    ("disk", "the group's ephemeral_disk { size = … } says it"),
    ("disk_mb", "the group's ephemeral_disk { size = … } says it"),
    ("network", "network { port … } stands in the group"),
    ("device", "devices are not given to tasks"),
    ("numa", "cores are taken as the kernel numbers them"),
    ("iops", "it has no effect in Nomad either: leave it out"),
];

/// A task; what its `restart` leaves out is the group's.
pub(super) fn task(fields: Fields<'_>, name: &str, group: Restart) -> Option<Task> {
    let driver = config::driver(&fields);
    // Without a driver nobody knows what config may hold.
    let config = driver.map(|driver| config::config(&fields, driver));
    if driver.is_none() {
        drop(fields.loose_block("config"));
    }
    let task = Task {
        name: name.to_owned(),
        driver: driver.unwrap_or(moat_model::job::TaskDriver::Exec),
        config: config.unwrap_or_default(),
        user: fields.text("user").filter(|user| !user.is_empty()),
        env: fields.map("env"),
        resources: resources(&fields),
        restart: policy::restart(&fields, group),
        kill_signal: fields.signal("kill_signal").unwrap_or(Signal::INT),
        kill_timeout: fields.span("kill_timeout").unwrap_or(Duration::from_secs(5)),
        shutdown_delay: fields.span("shutdown_delay").unwrap_or_default(),
        leader: fields.flag("leader").unwrap_or(false),
        lifecycle: lifecycle(&fields),
        logs: logs(&fields),
        artifacts: content::artifacts(&fields),
        templates: content::templates(&fields),
        volume_mounts: volume_mounts(&fields),
        constraints: place::constraints(&fields),
        affinities: place::affinities(&fields),
        services: service::services(&fields),
        meta: fields.map("meta"),
        dispatch_payload: dispatch_payload(&fields),
    };
    fields.finish(ABSENT);
    driver.map(|_| task)
}

fn resources(fields: &Fields<'_>) -> TaskResources {
    let base = TaskResources::default();
    let Some(part) = fields.block("resources") else { return base };
    let inner = Fields::of(&part, fields, "resources", "resources".to_owned());
    let cores = inner.count("cores").unwrap_or(0);
    let cpu = inner.count("cpu");
    if cores > 0 && cpu.is_some_and(|cpu| cpu > 0) {
        inner.refuse("cpu", "cpu and cores exclude each other", "cores are given whole: leave cpu out");
    }
    let memory = inner.count("memory").unwrap_or(base.memory_mb);
    // -1 is "no limit", 0 is "not given".
    let max: Option<i64> = inner.whole("memory_max", -1, i64::from(u32::MAX));
    let resources = TaskResources {
        cpu_mhz: if cores > 0 { 0 } else { cpu.unwrap_or(base.cpu_mhz) },
        cores,
        memory_mb: memory,
        memory_max_mb: max.filter(|max| *max != 0).map(|max| u32::try_from(max).unwrap_or(0)),
        secrets_mb: inner.count("secrets").filter(|secrets| *secrets > 0).unwrap_or(base.secrets_mb),
    };
    inner.finish(RESOURCES_ABSENT);
    resources
}

fn lifecycle(fields: &Fields<'_>) -> Option<Lifecycle> {
    let part = fields.block("lifecycle")?;
    let inner = Fields::of(&part, fields, "lifecycle", "lifecycle".to_owned());
    let hooks = [("prestart", Hook::Prestart), ("poststart", Hook::Poststart), ("poststop", Hook::Poststop)];
    let hook = inner.choice("hook", &hooks);
    let hook = inner.needed("hook", hook, "\"prestart\", \"poststart\" or \"poststop\"");
    let sidecar = inner.flag("sidecar").unwrap_or(false);
    if sidecar && hook == Some(Hook::Poststop) {
        inner.refuse("sidecar", "after all others are dead there is nothing to run beside", "leave sidecar out");
    }
    inner.finish(&[]);
    hook.map(|hook| Lifecycle { hook, sidecar })
}

fn logs(fields: &Fields<'_>) -> LogLimits {
    let base = LogLimits::default();
    let Some(part) = fields.block("logs") else { return base };
    let inner = Fields::of(&part, fields, "logs", "logs".to_owned());
    let logs = LogLimits {
        max_files: inner.whole("max_files", 1, 1000).unwrap_or(base.max_files),
        max_file_size_mb: inner.whole("max_file_size", 1, 10_240).unwrap_or(base.max_file_size_mb),
        disabled: inner.flag("disabled").unwrap_or(base.disabled),
    };
    inner.finish(&[
        ("enabled", "write disabled = true, or nothing"),
        ("destination", "logs are files, and are published over NATS"),
    ]);
    logs
}

fn volume_mounts(fields: &Fields<'_>) -> Vec<VolumeMount> {
    let mut mounts = Vec::new();
    for part in fields.blocks("volume_mount", 0) {
        let inner = Fields::of(&part, fields, "volume_mount", "volume_mount".to_owned());
        let volume = inner.word("volume");
        let destination = inner.text("destination");
        if let Some(other) = inner.word("propagation_mode").filter(|mode| mode != "private") {
            let message = format!("propagation_mode {other:?} would let mounts of the host in");
            inner.refuse("propagation_mode", message, "it is private, always: leave it out");
        }
        mounts.push(VolumeMount {
            volume: inner.needed("volume", volume, "\"NAME\", one of the group's volumes").unwrap_or_default(),
            destination: inner.needed("destination", destination, "\"/srv\"").unwrap_or_default(),
            read_only: inner.flag("read_only").unwrap_or(false),
        });
        inner.finish(&[("selinux_label", "there are no labels of SELinux")]);
    }
    mounts
}

fn dispatch_payload(fields: &Fields<'_>) -> Option<String> {
    let part = fields.block("dispatch_payload")?;
    let inner = Fields::of(&part, fields, "dispatch_payload", "dispatch_payload".to_owned());
    let file = inner.word("file");
    let file = inner.needed("file", file, "\"payload.json\"");
    inner.finish(&[]);
    file
}
