//! One start of a task as a sandbox.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use moat_image::store::Pin;
use moat_model::job::{Task, TaskDriver};
use moat_model::network::{HostLabel, NetworkMode, NetworkSpec, Protocol, PublishSpec};
use moat_model::spec::{
    Bind, BindIds, HostNamespaces, Origin, Owner, ProcessDefaults, ProcessSpec, Resources, RootSpec, Security, StopSpec,
};
use moat_model::{Isolation, SandboxSpec};

use super::env;
use super::ground::{Ground, owners};
use super::prepare;
use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;

/// What the engine is asked for, and what must stay until it has it.
#[derive(Debug)]
pub(super) struct Planned {
    pub spec: SandboxSpec,
    pub _pins: Vec<Pin>,
}

/// Plans a start. `templates`: what its templates say of its environment.
pub(super) fn plan(ground: &Ground, task: &Task, templates: &BTreeMap<String, String>) -> Result<Planned> {
    let env = ground.env(task, templates)?;
    let config = &task.config;
    let text = |text: &String| ground.replaced(&env, text);
    let (root, origin, image_env, pins) = root(ground, task, &env)?;
    let process = ProcessSpec {
        command: text(&config.command),
        args: config.args.iter().map(text).collect(),
        env: env.clone(),
        cwd: config.work_dir.as_ref().map(text),
        user: user(ground, task, &env)?,
    };
    let isolation = match task.driver {
        TaskDriver::Exec => Isolation::Container,
        TaskDriver::RawExec => Isolation::Process,
        TaskDriver::Microvm => Isolation::Microvm,
    };
    let kill_timeout = task.kill_timeout.min(ground.shared.base.jobs.kill_timeout_max);
    let spec = SandboxSpec {
        labels: labels(ground, task),
        binds: binds(ground, task, &env)?,
        task_dir: (task.driver == TaskDriver::RawExec).then(|| ground.dirs().task(&task.name)),
        leashed: ground.group()?.disconnect.replace,
        // Whether the operator lets a task have them is the driver's to say.
        host: HostNamespaces { pid: config.host_pid, ipc: config.host_ipc },
        oom_score_adj: oom_score_adj(config.oom_score_adj)?,
        main: Some(process.clone()),
        stop: StopSpec { signal: task.kill_signal, grace: kill_timeout },
        resources: resources(ground, task)?,
        security: Security {
            cap_add: config.cap_add.clone(),
            cap_drop: config.cap_drop.clone(),
            allow_new_privs: false,
        },
        network: network(ground, task, &env)?,
        // Whatever is executed in it later is the task's too.
        process: ProcessDefaults {
            env: image_env.into_iter().chain(env.clone()).collect(),
            user: process.user,
            cwd: process.cwd,
        },
        origin,
        ..SandboxSpec::new(ground.job.namespace.clone(), isolation, root)
    };
    Ok(Planned { spec, _pins: pins })
}

fn oom_score_adj(wanted: Option<i16>) -> Result<Option<u16>> {
    let parse = |value: i16| {
        u16::try_from(value).map_err(|_| Error::invalid("config.oom_score_adj", format!("{value}: must be 0 to 1000")))
    };
    wanted.map(parse).transpose()
}

fn labels(ground: &Ground, task: &Task) -> BTreeMap<String, String> {
    let member = ground.group().ok().and_then(|group| env::member(&ground.allocation, group, &task.name));
    let pairs = [
        (env::MEMBER, member.unwrap_or_default()),
        ("alloc", ground.allocation.id.to_string()),
        ("job", ground.job.id.to_string()),
        ("group", ground.allocation.group.clone()),
        ("task", task.name.clone()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

type Root = (RootSpec, Origin, BTreeMap<String, String>, Vec<Pin>);

fn root(ground: &Ground, task: &Task, env: &BTreeMap<String, String>) -> Result<Root> {
    let mut origin = Origin { owner: Owner::Task, ..Origin::default() };
    match (&task.config.template, task.driver) {
        (None, TaskDriver::Microvm) => {
            Err(Error::invalid("config.template", "a microvm needs a root of its own: name a template of this node"))
        }
        (None, _) => Ok((RootSpec::Host, origin, BTreeMap::new(), Vec::new())),
        (Some(_), TaskDriver::RawExec) => {
            Err(Error::invalid("config.template", "raw_exec runs on the host's own root; leave it out or use exec"))
        }
        (Some(name), _) => {
            let resolved = ground.shared.base.templates.resolve(&ground.replaced(env, name))?;
            (origin.template, origin.image) = (resolved.template, resolved.image);
            Ok((resolved.root, origin, resolved.defaults.env, resolved.pins))
        }
    }
}

/// The task's user; one the operator denies is refused by name and by number.
fn user(ground: &Ground, task: &Task, env: &BTreeMap<String, String>) -> Result<Option<String>> {
    let Some(user) = task.user.as_ref().map(|user| ground.replaced(env, user)) else { return Ok(None) };
    let jobs = &ground.shared.base.jobs;
    let (name, group) = user.split_once(':').map_or((user.as_str(), None), |(user, group)| (user, Some(group)));
    let denied = |why: String| Err(Error::new(moat_model::ErrorKind::Denied, format!("user {user:?}: {why}")));
    if task.driver != TaskDriver::Microvm {
        if jobs.users_denied.iter().any(|denied| denied == name) {
            return denied("the operator of this node lets no task be this user (jobs.users_denied)".to_owned());
        }
        let hit = |id: Option<u32>, ranges: &[crate::config::jobs::IdRange]| {
            id.is_some_and(|id| ranges.iter().any(|range| range.contains(id)))
        };
        if hit(name.parse().ok(), &jobs.uids_denied) {
            return denied("the operator of this node lets no task have this id (jobs.uids_denied)".to_owned());
        }
        if hit(group.and_then(|group| group.parse().ok()), &jobs.gids_denied) {
            return denied("the operator of this node lets no task have this group (jobs.gids_denied)".to_owned());
        }
    }
    Ok(Some(user))
}

fn binds(ground: &Ground, task: &Task, env: &BTreeMap<String, String>) -> Result<Vec<Bind>> {
    if task.driver != TaskDriver::Exec {
        if let Some(mount) = task.volume_mounts.first() {
            let why =
                format!("{}: only exec shows volumes; the host's paths are there for raw_exec anyway", mount.volume);
            return Err(Error::invalid("volume_mount", why));
        }
        return Ok(Vec::new());
    }
    let dirs = ground.dirs();
    let own = |source: PathBuf, target: &str, read_only| Bind {
        source,
        target: PathBuf::from(target),
        read_only,
        ids: BindIds::Node,
    };
    let mut binds = vec![
        own(dirs.shared(), "/alloc", false),
        // Written by the daemon only, whoever a task is.
        own(dirs.logs(), "/alloc/logs", true),
        own(dirs.local(&task.name), "/local", false),
    ];
    if prepare::uses_secrets(ground, task) {
        binds.push(own(dirs.task(&task.name).join("secrets"), "/secrets", false));
    }
    let group = ground.group()?;
    for mount in &task.volume_mounts {
        let field = format!("volume_mount {:?}", mount.volume);
        let Some(request) = group.volumes.get(&mount.volume) else {
            return Err(Error::invalid(&field, "the group asks for no volume of this name"));
        };
        let Some(volume) = ground.shared.base.jobs.host_volumes.get(&request.source) else {
            return Err(Error::invalid(&field, format!("this node has no host volume {:?}", request.source)));
        };
        binds.push(Bind {
            source: volume.path.clone(),
            target: PathBuf::from(ground.replaced(env, &mount.destination)),
            // Written only where operator, group and task all say so.
            read_only: volume.read_only || request.read_only || mount.read_only,
            ids: BindIds::Host,
        });
    }
    Ok(binds)
}

fn resources(ground: &Ground, task: &Task) -> Result<Resources> {
    let wanted = &task.resources;
    if wanted.cores > 0 {
        let why =
            "cores of its own are not given away on this node; ask for cpu, with cpu_hard_limit if it is to be a limit";
        return Err(Error::invalid("resources.cores", why));
    }
    let memory = u64::from(wanted.memory_mb) * MIB;
    let (limit, reserve) = match wanted.memory_max_mb {
        None => (Some(memory), None),
        Some(0) => (None, Some(memory)),
        Some(max) => (Some(u64::from(max) * MIB), Some(memory)),
    };
    let per_core = ground.shared.mhz_per_core();
    let quota = task.config.cpu_hard_limit.then(|| (wanted.cpu_mhz.saturating_mul(1000) / per_core).max(10));
    let inside = task.driver != TaskDriver::RawExec;
    Ok(Resources {
        memory_bytes: limit,
        memory_reserve_bytes: if task.driver == TaskDriver::Microvm { None } else { reserve },
        // 100 is one share: a whole core.
        cpu_weight: Some((wanted.cpu_mhz.saturating_mul(100) / per_core).clamp(1, 10_000)),
        cpu_quota_millis: quota,
        secrets_bytes: (inside && task.driver == TaskDriver::Exec).then(|| u64::from(wanted.secrets_mb) * MIB),
        ..Resources::default()
    })
}

fn network(ground: &Ground, task: &Task, env: &BTreeMap<String, String>) -> Result<NetworkSpec> {
    let mode = ground.network_mode(task)?;
    let mut network = NetworkSpec::new(mode);
    if mode == NetworkMode::Host {
        return Ok(network);
    }
    let group = ground.group()?;
    let owners = owners(group)?;
    let own = ground.ports.iter().filter(|(label, _)| owners.get(*label) == Some(&task.name));
    for (label, port) in own {
        if !network.is_wired() {
            let why = "tasks of this group have no network, so no port leads to them";
            return Err(Error::invalid(&format!("network.port {label:?}"), why));
        }
        let host_address: Ipv4Addr = port.host_ip.parse().unwrap_or(Ipv4Addr::LOCALHOST);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            network.publish.push(PublishSpec {
                host_address,
                host_port: port.host_port,
                port: port.to,
                count: 1,
                protocol,
            });
        }
    }
    if let Some(name) = group.network.as_ref().and_then(|network| network.hostname.as_ref()) {
        let name = ground.replaced(env, name);
        network.name = Some(HostLabel::parse(&name).map_err(|e| Error::invalid("network.hostname", e))?);
    }
    Ok(network)
}
