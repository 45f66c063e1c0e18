//! Numbers by which instances are restarted, replaced, updated and moved. What a job says holds for its groups, key by key.

use std::time::Duration;

use moat_model::job::{
    DelayFunction, Disconnect, HealthCheck, JobType, Migrate, Reschedule, Restart, RestartMode, Update,
};

use crate::fields::{Absent, Fields};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

const HEALTH: [(&str, HealthCheck); 3] =
    [("checks", HealthCheck::Checks), ("task_states", HealthCheck::TaskStates), ("manual", HealthCheck::Manual)];

/// What a job says for all its groups.
pub(super) struct Shared {
    pub reschedule: Option<Reschedule>,
    pub update: Option<Update>,
    pub migrate: Option<Migrate>,
}

impl Shared {
    /// Nomad's defaults, under what the job says.
    pub fn read(fields: &Fields<'_>, kind: JobType) -> Self {
        let base = Self {
            reschedule: reschedule_default(kind),
            update: kind.is_long_running().then(update_default),
            migrate: (kind == JobType::Service).then(Migrate::default),
        };
        base.over(fields, kind)
    }

    /// The same with what a group says over it.
    pub fn over(&self, fields: &Fields<'_>, kind: JobType) -> Self {
        Self {
            reschedule: reschedule(fields, kind, self.reschedule),
            update: update(fields, kind, self.update),
            migrate: migrate(fields, kind, self.migrate),
        }
    }
}

pub(super) fn restart_default(kind: JobType) -> Restart {
    let (attempts, interval) = if kind.is_long_running() { (2, HOUR / 2) } else { (3, DAY) };
    Restart { attempts, interval, delay: Duration::from_secs(15), mode: RestartMode::Fail }
}

/// What `restart { … }` says, over what holds without it.
pub(super) fn restart(fields: &Fields<'_>, base: Restart) -> Option<Restart> {
    let part = fields.block("restart")?;
    let inner = Fields::of(&part, fields, "restart", "restart".to_owned());
    let modes = [("fail", RestartMode::Fail), ("delay", RestartMode::Delay)];
    let restart = Restart {
        attempts: inner.count("attempts").unwrap_or(base.attempts),
        interval: inner.span("interval").unwrap_or(base.interval),
        delay: inner.span("delay").unwrap_or(base.delay),
        mode: inner.choice("mode", &modes).unwrap_or(base.mode),
    };
    inner.finish(&[("render_templates", "templates are rendered at each start of a task anyway")]);
    Some(restart)
}

fn reschedule_default(kind: JobType) -> Option<Reschedule> {
    let service = Reschedule {
        attempts: 0,
        interval: Duration::ZERO,
        delay: Duration::from_secs(30),
        delay_function: DelayFunction::Exponential,
        max_delay: HOUR,
        unlimited: true,
    };
    match kind {
        JobType::Service => Some(service),
        JobType::Batch => Some(Reschedule {
            attempts: 1,
            interval: DAY,
            delay: Duration::from_secs(5),
            delay_function: DelayFunction::Constant,
            unlimited: false,
            ..service
        }),
        JobType::System | JobType::Sysbatch => None,
    }
}

fn reschedule(fields: &Fields<'_>, kind: JobType, base: Option<Reschedule>) -> Option<Reschedule> {
    let Some(part) = fields.block("reschedule") else { return base };
    let Some(base) = base else {
        let message = format!("reschedule means nothing in a {} job", kind.as_str());
        fields.refuse(
            "reschedule",
            message,
            "it has an instance on each node, which is no better on another: leave it out",
        );
        return None;
    };
    let inner = Fields::of(&part, fields, "reschedule", "reschedule".to_owned());
    let functions = [
        ("constant", DelayFunction::Constant),
        ("exponential", DelayFunction::Exponential),
        ("fibonacci", DelayFunction::Fibonacci),
    ];
    // Whoever counts attempts does not mean "for ever".
    let counted = inner.has("attempts") || inner.has("interval");
    let reschedule = Reschedule {
        unlimited: inner.flag("unlimited").unwrap_or(base.unlimited && !counted),
        attempts: inner.count("attempts").unwrap_or(base.attempts),
        interval: inner.span("interval").unwrap_or(base.interval),
        delay: inner.span("delay").unwrap_or(base.delay),
        delay_function: inner.choice("delay_function", &functions).unwrap_or(base.delay_function),
        max_delay: inner.span("max_delay").unwrap_or(base.max_delay),
    };
    inner.finish(&[]);
    Some(reschedule)
}

fn update_default() -> Update {
    Update {
        max_parallel: 1,
        health_check: HealthCheck::Checks,
        min_healthy_time: Duration::from_secs(10),
        healthy_deadline: Duration::from_secs(300),
        progress_deadline: Duration::from_secs(600),
        auto_revert: false,
        auto_promote: false,
        canary: 0,
    }
}

const UPDATE_ABSENT: Absent = &[("stagger", "waits between replacements follow from min_healthy_time: leave it out")];

/// `max_parallel = 0` switches deployments off: everything is replaced at once.
fn update(fields: &Fields<'_>, kind: JobType, base: Option<Update>) -> Option<Update> {
    let Some(part) = fields.block("update") else { return base };
    if !kind.is_long_running() {
        let message = format!("update means nothing in a {} job", kind.as_str());
        fields.refuse("update", message, "what runs to its end is not replaced while it runs: leave it out");
        return None;
    }
    let base = base.unwrap_or_else(update_default);
    let inner = Fields::of(&part, fields, "update", "update".to_owned());
    let update = Update {
        max_parallel: inner.count("max_parallel").unwrap_or(base.max_parallel),
        health_check: inner.choice("health_check", &HEALTH).unwrap_or(base.health_check),
        min_healthy_time: inner.span("min_healthy_time").unwrap_or(base.min_healthy_time),
        healthy_deadline: inner.span("healthy_deadline").unwrap_or(base.healthy_deadline),
        progress_deadline: inner.span("progress_deadline").unwrap_or(base.progress_deadline),
        auto_revert: inner.flag("auto_revert").unwrap_or(base.auto_revert),
        auto_promote: inner.flag("auto_promote").unwrap_or(base.auto_promote),
        canary: inner.count("canary").unwrap_or(base.canary),
    };
    if update.max_parallel == 0 && update.canary > 0 {
        inner.refuse("canary", "canaries need max_parallel of at least 1", "");
    }
    inner.finish(UPDATE_ABSENT);
    (update.max_parallel > 0).then_some(update)
}

fn migrate(fields: &Fields<'_>, kind: JobType, base: Option<Migrate>) -> Option<Migrate> {
    let Some(part) = fields.block("migrate") else { return base };
    if kind != JobType::Service {
        let message = format!("migrate means nothing in a {} job", kind.as_str());
        fields.refuse("migrate", message, "only services are moved one by one: leave it out");
        return None;
    }
    let base = base.unwrap_or_default();
    let inner = Fields::of(&part, fields, "migrate", "migrate".to_owned());
    let migrate = Migrate {
        max_parallel: inner.whole("max_parallel", 1, i64::from(u32::MAX)).unwrap_or(base.max_parallel),
        health_check: inner.choice("health_check", &HEALTH).unwrap_or(base.health_check),
        min_healthy_time: inner.span("min_healthy_time").unwrap_or(base.min_healthy_time),
        healthy_deadline: inner.span("healthy_deadline").unwrap_or(base.healthy_deadline),
    };
    inner.finish(&[]);
    Some(migrate)
}

const DISCONNECT_ABSENT: Absent = &[
    ("lost_after", "a node that is cut off is down after 9 s, and its instances are frozen before: leave it out"),
    ("reconcile", "the newer instance stays, for the older one was frozen: leave it out"),
];

pub(super) fn disconnect(fields: &Fields<'_>) -> Disconnect {
    // The older spelling of one of its keys.
    let old = fields.span("stop_after_client_disconnect");
    let base = Disconnect { stop_on_client_after: old, ..Disconnect::default() };
    let Some(part) = fields.block("disconnect") else { return base };
    let inner = Fields::of(&part, fields, "disconnect", "disconnect".to_owned());
    let after = inner.span("stop_on_client_after");
    if after.is_some() && old.is_some() {
        inner.refuse("stop_on_client_after", "stop_after_client_disconnect means the same", "give one of them");
    }
    let disconnect = Disconnect {
        replace: inner.flag("replace").unwrap_or(base.replace),
        stop_on_client_after: after.or(base.stop_on_client_after),
    };
    inner.finish(DISCONNECT_ABSENT);
    disconnect
}
