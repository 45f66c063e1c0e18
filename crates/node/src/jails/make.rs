//! Jails are made and removed. Until one is whole, its record says so, and a daemon that dies leaves nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use moat_image::store::Pin;
use moat_model::jail::{
    DestroyJail, JailKind, JailMount, JailNetwork, JailSpec, JailView, MountKind, NewJail, PRIORITY_DEFAULT,
};
use moat_model::spec::RootLayer;
use moat_model::{ErrorKind, Isolation, Namespace, ProcessSpec};

use crate::clock;
use crate::error::{Error, Result};
use crate::outlet::blocking;

use super::copy;
use super::events::Events;
use super::order::{Standing, circle};
use super::place;
use super::record::{FORMAT, JailRecord, Stage};
use super::table::{Claim, Key, Shared};
use super::{address, life, network, plan};

/// What a root is made of.
#[derive(Debug, Default)]
struct Ground {
    layers: Vec<RootLayer>,
    image: Option<String>,
    program: Option<ProcessSpec>,
    _pins: Vec<Pin>,
}

/// Makes one, and starts it unless that was not wanted. After an error nothing of it is left.
pub(super) async fn create(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    asked: NewJail,
    events: &Events,
) -> Result<JailView> {
    check(&asked)?;
    let typed = asked.address.as_deref().map(address::read).transpose()?;
    let ground = ground(shared, &asked).await?;
    let mode = asked.network.unwrap_or_else(|| network::default_mode(&shared.base.networks));
    // An address without a network is refused where networks are planned; one that says nothing of a mode means one.
    let mode = match (&typed, asked.network) {
        (Some(_), None) => moat_model::network::NetworkMode::Internet,
        _ => mode,
    };
    let spec = JailSpec {
        name: asked.name.clone(),
        namespace: namespace.clone(),
        kind: asked.kind,
        release: asked.release.clone(),
        isolation: asked.isolation,
        network: JailNetwork {
            mode,
            address: typed.as_ref().map(|typed| typed.address),
            nameservers: asked.nameservers.clone(),
        },
        boot: asked.boot,
        depend: asked.depend.iter().cloned().collect(),
        priority: asked.priority.unwrap_or(PRIORITY_DEFAULT),
        tags: asked.tags.iter().cloned().collect(),
        limits: Vec::new(),
        mounts: Vec::new(),
        redirects: Vec::new(),
        watched: Default::default(),
        program: ground.program.clone(),
        properties: BTreeMap::new(),
    };
    depends(shared, namespace, &spec)?;
    let thick = asked.kind == JailKind::Thick;
    let claim = shared.reserve("create", |uid_base| JailRecord {
        layers: if thick { Vec::new() } else { ground.layers.clone() },
        image: ground.image.clone().filter(|_| !thick),
        ..fresh(spec.clone(), uid_base)
    })?;
    if let Some(note) = typed.and_then(|typed| typed.note) {
        events.note(note).await;
    }
    warn_of_address(&claim, events).await;
    let made = make(&claim, &asked, &ground, events).await;
    undo_unless(claim, made).await
}

/// A record of nothing yet.
pub(super) fn fresh(spec: JailSpec, uid_base: u32) -> JailRecord {
    JailRecord {
        format: FORMAT,
        spec,
        stage: Stage::Making,
        uid_base,
        layers: Vec::new(),
        image: None,
        files: 1,
        wanted: false,
        sandbox: None,
        number: None,
        given: None,
        cause: None,
        template: None,
        renaming: None,
        created_at: clock::now(),
    }
}

/// Says that another jail has the same address: both cannot be up at once.
pub(super) async fn warn_of_address(claim: &Claim, events: &Events) {
    let address = claim.record().ok().and_then(|record| record.spec.network.address);
    if let Some(address) = address
        && let Some(holder) = claim.shared.holder_of(address, &claim.key, false)
    {
        events.note(format!("{address} is the address of {holder} too: only one of them can be up")).await;
    }
}

/// Keeps what was made, or removes it.
pub(super) async fn undo_unless(claim: Claim, made: Result<()>) -> Result<JailView> {
    match made {
        Ok(()) => {
            let (shared, key) = (Arc::clone(&claim.shared), claim.key.clone());
            drop(claim);
            shared.view(&key)
        }
        Err(error) => {
            if let Err(left) = remove(claim).await {
                tracing::warn!(error = %left.chain(), "a jail that could not be made is not cleared away yet");
            }
            Err(error)
        }
    }
}

async fn make(claim: &Claim, asked: &NewJail, ground: &Ground, events: &Events) -> Result<()> {
    let home = claim.home();
    blocking("make a jail's directory", move || place::make(&home.0)).await?;
    let record = claim.update(|_| ()).await?;
    // Everything its start would refuse is refused before anything is copied.
    if asked.kind != JailKind::Empty {
        let spec = plan::sandbox(&claim.shared, &record, &claim.home())?;
        claim.shared.base.engine.validate(&spec)?;
    }
    if asked.kind == JailKind::Thick {
        let (files, owner) = (claim.home().files(1), record.uid_base);
        copy::flatten(&claim.shared, &ground.layers, None, files, owner, events).await?;
    } else {
        let files = claim.home().files(1);
        blocking("make a jail's directory", move || place::make(&files)).await?;
    }
    if asked.start && asked.kind != JailKind::Empty {
        life::bring_up_needed(&claim.shared, &claim.key, events).await?;
        life::start(claim).await?;
    }
    claim.update(|record| record.stage = Stage::Whole).await.map(drop)
}

fn check(asked: &NewJail) -> Result<()> {
    match (asked.kind, &asked.release, &asked.image) {
        (JailKind::Thin | JailKind::Thick | JailKind::Clone, None, _) => {
            return Err(Error::invalid("release", format!("a {} jail is made of one", asked.kind)));
        }
        (JailKind::Empty | JailKind::Oci, Some(_), _) => {
            let why = format!("not for {} jails: leave it out", asked.kind);
            return Err(Error::invalid("release", why));
        }
        (JailKind::Oci, _, None) => return Err(Error::invalid("image", "an oci jail is made of one")),
        (kind, _, Some(_)) if kind != JailKind::Oci => {
            return Err(Error::invalid("image", "only for oci jails: leave it out, or take kind oci"));
        }
        _ => {}
    }
    if asked.kind != JailKind::Oci && !asked.env.is_empty() {
        return Err(Error::invalid("env", "is the environment of an image's program: only for oci jails"));
    }
    isolation(asked.isolation)
}

/// What a jail may be given.
pub(super) fn isolation(asked: Isolation) -> Result<()> {
    if asked == Isolation::Process {
        return Err(Error::invalid("isolation", "process is no sandbox at all: take container or microvm"));
    }
    Ok(())
}

/// Says if what it depends on is not there, or depends on it.
pub(super) fn depends(shared: &Shared, namespace: &Namespace, spec: &JailSpec) -> Result<()> {
    let mut standings = shared.standings(namespace);
    if let Some(missing) = spec.depend.iter().find(|name| !standings.contains_key(name) && **name != spec.name) {
        return Err(Error::invalid("depend", format!("there is no jail {missing}")));
    }
    let own = Standing { priority: spec.priority, depend: spec.depend.clone() };
    standings.insert(spec.name.clone(), own);
    match circle(&standings, &spec.name) {
        None => Ok(()),
        Some(path) => {
            let path: Vec<String> = path.iter().map(ToString::to_string).collect();
            Err(Error::invalid("depend", format!("goes in a circle: {}", path.join(" -> "))))
        }
    }
}

async fn ground(shared: &Shared, asked: &NewJail) -> Result<Ground> {
    if let Some(release) = &asked.release {
        let release = shared.releases.get(release)?;
        let digests = super::record::digests(&release.layers, Some(&release.image));
        let pins = digests.map(|digest| shared.base.templates.store().pin(digest)).collect();
        return Ok(Ground { layers: release.layers, image: Some(release.image), program: None, _pins: pins });
    }
    let Some(image) = &asked.image else { return Ok(Ground::default()) };
    let resolved = shared.base.templates.resolve_image(image).await?;
    let moat_model::spec::RootSpec::Layers { layers } = resolved.root else {
        return Err(Error::invalid("image", "has no layers"));
    };
    let defaults = resolved.defaults;
    let line: Vec<String> = defaults.entrypoint.iter().chain(&defaults.cmd).cloned().collect();
    let program = line.split_first().map(|(command, args)| {
        let mut env = defaults.env.clone();
        env.extend(asked.env.clone());
        let (cwd, user) = (defaults.workdir.clone(), defaults.user.clone());
        let cwd = cwd.filter(|dir| dir != "/");
        ProcessSpec { command: command.clone(), args: args.to_vec(), env, cwd, user }
    });
    Ok(Ground { layers, image: resolved.image, program, _pins: resolved.pins })
}

/// Removes one that was asked to be removed.
pub(super) async fn destroy(shared: &Arc<Shared>, key: &Key, how: &DestroyJail, events: &Events) -> Result<()> {
    let record = shared.record(key)?;
    refuse_to_destroy(shared, key, &record)?;
    if life::is_up(shared, &record) {
        if !how.force {
            let what = format!("jail {}: is up; stop it first, or say force", key.1);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        life::down(shared, key, false, events).await?;
    }
    let claim = shared.claim(key, "destroy")?;
    let record = claim.record()?;
    refuse_to_destroy(shared, key, &record)?;
    if life::is_up(shared, &record) {
        return Err(Error::new(ErrorKind::Conflict, format!("jail {}: was started meanwhile", key.1)));
    }
    remove(claim).await
}

fn refuse_to_destroy(shared: &Shared, key: &Key, record: &JailRecord) -> Result<()> {
    let host = |mount: &&JailMount| matches!(mount.kind, MountKind::Host(_));
    if let Some(mount) = record.spec.mounts.iter().find(host) {
        let what = format!(
            "jail {}: something of the host is mounted at {} in it; moat jail umount {} {} first",
            key.1,
            mount.target.display(),
            key.1,
            mount.target.display()
        );
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let on_it = super::order::dependants(&shared.standings(&key.0), &key.1);
    if let Some(other) = on_it.first() {
        let what = format!("jail {}: jail {other} depends on it; change that first", key.1);
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    Ok(())
}

/// Removes all of one but its console log, whatever of it there is. If this fails, the rest goes when the daemon starts.
pub(super) async fn remove(claim: Claim) -> Result<()> {
    let record = claim.record()?;
    let whole = record.stage == Stage::Whole;
    if record.stage != Stage::Making {
        claim.update(|record| record.stage = Stage::Leaving).await?;
    }
    if let Some(id) = &record.sandbox {
        life::bury(&claim.shared, id).await?;
    }
    let (home, logs) = (claim.home(), claim.shared.place.logs(&claim.key.0));
    let kept = logs.join(format!("{}-{}", claim.key.1, super::stamp(clock::now())));
    blocking("remove a jail", move || {
        if whole {
            keep_console(&home.0, &kept)?;
        }
        copy::remove(&home.0)
    })
    .await?;
    claim.forget();
    Ok(())
}

/// Moves its console log where it is kept. Blocking.
fn keep_console(home: &std::path::Path, kept: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(home)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("console.")) {
            place::make(kept)?;
            std::fs::rename(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    Ok(())
}
