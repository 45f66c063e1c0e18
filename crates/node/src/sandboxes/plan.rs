//! From a request to what the engine is asked for.

use std::sync::Arc;
use std::time::Duration;

use moat_api::rest::sandbox::{CreateSandbox, OnTimeout, ResourceLimits, SecurityOptions};
use moat_api::rest::template::TemplateDefaults;
use moat_image::store::Pin;
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{
    self, ClaimSpec, IngressSpec, Origin, Owner, ProcessDefaults, Resources, RootSpec, Security, Signal, StopSpec,
};
use moat_model::{ErrorKind, Isolation, Namespace, ProcessSpec, SandboxSpec};

use crate::config::SandboxesConfig;
use crate::error::{Error, Result};
use crate::templates::Resolved;

use super::machines::{self, Machine, MachineRecord};
use super::{Sandboxes, checks, limits};

/// A year, in seconds: a longer span is a mistake in the unit.
pub(super) const TIMEOUT_SEC_MAX: u64 = 31_536_000;

/// What will be made.
#[derive(Debug)]
pub(super) struct Plan {
    pub spec: SandboxSpec,
    /// Keep the layers until the sandbox is recorded.
    pub pins: Vec<Pin>,
    /// The machine it is made of, until it has started.
    pub machine: Option<Arc<Machine>>,
}

impl Sandboxes {
    /// Checks everything that can be checked before anything is made.
    pub(super) async fn plan(&self, namespace: &Namespace, request: &CreateSandbox) -> Result<Plan> {
        check(request)?;
        let asked = self.isolation(request.isolation.as_deref())?;
        let kept = self.kept_machine(namespace, request, asked)?;
        // What was kept as a machine is one again.
        let isolation = if kept.is_some() { Isolation::Microvm } else { asked };
        let base = &self.shared.base;
        let given = match &kept {
            Some((machine, _)) => base.engine.offer_of(&machine.driver).map(|offer| offer.isolation),
            None => Some(base.engine.offer(isolation)?.isolation),
        };
        let network = self.network_of(request, isolation, kept.as_ref().map(|(machine, _)| machine))?;
        self.check_name(namespace, None, &network)?;
        if request.proxy.public && isolation == Isolation::Process {
            let why = "proxy.public: isolation process has only the host's ports, which the proxy does not reach";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let limits = limits::parse("resources", &request.resources)?;
        let timeout = timeout(&self.shared.base.config, request.timeout_sec)?;
        let idle_timeout = span("idle_timeout_sec", request.idle_timeout_sec)?;
        let made_of = self.made_of(namespace, request).await?;
        let resources = match &kept {
            Some((machine, _)) => machine.resources.clone(),
            None => self.resources(limits, &made_of.resources, given == Some(Isolation::Microvm))?,
        };
        let main = match &kept {
            Some((machine, _)) => machine.main.clone(),
            None => main_process(request, &made_of.defaults)?,
        };
        let spec = SandboxSpec {
            labels: request.metadata.clone(),
            main,
            restore: kept.as_ref().map(|(_, machine)| machine.restore()),
            stop: stop(&made_of.defaults),
            resources,
            security: security_of(request, kept.as_ref().map(|(machine, _)| machine))?,
            network,
            ingress: IngressSpec { public: request.proxy.public },
            timeout,
            idle_timeout,
            on_timeout: on_timeout(request.on_timeout),
            process: process(request, &made_of.defaults),
            origin: Origin {
                owner: Owner::Api,
                template: made_of.template,
                image: made_of.image,
                parent: None,
                from_pool: false,
            },
            ..SandboxSpec::new(namespace.clone(), isolation, made_of.root)
        };
        Ok(Plan { spec, pins: made_of.pins, machine: kept.map(|(_, machine)| machine) })
    }

    /// The machine that goes on in what is asked for, if it is made of one.
    fn kept_machine(
        &self,
        namespace: &Namespace,
        request: &CreateSandbox,
        asked: Isolation,
    ) -> Result<Option<(MachineRecord, Arc<Machine>)>> {
        let (None, None, Some(snapshot)) = (&request.template, &request.image, &request.snapshot) else {
            return Ok(None);
        };
        let Some((record, machine)) = self.shared.snapshots.resolve(namespace, snapshot)?.machine else {
            return Ok(None);
        };
        machines::fits(request, asked, &record)?;
        Ok(Some((record, machine)))
    }

    /// The network asked for. What goes on from a snapshot has the one it had, and never comes to a link or loses one.
    fn network_of(
        &self,
        request: &CreateSandbox,
        isolation: Isolation,
        kept: Option<&MachineRecord>,
    ) -> Result<NetworkSpec> {
        let networks = &self.shared.base.networks;
        let Some(kept) = kept else { return networks.plan(request.network.as_ref(), isolation) };
        let network = match &request.network {
            None => networks.again(&kept.network)?,
            Some(wish) => networks.plan(Some(wish), isolation)?,
        };
        if network.is_wired() != kept.network.is_wired() {
            let had = if kept.network.is_wired() { "a link: internal or internet" } else { "no link: isolated" };
            let why = format!("{}: the snapshot is a machine with {had}", network.mode);
            return Err(Error::invalid("network.mode", why));
        }
        Ok(network)
    }

    /// Limits: as asked, else the template's, else the operator's for what it is.
    fn resources(&self, asked: Resources, template: &ResourceLimits, machine: bool) -> Result<Resources> {
        let base = &self.shared.base;
        let of_template = limits::parse("template.resources", template)?;
        let given_disk = asked.disk_bytes.or(of_template.disk_bytes);
        let mut resources = asked.over(&of_template).over(if machine { &base.machine } else { &base.resources });
        if given_disk.is_none() && !machine {
            // It lies in memory: one that fills it is to be told that it is full, before the kernel kills something.
            let room = resources.memory_bytes.map(|memory| memory / 2);
            resources.disk_bytes = resources.disk_bytes.map(|disk| room.map_or(disk, |room| disk.min(room)));
        }
        Ok(resources)
    }

    async fn made_of(&self, namespace: &Namespace, request: &CreateSandbox) -> Result<Resolved> {
        match (&request.template, &request.image, &request.snapshot) {
            (Some(template), None, None) => self.shared.base.templates.resolve(template),
            (None, Some(image), None) => self.shared.base.templates.resolve_image(image).await,
            (None, None, Some(snapshot)) => Ok(self.shared.snapshots.resolve(namespace, snapshot)?.resolved),
            _ => {
                Err(Error::invalid("template", "exactly one of template, image and snapshot says what it is made from"))
            }
        }
    }

    fn isolation(&self, asked: Option<&str>) -> Result<Isolation> {
        let Some(asked) = asked else { return Ok(Isolation::Container) };
        match Isolation::parse(asked) {
            Some(Isolation::Process) if !self.shared.base.process_allowed => Err(Error::new(
                ErrorKind::Denied,
                "isolation: process means no sandbox at all; the operator of this node does not allow it: use container",
            )),
            Some(isolation) => Ok(isolation),
            None => {
                let shown: String = asked.chars().take(40).collect();
                Err(Error::invalid("isolation", format!("{shown:?} is none of microvm, container, process")))
            }
        }
    }
}

fn check(request: &CreateSandbox) -> Result<()> {
    checks::metadata(&request.metadata)?;
    checks::env("env", &request.env)?;
    checks::user("user", request.user.as_deref())?;
    checks::workdir("workdir", request.workdir.as_deref())?;
    if let Some(command) = &request.command {
        checks::command("command", command)?;
        if request.run_entrypoint {
            return Err(Error::invalid("command", "stands instead of the image's; leave run_entrypoint out"));
        }
    }
    Ok(())
}

/// A life span as asked, or the node's default; 0 is none.
pub(super) fn timeout(config: &SandboxesConfig, asked: Option<u64>) -> Result<Option<Duration>> {
    match (asked, config.max_timeout) {
        (None, _) => Ok(config.default_timeout),
        (Some(0), Some(max)) => {
            let why = format!("0 means no end, which this node does not allow; at most {} s", max.as_secs());
            Err(Error::invalid("timeout_sec", why))
        }
        (Some(0), None) => Ok(None),
        (Some(seconds), max) => within("timeout_sec", seconds, max).map(Some),
    }
}

/// A life span that must be one.
pub(super) fn new_span(config: &SandboxesConfig, asked: Option<u64>) -> Result<Option<Duration>> {
    match asked {
        None => Ok(None),
        Some(0) => Err(Error::invalid("timeout_sec", "must be at least 1; leave it out to keep what there is")),
        Some(seconds) => within("timeout_sec", seconds, config.max_timeout).map(Some),
    }
}

fn within(field: &str, seconds: u64, max: Option<Duration>) -> Result<Duration> {
    let max = max.map_or(TIMEOUT_SEC_MAX, |m| m.as_secs());
    if seconds > max {
        return Err(Error::invalid(field, format!("{seconds} s; at most {max} s")));
    }
    Ok(Duration::from_secs(seconds))
}

/// A span in which 0 is none.
fn span(field: &str, asked: Option<u64>) -> Result<Option<Duration>> {
    match asked {
        None | Some(0) => Ok(None),
        Some(seconds) => within(field, seconds, None).map(Some),
    }
}

fn main_process(request: &CreateSandbox, defaults: &TemplateDefaults) -> Result<Option<ProcessSpec>> {
    let line: Vec<String> = match &request.command {
        Some(command) => command.clone(),
        None if request.run_entrypoint => defaults.entrypoint.iter().chain(&defaults.cmd).cloned().collect(),
        None => return Ok(None),
    };
    let Some((program, args)) = line.split_first() else {
        return Err(Error::invalid("run_entrypoint", "the image has neither entrypoint nor command; give a command"));
    };
    Ok(Some(ProcessSpec {
        command: program.clone(),
        args: args.to_vec(),
        env: std::collections::BTreeMap::new(),
        cwd: None,
        user: None,
    }))
}

/// Images that name no signal expect SIGTERM.
fn stop(defaults: &TemplateDefaults) -> StopSpec {
    let signal = defaults.stop_signal.as_deref().and_then(Signal::parse).unwrap_or(Signal::TERM);
    StopSpec { signal, ..StopSpec::default() }
}

fn process(request: &CreateSandbox, defaults: &TemplateDefaults) -> ProcessDefaults {
    let mut env = defaults.env.clone();
    env.extend(request.env.clone());
    ProcessDefaults {
        env,
        user: request.user.clone().or_else(|| defaults.user.clone()),
        cwd: request.workdir.clone().or_else(|| defaults.workdir.clone()),
    }
}

fn security(options: &SecurityOptions) -> Security {
    Security {
        cap_add: options.cap_add.clone(),
        cap_drop: options.cap_drop.clone(),
        allow_new_privs: options.allow_new_privs,
    }
}

/// Privileges; those of a machine that goes on are what they were.
fn security_of(request: &CreateSandbox, kept: Option<&MachineRecord>) -> Result<Security> {
    let asked = security(&request.security);
    match kept {
        Some(kept) if asked != Security::default() && asked != kept.security => {
            let why = "the snapshot is a machine whose processes have other privileges already; leave it out";
            Err(Error::invalid("security", why))
        }
        Some(kept) => Ok(kept.security.clone()),
        None => Ok(asked),
    }
}

fn on_timeout(asked: OnTimeout) -> spec::OnTimeout {
    match asked {
        OnTimeout::Kill => spec::OnTimeout::Kill,
        OnTimeout::Pause => spec::OnTimeout::Pause,
    }
}

/// What turns a member of a pool into this sandbox, if one made like `member` can be it; `machine`: members are microVMs.
pub(super) fn claim(spec: &SandboxSpec, member: &SandboxSpec, machine: bool) -> Option<ClaimSpec> {
    let wired = |s: &SandboxSpec| (s.network.is_wired(), s.network.mode == NetworkMode::Host);
    let fixed = |s: &SandboxSpec| (s.isolation, wired(s), s.security.clone(), s.stop, s.root.clone());
    // The size of a writable layer, and what is not shown in the API, cannot be changed on a live sandbox.
    let sized = |s: &SandboxSpec| {
        let r = &s.resources;
        (r.disk_bytes, r.secrets_bytes, r.nofile, r.cpuset.clone(), r.memory_reserve_bytes)
    };
    if spec.main.is_some() || fixed(spec) != fixed(member) || sized(spec) != sized(member) {
        return None;
    }
    // A machine has the memory and the processors it was made with.
    let built = |s: &SandboxSpec| {
        let r = &s.resources;
        (r.memory_bytes, r.cpu_quota_millis.map(|millis| millis.div_ceil(1000)), r.pids_max)
    };
    if machine && built(spec) != built(member) || spec.restore.is_some() {
        return None;
    }
    // A member has its address, and keeps it.
    if spec.network.address.is_some() {
        return None;
    }
    Some(ClaimSpec {
        namespace: spec.namespace.clone(),
        owner: Owner::Api,
        program: None,
        labels: spec.labels.clone(),
        resources: changed(&spec.resources, &member.resources),
        network: (spec.network != member.network).then(|| spec.network.clone()),
        ingress: spec.ingress,
        timeout: spec.timeout,
        idle_timeout: spec.idle_timeout,
        on_timeout: spec.on_timeout,
        process: spec.process.clone(),
    })
}

/// Limits that are not what the member has: only those are set.
fn changed(wanted: &Resources, has: &Resources) -> Resources {
    Resources {
        memory_bytes: wanted.memory_bytes.filter(|_| wanted.memory_bytes != has.memory_bytes),
        cpu_weight: wanted.cpu_weight.filter(|_| wanted.cpu_weight != has.cpu_weight),
        cpu_quota_millis: wanted.cpu_quota_millis.filter(|_| wanted.cpu_quota_millis != has.cpu_quota_millis),
        pids_max: wanted.pids_max.filter(|_| wanted.pids_max != has.pids_max),
        ..Resources::default()
    }
}

/// A member of the pool of this template.
pub(super) fn member(
    resolved: Resolved,
    resources: &Resources,
    network: NetworkMode,
    isolation: Isolation,
) -> Result<SandboxSpec> {
    let of_template = limits::parse("template.resources", &resolved.resources)?;
    Ok(SandboxSpec {
        resources: of_template.over(resources),
        stop: stop(&resolved.defaults),
        network: NetworkSpec::new(network),
        origin: Origin {
            owner: Owner::Pool,
            template: resolved.template,
            image: resolved.image,
            parent: None,
            from_pool: false,
        },
        ..SandboxSpec::new(Namespace::default_namespace(), isolation, resolved.root)
    })
}

/// Layers of a root, if it has any.
pub(super) fn layers_of(root: &RootSpec) -> &[spec::RootLayer] {
    match root {
        RootSpec::Layers { layers } => layers,
        RootSpec::Host | RootSpec::Scratch => &[],
    }
}
