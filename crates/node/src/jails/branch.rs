//! Jails made of jails, and jails as they once were. New files are made beside the old; the record, replaced as one, says which
//! hold.

use std::sync::Arc;

use moat_model::ErrorKind;
use moat_model::jail::{CloneJail, JailKind, JailName, JailView, ReleaseName, SnapshotTag, SnapshotView};

use crate::error::{Error, Result};
use crate::outlet::blocking;
use crate::{clock, durable};

use super::events::Events;
use super::place::{self, Home, UPPER, VOLUMES};
use super::record::{FORMAT, JailRecord, SnapshotRecord, Stage};
use super::table::{Claim, Key, Shared};
use super::{address, copy, life, make};

/// Ending of a snapshot that is being made.
pub(super) const UNFINISHED: &str = ".new-";

/// Makes a copy of one, which is down.
pub(super) async fn clone(shared: &Arc<Shared>, key: &Key, asked: CloneJail, events: &Events) -> Result<JailView> {
    let typed = asked.address.as_deref().map(address::read).transpose()?;
    let source = shared.claim(key, "clone")?;
    let record = source.record()?;
    let mut spec = record.spec.clone();
    spec.name = asked.name.clone();
    spec.network.address = typed.as_ref().map(|typed| typed.address);
    // Ports of the host lead to one jail; labels and bounds were given to the other.
    spec.redirects.clear();
    spec.limits.clear();
    spec.tags.clear();
    spec.properties.remove("host.hostname");
    let claim = shared.reserve("clone", |uid_base| JailRecord {
        layers: record.layers.clone(),
        image: record.image.clone(),
        ..make::fresh(spec.clone(), uid_base)
    })?;
    if let Some(note) = typed.and_then(|typed| typed.note) {
        events.note(note).await;
    }
    make::warn_of_address(&claim, events).await;
    let made = cloned(&claim, key, &record, events).await;
    drop(source);
    make::undo_unless(claim, made).await
}

async fn cloned(claim: &Claim, from: &Key, record: &JailRecord, events: &Events) -> Result<()> {
    let home = claim.home();
    blocking("make a jail's directory", move || place::make(&home.0)).await?;
    let own = claim.update(|_| ()).await?;
    let files = claim.home().files(1);
    copy::of_jail(&claim.shared, from, record, files.clone(), own.uid_base, events).await?;
    blocking("give a copy an identity of its own", move || forget_identity(&files.join(UPPER))).await?;
    claim.update(|record| record.stage = Stage::Whole).await.map(drop)
}

/// Removes what a machine is known by: the agent makes it anew. Nothing of the tree is followed. Blocking.
pub(super) fn forget_identity(upper: &std::path::Path) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(top) = std::fs::File::open(upper) else { return Ok(()) };
    let etc = match openat2(&top, "etc", flags, Mode::empty(), within) {
        // Not there, or not a directory: then no machine-id is in it.
        Err(_) => return Ok(()),
        Ok(etc) => etc,
    };
    match unlinkat(&etc, "machine-id", AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Must be down for what changes its files as a whole.
pub(super) fn refuse_if_up(claim: &Claim, record: &JailRecord, doing: &str) -> Result<()> {
    if life::is_up(&claim.shared, record) {
        let what = format!("jail {}: is up; stop it before it is {doing}", claim.key.1);
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    Ok(())
}

/// Lets another making of its files hold, and removes the one before.
async fn switch(claim: &Claim, files: u64, change: impl FnOnce(&mut JailRecord)) -> Result<()> {
    let before = claim.record()?.files;
    let change = move |record: &mut JailRecord| {
        record.files = files;
        change(record);
    };
    claim.update(change).await?;
    let home = claim.home();
    let clear = move || {
        take_over_volumes(&home.files(before), &home.files(files))?;
        copy::remove(&home.files(before))
    };
    // What is left of it goes when the daemon starts.
    if let Err(error) = blocking("remove the files before", clear).await {
        tracing::warn!(jail = %claim.key.1, error = %error.chain(), "files of a jail that hold no longer are left");
    }
    Ok(())
}

/// Volumes that the making which holds does not have are those of the one before. Blocking.
pub(super) fn take_over_volumes(before: &std::path::Path, holds: &std::path::Path) -> std::io::Result<()> {
    let (from, to) = (before.join(VOLUMES), holds.join(VOLUMES));
    if from.is_dir() && !to.exists() { std::fs::rename(from, to) } else { Ok(()) }
}

/// Removes a making of files that came to nothing.
async fn drop_files(home: &Home, files: u64) {
    let dir = home.files(files);
    if let Err(error) = blocking("remove a copy", move || copy::remove(&dir)).await {
        tracing::warn!(error = %error.chain(), "a copy that was not finished is left until the next start");
    }
}

/// Makes one thick.
pub(super) async fn convert(shared: &Arc<Shared>, key: &Key, events: &Events) -> Result<()> {
    let claim = shared.claim(key, "convert")?;
    let record = claim.record()?;
    refuse_if_up(&claim, &record, "converted")?;
    if !super::plan::has_layers(record.spec.kind) {
        let what = format!("jail {}: is {} already: all its files are its own", key.1, record.spec.kind);
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let (home, files) = (claim.home(), record.files + 1);
    let above = Some((home.files(record.files).join(UPPER), record.uid_base)).filter(|(dir, _)| dir.is_dir());
    let made = copy::flatten(shared, &record.layers, above, home.files(files), record.uid_base, events).await;
    if let Err(error) = made {
        drop_files(&home, files).await;
        return Err(error);
    }
    switch(&claim, files, |record| {
        record.spec.kind = JailKind::Thick;
        record.layers.clear();
        record.image = None;
    })
    .await
}

/// Gives a thin one another release.
pub(super) async fn upgrade(shared: &Arc<Shared>, key: &Key, release: ReleaseName) -> Result<()> {
    let claim = shared.claim(key, "upgrade")?;
    let record = claim.record()?;
    refuse_if_up(&claim, &record, "upgraded")?;
    if record.spec.kind != JailKind::Thin {
        let what = format!(
            "jail {}: is {}; only thin jails stand on a release that can be another: upgrade its packages inside",
            key.1, record.spec.kind
        );
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let to = shared.releases.get(&release)?;
    claim
        .update(|record| {
            record.spec.release = Some(release);
            record.layers = to.layers;
            record.image = Some(to.image);
        })
        .await
        .map(drop)
}

/// Gives one that is down another name. Its directory is renamed between two records that say so.
pub(super) async fn rename(shared: &Arc<Shared>, key: &Key, new: JailName) -> Result<Key> {
    let mut claim = shared.claim(key, "rename")?;
    let record = claim.record()?;
    refuse_if_up(&claim, &record, "renamed")?;
    if new == key.1 {
        return Err(Error::invalid("name", "is what it is called already"));
    }
    claim.may_be(&new)?;
    // Others' records name it: they are claimed before anything is changed.
    let others = super::order::dependants(&shared.standings(&key.0), &key.1);
    let direct = others.into_iter().filter(|name| {
        let record = shared.record(&(key.0.clone(), name.clone()));
        record.is_ok_and(|record| record.spec.depend.contains(&key.1))
    });
    let claims = direct.map(|name| shared.claim(&(key.0.clone(), name), "rename")).collect::<Result<Vec<_>>>()?;
    let named = new.clone();
    claim.update(|record| record.renaming = Some(named)).await?;
    let (from, to) = (claim.home(), shared.place.jail(&key.0, &new));
    blocking("rename a jail", move || {
        std::fs::rename(&from.0, &to.0)?;
        std::fs::File::open(to.0.parent().unwrap_or(std::path::Path::new("/")))?.sync_all()
    })
    .await?;
    claim.renamed(&new);
    for other in &claims {
        renamed_in(other, &key.1, &new).await?;
    }
    claim.update(|record| record.renaming = None).await?;
    Ok(claim.key.clone())
}

/// What depended on the old name depends on the new one.
pub(super) async fn renamed_in(other: &Claim, old: &JailName, new: &JailName) -> Result<()> {
    other
        .update(|record| {
            if record.spec.depend.remove(old) {
                record.spec.depend.insert(new.clone());
            }
        })
        .await
        .map(drop)
}

pub(super) fn shown(record: SnapshotRecord) -> SnapshotView {
    SnapshotView { tag: record.tag, created_at: record.created_at, bytes: record.bytes }
}

/// Keeps the files of one as they are.
pub(super) async fn snapshot(
    shared: &Arc<Shared>,
    key: &Key,
    tag: Option<SnapshotTag>,
    events: &Events,
) -> Result<SnapshotView> {
    let claim = shared.claim(key, "snapshot")?;
    take(&claim, tag, events).await
}

pub(super) async fn take(claim: &Claim, tag: Option<SnapshotTag>, events: &Events) -> Result<SnapshotView> {
    let (shared, record) = (&claim.shared, claim.record()?);
    let default = || SnapshotTag::parse(&format!("moat_{}_{}", claim.key.1, super::stamp(clock::now())));
    let tag = match tag {
        Some(tag) => tag,
        None => default().map_err(|e| Error::invalid("tag", e))?,
    };
    let there = shared.snapshots_of(&claim.key)?;
    if there.iter().any(|snapshot| snapshot.tag == tag) {
        let what = format!("tag: jail {} has a snapshot {tag} already", claim.key.1);
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let max = shared.base.config.snapshots_max;
    if there.len() >= max {
        let what = format!("jail {} has {max} snapshots, the limit (jails.snapshots_max): drop some", claim.key.1);
        return Err(Error::new(ErrorKind::Exhausted, what));
    }
    let home = claim.home();
    let new = home.snapshots().join(format!("{UNFINISHED}{tag}"));
    let made = taken(claim, &record, &tag, new.clone(), events).await;
    if made.is_err() {
        let left = blocking("remove a copy", move || copy::remove(&new)).await;
        left.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "left until the next start"));
    }
    let made = made?;
    claim.snapshot(&tag, Some(made.clone()));
    Ok(shown(made))
}

async fn taken(
    claim: &Claim,
    record: &JailRecord,
    tag: &SnapshotTag,
    new: std::path::PathBuf,
    events: &Events,
) -> Result<SnapshotRecord> {
    let old = new.clone();
    blocking("make room for a snapshot", move || copy::remove(&old)).await?;
    let stats = copy::of_jail(&claim.shared, &claim.key, record, new.clone(), record.uid_base, events).await?;
    let snapshot = SnapshotRecord {
        format: FORMAT,
        tag: tag.clone(),
        spec: record.spec.clone(),
        layers: record.layers.clone(),
        image: record.image.clone(),
        bytes: stats.bytes_copied + stats.bytes_cloned,
        created_at: clock::now(),
    };
    let (body, place) = (snapshot.clone(), claim.home().snapshot(tag));
    blocking("write the record of a snapshot", move || {
        durable::replace(&new.join("snapshot.json"), &serde_json::to_vec_pretty(&body)?)?;
        std::fs::rename(&new, &place)?;
        std::fs::File::open(place.parent().unwrap_or(std::path::Path::new("/")))?.sync_all()
    })
    .await?;
    Ok(snapshot)
}

fn find(claim: &Claim, tag: Option<&SnapshotTag>) -> Result<SnapshotRecord> {
    let mut there = claim.shared.snapshots_of(&claim.key)?;
    let found = match tag {
        Some(tag) => there.into_iter().find(|snapshot| snapshot.tag == *tag),
        None => there.pop(),
    };
    found.ok_or_else(|| {
        let which = tag.map_or("no snapshot".to_owned(), |tag| format!("no snapshot {tag}"));
        Error::new(ErrorKind::NotFound, format!("jail {} has {which}", claim.key.1))
    })
}

/// Makes the files of one that is down what they were.
pub(super) async fn rollback(shared: &Arc<Shared>, key: &Key, tag: Option<SnapshotTag>, events: &Events) -> Result<()> {
    let claim = shared.claim(key, "rollback")?;
    back(&claim, tag.as_ref(), events).await
}

pub(super) async fn back(claim: &Claim, tag: Option<&SnapshotTag>, events: &Events) -> Result<()> {
    let record = claim.record()?;
    refuse_if_up(claim, &record, "rolled back")?;
    let snapshot = find(claim, tag)?;
    let (home, files) = (claim.home(), record.files + 1);
    let order = copy::Order {
        from: home.snapshot(&snapshot.tag),
        from_base: record.uid_base,
        to: home.files(files),
        to_base: record.uid_base,
        volumes_base: claim.shared.base.disk_ids,
    };
    if let Err(error) = copy::files(&claim.shared, order, None, events).await {
        drop_files(&home, files).await;
        return Err(error);
    }
    switch(claim, files, |record| {
        record.spec.kind = snapshot.spec.kind;
        record.spec.release = snapshot.spec.release;
        record.spec.program = snapshot.spec.program;
        record.layers = snapshot.layers;
        record.image = snapshot.image;
        record.template = None;
    })
    .await
}

/// Removes a snapshot.
pub(super) async fn drop_snapshot(shared: &Arc<Shared>, key: &Key, tag: &SnapshotTag) -> Result<()> {
    let claim = shared.claim(key, "snapshot")?;
    discard(&claim, tag).await
}

pub(super) async fn discard(claim: &Claim, tag: &SnapshotTag) -> Result<()> {
    find(claim, Some(tag))?;
    let home = claim.home();
    let (place, gone) = (home.snapshot(tag), home.snapshots().join(format!("{UNFINISHED}{tag}")));
    blocking("remove a snapshot", move || {
        copy::remove(&gone)?;
        std::fs::rename(&place, &gone)?;
        copy::remove(&gone)
    })
    .await?;
    claim.snapshot(tag, None);
    Ok(())
}
