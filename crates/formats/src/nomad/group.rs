//! `group "…" { … }`

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::job::{Disconnect, EphemeralDisk, JobType, Task, TaskGroup, VolumeRequest};

use super::policy::{self, Shared};
use super::{network, place, service, task};
use crate::fields::{Absent, Fields};

const ABSENT: Absent = &[
    ("scaling", "instances are counted by count alone"),
    ("vault", "there is no Vault: give secrets as variables, or with a template"),
    ("consul", "there is no Consul: services are found by their names in the cluster's own directory"),
    ("connect", "there is no service mesh"),
    ("max_client_disconnect", "write disconnect { replace = … } instead"),
    ("prevent_reschedule_on_lost", "write disconnect { replace = false } instead"),
    ("stop_on_client_after", "it stands in disconnect { }"),
    ("driver", "driver stands in a task"),
    ("config", "config stands in a task"),
    ("resources", "resources stands in a task"),
    ("artifact", "artifact stands in a task"),
    ("template", "template stands in a task"),
    ("env", "env stands in a task"),
];

const VOLUME_ABSENT: Absent = &[
    ("access_mode", "it is for volumes of CSI, which do not exist here"),
    ("attachment_mode", "it is for volumes of CSI, which do not exist here"),
    ("mount_options", "it is for volumes of CSI, which do not exist here"),
    ("per_alloc", "each instance sees the same directory: name others with a constraint, or another volume"),
    ("sticky", "a host volume belongs to its node: choose it with a constraint"),
];

pub(super) fn group(fields: Fields<'_>, name: &str, kind: JobType, shared: &Shared) -> TaskGroup {
    let shared = shared.over(&fields, kind);
    let base = policy::restart_default(kind);
    let restart = policy::restart(&fields, base).unwrap_or(base);
    let mut tasks = Vec::new();
    for part in fields.blocks("task", 1) {
        let inner = Fields::of(&part, &fields, "task", format!("task {:?}", part.label()));
        tasks.extend(task::task(inner, part.label(), restart));
    }
    let group = TaskGroup {
        name: name.to_owned(),
        count: fields.count("count").unwrap_or(1),
        constraints: place::constraints(&fields),
        affinities: place::affinities(&fields),
        spreads: place::spreads(&fields),
        volumes: volumes(&fields),
        restart,
        reschedule: shared.reschedule,
        update: shared.update,
        migrate: shared.migrate,
        disconnect: policy::disconnect(&fields),
        ephemeral_disk: disk(&fields),
        network: network::network(&fields),
        services: service::services(&fields),
        shutdown_delay: fields.span("shutdown_delay").unwrap_or_default(),
        max_run_duration: fields.span("max_run_duration"),
        meta: fields.map("meta"),
        tasks,
    };
    fields.finish(ABSENT);
    group
}

/// The group a task is that stands outside of any.
pub(super) fn around(task: Task, kind: JobType, shared: &Shared) -> TaskGroup {
    TaskGroup {
        name: task.name.clone(),
        count: 1,
        constraints: Vec::new(),
        affinities: Vec::new(),
        spreads: Vec::new(),
        volumes: BTreeMap::new(),
        restart: policy::restart_default(kind),
        reschedule: shared.reschedule,
        update: shared.update,
        migrate: shared.migrate,
        disconnect: Disconnect::default(),
        ephemeral_disk: EphemeralDisk::default(),
        network: None,
        services: Vec::new(),
        shutdown_delay: Duration::ZERO,
        max_run_duration: None,
        meta: BTreeMap::new(),
        tasks: vec![task],
    }
}

fn volumes(fields: &Fields<'_>) -> BTreeMap<String, VolumeRequest> {
    let mut volumes = BTreeMap::new();
    for part in fields.blocks("volume", 1) {
        let name = part.label();
        let inner = Fields::of(&part, fields, "volume", format!("volume {name:?}"));
        match inner.word("type").as_deref() {
            None | Some("host") => {}
            Some("csi") => {
                inner.refuse("type", "there are no CSI volumes", "write type = \"host\": the operator names a path")
            }
            Some(other) => inner.refuse("type", format!("{other:?} is not a type of volume"), "write type = \"host\""),
        }
        let source = inner.word("source");
        let source = inner.needed("source", source, "\"NAME\", the operator's name for it").unwrap_or_default();
        // Writing to a host's path is asked for in so many words.
        let read_only = inner.flag("read_only").unwrap_or(true);
        inner.finish(VOLUME_ABSENT);
        if volumes.insert(name.to_owned(), VolumeRequest { source, read_only }).is_some() {
            fields.refuse("volume", format!("the volume {name:?} is given twice"), "");
        }
    }
    volumes
}

fn disk(fields: &Fields<'_>) -> EphemeralDisk {
    let base = EphemeralDisk::default();
    let Some(part) = fields.block("ephemeral_disk") else { return base };
    let inner = Fields::of(&part, fields, "ephemeral_disk", "ephemeral_disk".to_owned());
    let disk = EphemeralDisk {
        size_mb: inner.whole("size", 10, i64::from(u32::MAX)).unwrap_or(base.size_mb),
        sticky: inner.flag("sticky").unwrap_or(base.sticky),
        migrate: inner.flag("migrate").unwrap_or(base.migrate),
    };
    if disk.migrate && !disk.sticky {
        inner.refuse("migrate", "migrate needs sticky", "write sticky = true, too");
    }
    inner.finish(&[]);
    disk
}
