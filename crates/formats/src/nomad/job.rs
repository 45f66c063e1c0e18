//! `job "…" { … }`

use moat_model::job::{Job, JobType, Parameterized, Payload, Periodic, TaskGroup};
use moat_model::{JobId, Namespace};

use super::policy::{self, Shared};
use super::{group, place, task};
use crate::fields::{Absent, Fields, Part};

const ABSENT: Absent = &[
    ("vault", "there is no Vault: give secrets as variables, or with a template"),
    ("consul", "there is no Consul: services are found by their names in the cluster's own directory"),
    ("multiregion", "one NATS system is one region: run the job in each"),
    ("ui", "there is nothing to show it in; meta { } holds free values"),
    ("scaling", "instances are counted by count alone"),
    ("vault_token", "there is no Vault"),
    ("consul_token", "there is no Consul"),
    ("restart", "restart stands in a group or a task"),
    ("network", "network stands in a group"),
    ("service", "service stands in a group or a task"),
    ("volume", "volume stands in a group"),
    ("ephemeral_disk", "ephemeral_disk stands in a group"),
    ("disconnect", "disconnect stands in a group"),
];

pub(super) const TYPES: [(&str, JobType); 4] = [
    ("service", JobType::Service),
    ("batch", JobType::Batch),
    ("system", JobType::System),
    ("sysbatch", JobType::Sysbatch),
];

pub(super) fn job(fields: Fields<'_>, part: &Part<'_>) -> Option<Job> {
    let job = read(&fields, part);
    fields.finish(ABSENT);
    job
}

fn read(fields: &Fields<'_>, part: &Part<'_>) -> Option<Job> {
    let label = part.label();
    // Some old files give the id again.
    let id = fields.word("id").unwrap_or_else(|| label.to_owned());
    let id = match JobId::parse(&id) {
        Ok(id) if id.as_str().contains('/') => {
            fields.refuse("", format!("{id:?} is not a name of a job: '/' is for the children of one"), "");
            None
        }
        Ok(id) => Some(id),
        Err(error) => {
            fields.refuse("", error, "");
            None
        }
    };
    let kind = fields.choice("type", &TYPES).unwrap_or(JobType::Service);
    let namespace = match fields.word("namespace").map(|text| Namespace::parse(&text)) {
        None => Namespace::default_namespace(),
        Some(Ok(namespace)) => namespace,
        Some(Err(error)) => {
            fields.refuse("namespace", error, "");
            Namespace::default_namespace()
        }
    };
    let shared = Shared::read(fields, kind);
    let groups = groups(fields, kind, &shared);
    let job = Job {
        name: fields.word("name").unwrap_or_else(|| label.to_owned()),
        id: id?,
        namespace,
        region: fields.word("region").unwrap_or_else(|| "global".to_owned()),
        kind,
        priority: fields.whole("priority", 1, 100).unwrap_or(50),
        all_at_once: fields.flag("all_at_once").unwrap_or(false),
        datacenters: fields.words("datacenters").unwrap_or_else(|| vec!["*".to_owned()]),
        node_pool: fields.word("node_pool").unwrap_or_else(|| "default".to_owned()),
        constraints: place::constraints(fields),
        affinities: place::affinities(fields),
        spreads: place::spreads(fields),
        periodic: periodic(fields),
        parameterized: parameterized(fields),
        meta: fields.map("meta"),
        groups,
        parent: None,
        payload: None,
    };
    Some(job)
}

fn groups(fields: &Fields<'_>, kind: JobType, shared: &Shared) -> Vec<TaskGroup> {
    let mut groups = Vec::new();
    for part in fields.blocks("group", 1) {
        let inner = Fields::of(&part, fields, "group", format!("group {:?}", part.label()));
        groups.push(group::group(inner, part.label(), kind, shared));
    }
    // A task outside any group is a group of its own.
    for part in fields.blocks("task", 1) {
        let name = part.label();
        let inner = Fields::of(&part, fields, "task", format!("task {name:?}"));
        let base = policy::restart_default(kind);
        groups.extend(task::task(inner, name, base).map(|task| group::around(task, kind, shared)));
    }
    groups
}

fn periodic(fields: &Fields<'_>) -> Option<Periodic> {
    let part = fields.block("periodic")?;
    let inner = Fields::of(&part, fields, "periodic", "periodic".to_owned());
    let crons = match (inner.word("cron"), inner.words("crons")) {
        (Some(_), Some(_)) => {
            inner.refuse("cron", "cron and crons exclude each other", "put all of them into crons = [ ]");
            Vec::new()
        }
        (Some(cron), None) => vec![cron],
        (None, crons) => crons.unwrap_or_default(),
    };
    let periodic = Periodic {
        crons,
        prohibit_overlap: inner.flag("prohibit_overlap").unwrap_or(false),
        time_zone: inner.word("time_zone").unwrap_or_else(|| "UTC".to_owned()),
        enabled: inner.flag("enabled").unwrap_or(true),
    };
    inner.finish(&[]);
    Some(periodic)
}

fn parameterized(fields: &Fields<'_>) -> Option<Parameterized> {
    let part = fields.block("parameterized")?;
    let inner = Fields::of(&part, fields, "parameterized", "parameterized".to_owned());
    let payloads =
        [("optional", Payload::Optional), ("required", Payload::Required), ("forbidden", Payload::Forbidden)];
    let parameterized = Parameterized {
        payload: inner.choice("payload", &payloads).unwrap_or(Payload::Optional),
        meta_required: inner.words("meta_required").unwrap_or_default(),
        meta_optional: inner.words("meta_optional").unwrap_or_default(),
    };
    inner.finish(&[]);
    Some(parameterized)
}
