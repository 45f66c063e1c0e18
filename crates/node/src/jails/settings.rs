//! What is declared of a jail, changed one at a time. What its next start would refuse is refused at once.

use std::net::Ipv4Addr;
use std::path::{Component, Path};
use std::sync::Arc;

use moat_model::jail::property::{self, Supported};
use moat_model::jail::{
    ChangeJail, JailLimit, JailMount, JailSpec, MountKind, PRIORITY_DEFAULT, Redirect, Setting, limit,
};
use moat_model::network::Protocol;
use moat_model::spec::Resources;
use moat_model::{ErrorKind, Isolation};

use crate::error::{Error, Result};

use super::record::JailRecord;
use super::table::{Claim, Key, Shared};
use super::{address, life, make, network, plan};

/// Most mounts of a jail: the node binds some more itself.
const MOUNTS_MAX: usize = 48;
/// Most labels, and most services that are watched.
const LABELS_MAX: usize = 64;

/// Changes what is declared of one.
pub(super) async fn change(shared: &Arc<Shared>, key: &Key, change: ChangeJail) -> Result<()> {
    let claim = shared.claim(key, "change")?;
    apply(&claim, change).await
}

pub(super) async fn apply(claim: &Claim, change: ChangeJail) -> Result<()> {
    let mut spec = claim.record()?.spec.clone();
    settle(&mut spec, change)?;
    make::isolation(spec.isolation)?;
    make::depends(&claim.shared, &claim.key.0, &spec)?;
    keep(claim, spec).await
}

fn settle(spec: &mut JailSpec, change: ChangeJail) -> Result<()> {
    if let Some(boot) = change.boot {
        spec.boot = boot;
    }
    if let Some(priority) = change.priority {
        spec.priority = priority;
    }
    if let Some(depend) = change.depend {
        spec.depend = depend.into_iter().collect();
    }
    spec.tags.extend(change.add_tags);
    spec.tags.retain(|tag| !change.remove_tags.contains(tag));
    if let Some(typed) = change.address {
        spec.network.address = Some(address::read(&typed)?.address);
    }
    if let Some(mode) = change.network {
        spec.network.mode = mode;
    }
    if let Some(nameservers) = change.nameservers {
        spec.network.nameservers = nameservers;
    }
    if let Some(isolation) = change.isolation {
        spec.isolation = isolation;
    }
    for service in change.watch {
        if !is_service(&service) {
            return Err(Error::invalid("watch", format!("{service:?} is not the name of a service")));
        }
        spec.watched.insert(service);
    }
    spec.watched.retain(|service| !change.unwatch.contains(service));
    for (name, value) in change.properties {
        set_property(spec, &name, value.as_deref())?;
    }
    if spec.tags.len() > LABELS_MAX || spec.watched.len() > LABELS_MAX {
        return Err(Error::invalid("tags", format!("a jail has at most {LABELS_MAX} labels and watched services")));
    }
    Ok(())
}

fn set_property(spec: &mut JailSpec, name: &str, value: Option<&str>) -> Result<()> {
    let refused = |e: property::PropertyError| {
        let kind = match e {
            property::PropertyError::NotHere { .. } | property::PropertyError::Fixed { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidSpec,
        };
        Error::new(kind, e.to_string())
    };
    let Some(value) = value else {
        match property::unsetting(name).map_err(refused)? {
            Supported::Boot => spec.boot = true,
            Supported::Depend => spec.depend.clear(),
            Supported::Priority => spec.priority = PRIORITY_DEFAULT,
            Supported::Hostname => drop(spec.properties.remove("host.hostname")),
            Supported::Address => spec.network.address = None,
        }
        return Ok(());
    };
    match property::setting(name, value).map_err(refused)? {
        property::Setting::Boot(boot) => spec.boot = boot,
        property::Setting::Depend(depend) => spec.depend = depend,
        property::Setting::Priority(priority) => spec.priority = priority,
        property::Setting::Hostname(hostname) => drop(spec.properties.insert("host.hostname".to_owned(), hostname)),
        property::Setting::Address(address) => spec.network.address = Some(address),
        property::Setting::Holds => {}
    }
    Ok(())
}

fn is_service(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-@".contains(&b))
        && !name.starts_with(['-', '.'])
}

/// Whether this names a volume: it is a directory of the host, and a member of archives.
pub(super) fn is_volume_name(name: &str) -> bool {
    is_service(name) && !name.contains('@')
}

/// Sets or takes away one thing.
pub(super) async fn set(shared: &Arc<Shared>, key: &Key, setting: Setting) -> Result<()> {
    let claim = shared.claim(key, "change")?;
    set_claimed(&claim, setting).await
}

/// The same of one that is claimed already.
pub(super) async fn set_claimed(claim: &Claim, setting: Setting) -> Result<()> {
    let shared = &claim.shared;
    let mut spec = claim.record()?.spec.clone();
    let (mut rewire, mut relimit) = (false, false);
    match setting {
        Setting::Limit(asked) => {
            relimit = true;
            set_limit(&mut spec, asked)?;
        }
        Setting::NoLimit(gone) => {
            relimit = true;
            no_limit(&mut spec, gone.resource)?;
        }
        Setting::Mount(mount) => set_mount(shared, &mut spec, mount)?,
        Setting::NoMount(gone) => {
            let before = spec.mounts.len();
            spec.mounts.retain(|mount| mount.target != gone.target);
            if spec.mounts.len() == before {
                let what = format!("jail {}: nothing is mounted at {}", claim.key.1, gone.target.display());
                return Err(Error::new(ErrorKind::NotFound, what));
            }
        }
        Setting::Redirect(redirect) => {
            rewire = true;
            clash(shared, claim, &redirect)?;
            spec.redirects.push(redirect);
        }
        Setting::NoRedirect(gone) => {
            rewire = true;
            match gone {
                None => spec.redirects.clear(),
                Some(gone) => {
                    let before = spec.redirects.len();
                    let is = |r: &Redirect| r.protocol == gone.protocol && r.host_port == gone.host_port;
                    spec.redirects.retain(|redirect| !is(redirect));
                    if spec.redirects.len() == before {
                        let what = format!("jail {}: no port {} is led to it", claim.key.1, gone.host_port);
                        return Err(Error::new(ErrorKind::NotFound, what));
                    }
                }
            }
        }
    }
    let before = claim.record()?.spec.clone();
    keep(claim, spec).await?;
    let done = match (rewire, relimit) {
        (true, _) => rewired(claim).await,
        (_, true) => relimited(claim).await,
        (false, false) => Ok(()),
    };
    if let Err(error) = done {
        // What cannot be had now is not kept for the next start either.
        claim.update(|record| record.spec = before).await?;
        return Err(error);
    }
    Ok(())
}

fn set_limit(spec: &mut JailSpec, asked: JailLimit) -> Result<()> {
    limit(&asked, &mut Resources::default()).map_err(|e| {
        let not_here = matches!(e, moat_model::jail::LimitError::NotOnLinux(_));
        let kind = if not_here { ErrorKind::Unsupported } else { ErrorKind::InvalidSpec };
        Error::new(kind, e.to_string())
    })?;
    spec.limits.retain(|one| one.resource != asked.resource);
    spec.limits.push(asked);
    Ok(())
}

fn no_limit(spec: &mut JailSpec, resource: Option<String>) -> Result<()> {
    let Some(resource) = resource else {
        spec.limits.clear();
        return Ok(());
    };
    let before = spec.limits.len();
    spec.limits.retain(|one| one.resource != resource);
    if spec.limits.len() == before {
        return Err(Error::new(ErrorKind::NotFound, format!("jail {} has no limit {resource}", spec.name)));
    }
    Ok(())
}

fn set_mount(shared: &Shared, spec: &mut JailSpec, mount: JailMount) -> Result<()> {
    let plain = |path: &Path| {
        path.is_absolute()
            && path != Path::new("/")
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    };
    if !plain(&mount.target) {
        let why = format!("{} is not an absolute path without `..`", mount.target.display());
        return Err(Error::invalid("target", why));
    }
    match &mount.kind {
        MountKind::Host(path) => drop(plan::allowed(shared, path)?),
        MountKind::Volume(name) if !is_volume_name(name) => {
            return Err(Error::invalid("volume", format!("{name:?}: letters, digits, '.', '-' and '_'")));
        }
        MountKind::Volume(_) => {}
    }
    if let Some(there) = spec.mounts.iter().find(|there| there.target == mount.target) {
        // The same again changes nothing, as where a template is applied twice.
        if *there == mount {
            return Ok(());
        }
        let what = format!("target: something is mounted at {} already; moat jail umount", mount.target.display());
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    if spec.mounts.len() >= MOUNTS_MAX {
        return Err(Error::new(ErrorKind::Exhausted, format!("a jail has at most {MOUNTS_MAX} mounts")));
    }
    spec.mounts.push(mount);
    Ok(())
}

fn meets(a: &Redirect, b: &Redirect, unnamed: Ipv4Addr) -> bool {
    let range = |r: &Redirect| (u32::from(r.host_port), u32::from(r.host_port) + u32::from(r.count));
    let ((a_from, a_to), (b_from, b_to)) = (range(a), range(b));
    let (a_at, b_at) = (a.host_address.unwrap_or(unnamed), b.host_address.unwrap_or(unnamed));
    let at = a_at == b_at || a_at.is_unspecified() || b_at.is_unspecified();
    a.protocol == b.protocol && at && a_from < b_to && b_from < a_to
}

/// Ports of the host that lead to a jail already.
fn clash(shared: &Shared, claim: &Claim, wanted: &Redirect) -> Result<()> {
    if wanted.count == 0 || wanted.host_port == 0 || wanted.port == 0 || wanted.protocol == Protocol::Icmp {
        let why = "takes tcp or udp, a port of the host and one of the jail, 1 to 65535";
        return Err(Error::invalid("redirect", why));
    }
    let unnamed = shared.base.networks.publish_address();
    for (key, record) in shared.records() {
        if record.spec.redirects.iter().any(|there| meets(there, wanted, unnamed)) {
            let of = if key.0 == claim.key.0 { key.1.to_string() } else { "of another namespace".to_owned() };
            let what = format!(
                "redirect: {} port {} of the host leads to jail {of} already",
                wanted.protocol.as_str(),
                wanted.host_port
            );
            return Err(Error::new(ErrorKind::Conflict, what));
        }
    }
    Ok(())
}

/// Writes it down, if the next start would take it.
async fn keep(claim: &Claim, spec: JailSpec) -> Result<()> {
    let shared = &claim.shared;
    let mut next: JailRecord = claim.record()?.as_ref().clone();
    next.spec = spec;
    let planned = plan::sandbox(shared, &next, &claim.home())?;
    // An empty jail may have nothing to start yet.
    shared.base.engine.validate(&planned)?;
    let spec = next.spec;
    claim
        .update(|record| {
            // An address of its own choosing from now on, or another of the node's.
            if record.spec.network != spec.network {
                record.given = None;
            }
            record.spec = spec;
        })
        .await
        .map(drop)
}

/// Gives one that is up the ports it is declared to have.
async fn rewired(claim: &Claim) -> Result<()> {
    let (shared, record) = (&claim.shared, claim.record()?);
    let Some(id) = record.sandbox.as_ref().filter(|_| life::is_up(shared, &record)) else { return Ok(()) };
    let planned = network::plan(&shared.base.networks, &record)?;
    let Some(now) = shared.base.engine.spec(id) else { return Ok(()) };
    let wanted = moat_model::network::NetworkSpec { address: now.network.address, ..planned };
    shared.base.engine.rewire(id, wanted).await.map(drop)
}

/// Gives one that is up the limits it is declared to have, but for those that only a start can give.
async fn relimited(claim: &Claim) -> Result<()> {
    let (shared, record) = (&claim.shared, claim.record()?);
    let Some(id) = record.sandbox.as_ref().filter(|_| life::is_up(shared, &record)) else { return Ok(()) };
    let planned = plan::resources(shared, &record)?;
    let Some(now) = shared.base.engine.spec(id) else { return Ok(()) };
    match live(&now.resources, planned, record.spec.isolation) {
        Some(wanted) => shared.base.engine.relimit(id, wanted).await.map(drop),
        None => Ok(()),
    }
}

/// What of `planned` can be had at once and is not there yet. Open files are what each process got when it was started, and
/// groups of version 1 for CPUs are joined at the start; a machine has the memory it was started with, and its kernel counts
/// its processes.
fn live(now: &Resources, planned: Resources, isolation: Isolation) -> Option<Resources> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A quota that is taken away cannot bind: as many CPUs as there are.
    let no_quota = || now.cpu_quota_millis.map(|_| u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000));
    let of_any = Resources {
        cpu_weight: planned.cpu_weight,
        cpu_quota_millis: planned.cpu_quota_millis.or_else(no_quota),
        ..Resources::default()
    };
    let wanted = match isolation {
        Isolation::Microvm => of_any,
        Isolation::Container | Isolation::Process => Resources {
            memory_bytes: planned.memory_bytes,
            memory_reserve_bytes: planned.memory_reserve_bytes,
            pids_max: planned.pids_max,
            ..of_any
        },
    };
    (wanted.over(now) != *now).then_some(wanted)
}
