//! Jails as archives: a tar of `jail.json`, `files.tar` and one `volumes/NAME.tar` for each volume, with the ids their files
//! have inside.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use moat_drivers::lasting::{self, ImportLimits};
use moat_model::jail::{ImportJail, JailKind, JailSpec, JailView, MountKind};
use moat_model::{ErrorKind, Namespace, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock;
use crate::error::{Error, Result};
use crate::outlet::blocking;

use super::events::Events;
use super::front::Exported;
use super::place::{self, UPPER, VOLUMES};
use super::record::{FORMAT, JailRecord, Stage};
use super::table::{Claim, Key, Shared};
use super::{branch, copy, make};

const ABOUT: &str = "jail.json";
const FILES: &str = "files.tar";
/// Longest `jail.json`.
const ABOUT_BYTES_MAX: u64 = 1 << 20;
/// Most volumes of an archive.
const VOLUMES_MAX: usize = 64;

/// What an archive says of its jail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    spec: JailSpec,
    /// What its files lie over.
    layers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    exported_at: Timestamp,
}

fn failed(doing: &str) -> impl Fn(io::Error) -> Error {
    let doing = doing.to_owned();
    move |e| {
        let full = matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Error::caused_by(if full { ErrorKind::Exhausted } else { ErrorKind::Unavailable }, doing.clone(), e)
    }
}

/// Makes an archive of one, up or down.
pub(super) async fn export(shared: &Arc<Shared>, key: &Key, events: &Events) -> Result<Exported> {
    let claim = shared.claim(key, "export")?;
    let record = claim.record()?;
    let scratch = shared.place.new_scratch();
    let made = exported(&claim, &record, &scratch, events).await;
    let left = blocking("remove what an export needed", move || copy::remove(&scratch)).await;
    left.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "left until the next start"));
    made
}

async fn exported(claim: &Claim, record: &JailRecord, scratch: &Path, events: &Events) -> Result<Exported> {
    let shared = &claim.shared;
    let up = super::life::is_up(shared, record);
    // One that is up is copied first: what is packed must not change meanwhile.
    let files = if up { scratch.join("files") } else { claim.home().files(record.files) };
    let dir = scratch.to_owned();
    blocking("make room for an export", move || place::make(&dir)).await?;
    if up {
        copy::of_jail(shared, &claim.key, record, files.clone(), record.uid_base, events).await?;
    }
    let about = About {
        format: FORMAT,
        spec: record.spec.clone(),
        layers: record.layers.iter().map(|layer| layer.digest.clone()).collect(),
        image: record.image.clone(),
        exported_at: clock::now(),
    };
    let name = format!("{}_{}.tar", claim.key.1, super::stamp(about.exported_at));
    let (archive, bases) = (scratch.join("archive.tar"), (record.uid_base, shared.base.disk_ids));
    events.note("packs its files").await;
    let (file, bytes, sha256) =
        copy::work(shared, events, move |stop| pack(&archive, &about, &files, bases, stop)).await?;
    Ok(Exported { name, file, bytes, sha256 })
}

/// Packs what a jail that is down has as its root into an archive in `scratch`, which the caller removes. Its volumes are not in
/// it, nor what it is known by.
pub(super) async fn root_of(shared: &Arc<Shared>, key: &Key, scratch: &Path, events: &Events) -> Result<PathBuf> {
    let claim = shared.claim(key, "convert")?;
    let record = claim.record()?;
    branch::refuse_if_up(&claim, &record, "converted")?;
    let above = Some((claim.home().files(record.files).join(UPPER), record.uid_base)).filter(|(dir, _)| dir.is_dir());
    if above.is_none() && record.layers.is_empty() {
        return Err(Error::new(ErrorKind::Conflict, format!("jail {}: there is nothing in it yet", key.1)));
    }
    let (files, uid_base) = (scratch.join("files"), record.uid_base);
    let dir = scratch.to_owned();
    blocking("make room for a release", move || place::make(&dir)).await?;
    copy::flatten(shared, &record.layers, above, files.clone(), uid_base, events).await?;
    let root = files.join(UPPER);
    let known = root.clone();
    blocking("make a copy nobody's", move || branch::forget_identity(&known)).await?;
    let archive = scratch.join("root.tar");
    let into = archive.clone();
    events.note("packs its files").await;
    copy::work(shared, events, move |stop| {
        let mut out = File::create_new(&into).map_err(failed("make an archive"))?;
        lasting::export(&root, uid_base, &mut out, stop).map(drop)
    })
    .await?;
    Ok(archive)
}

fn pack(
    archive: &Path,
    about: &About,
    files: &Path,
    (uid_base, volumes_base): (u32, u32),
    stop: &AtomicBool,
) -> Result<(File, u64, String)> {
    let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(archive);
    let mut out = options.map_err(failed("make an archive"))?;
    let body = serde_json::to_vec_pretty(about)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "write what an archive is", e))?;
    member(&mut out, ABOUT, |out| out.write_all(&body).map_err(failed("write an archive")))?;
    let upper = files.join(UPPER);
    if upper.is_dir() {
        member(&mut out, FILES, |out| lasting::export(&upper, uid_base, out, stop).map(drop))?;
    }
    if let Ok(volumes) = std::fs::read_dir(files.join(VOLUMES)) {
        for volume in volumes {
            let volume = volume.map_err(failed("read the volumes of a jail"))?;
            let name = format!("{VOLUMES}/{}.tar", volume.file_name().to_string_lossy());
            member(&mut out, &name, |out| lasting::export(&volume.path(), volumes_base, out, stop).map(drop))?;
        }
    }
    out.write_all(&[0; 1024]).and_then(|()| out.sync_all()).map_err(failed("write an archive"))?;
    let sha256 = digest(&mut out).map_err(failed("read an archive"))?;
    let bytes = out.stream_position().map_err(failed("read an archive"))?;
    out.rewind().map_err(failed("read an archive"))?;
    std::fs::remove_file(archive).map_err(failed("make an archive"))?;
    Ok((out, bytes, sha256))
}

/// Appends a member whose size is known when it is written.
fn member(out: &mut File, name: &str, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let wrong = failed("write an archive");
    let begin = out.stream_position().map_err(&wrong)?;
    out.write_all(&[0; 512]).map_err(&wrong)?;
    write(out)?;
    let end = out.stream_position().map_err(&wrong)?;
    let size = end - begin - 512;
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(&wrong)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    out.seek(SeekFrom::Start(begin)).map_err(&wrong)?;
    out.write_all(header.as_bytes()).map_err(&wrong)?;
    let padded = begin + 512 + size.div_ceil(512) * 512;
    out.set_len(padded).map_err(&wrong)?;
    out.seek(SeekFrom::Start(padded)).map_err(&wrong)?;
    Ok(())
}

fn digest(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// Makes a jail of an archive.
pub(super) async fn import(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    asked: ImportJail,
    archive: PathBuf,
    events: &Events,
) -> Result<JailView> {
    let expected = match (&asked.sha256, asked.force) {
        (_, true) => None,
        (Some(sha256), false) => Some(sha256.to_ascii_lowercase()),
        (None, false) => {
            let why = "is needed: the archive is compared with it; force takes the archive as it is";
            return Err(Error::invalid("sha256", why));
        }
    };
    let path = archive.clone();
    let about = copy::work(shared, events, move |_| opened(&path, expected.as_deref())).await?;
    let mut spec = about.spec.clone();
    spec.namespace = namespace.clone();
    if let Some(name) = asked.name {
        spec.name = name;
    }
    settle(shared, &mut spec, events).await;
    let (layers, image) = stands_on(shared, &about)?;
    let claim =
        shared.reserve("import", |uid_base| JailRecord { layers, image, ..make::fresh(spec.clone(), uid_base) })?;
    make::warn_of_address(&claim, events).await;
    let made = imported(&claim, archive, events).await;
    make::undo_unless(claim, made).await
}

/// What belongs to the place it was exported at does not come along.
async fn settle(shared: &Shared, spec: &mut JailSpec, events: &Events) {
    let there = shared.standings(&spec.namespace);
    let missing: Vec<_> = spec.depend.iter().filter(|name| !there.contains_key(name)).cloned().collect();
    for name in missing {
        events.note(format!("it depended on jail {name}, which is not here: it no longer does")).await;
        spec.depend.remove(&name);
    }
    if !spec.redirects.is_empty() {
        events.note("its redirects are not taken over: ports of this host are led to it with moat jail rdr").await;
        spec.redirects.clear();
    }
    let before = spec.mounts.len();
    spec.mounts.retain(|mount| matches!(mount.kind, MountKind::Volume(_)));
    if spec.mounts.len() < before {
        events.note("what was mounted of the other host is not taken over: moat jail mount").await;
    }
}

/// Its layers here: the very same, or for a thin one those of the release of that name.
fn stands_on(shared: &Shared, about: &About) -> Result<(Vec<moat_model::spec::RootLayer>, Option<String>)> {
    if about.layers.is_empty() {
        return Ok((Vec::new(), None));
    }
    let same = |layers: &[moat_model::spec::RootLayer]| layers.iter().map(|layer| &layer.digest).eq(&about.layers);
    let of_release = about.spec.release.as_ref().and_then(|name| shared.releases.get(name).ok());
    if let Some(release) = of_release.filter(|r| about.spec.kind == JailKind::Thin || same(&r.layers)) {
        return Ok((release.layers, Some(release.image)));
    }
    if let Some(release) = shared.releases.all().into_iter().find(|release| same(&release.layers)) {
        return Ok((release.layers, Some(release.image)));
    }
    let image = about.image.as_deref().and_then(|image| shared.base.templates.store().find(image));
    if let Some((image, _pin)) = image {
        let layers = vec![crate::templates::layer(&image.root.digest, &image.root.path)];
        if same(&layers) {
            return Ok((layers, Some(image.digest.to_string())));
        }
    }
    let what = match &about.spec.release {
        Some(release) => {
            format!("its files lie over release {release}, which is not here: moat jail bootstrap {release}")
        }
        None => {
            format!("its files lie over image {}, which is not here: fetch it", about.image.as_deref().unwrap_or(""))
        }
    };
    Err(Error::new(ErrorKind::Conflict, format!("archive: {what}, or convert the jail before it is exported")))
}

async fn imported(claim: &Claim, archive: PathBuf, events: &Events) -> Result<()> {
    let home = claim.home();
    blocking("make a jail's directory", move || place::make(&home.0)).await?;
    let record = claim.update(|_| ()).await?;
    let (files, bases) = (claim.home().files(1), (record.uid_base, claim.shared.base.disk_ids));
    let bytes_max = claim.shared.base.config.import_bytes_max;
    events.note("unpacks its files").await;
    copy::work(&claim.shared, events, move |stop| unpack(&archive, &files, bases, bytes_max, stop)).await?;
    claim.update(|record| record.stage = Stage::Whole).await.map(drop)
}

fn no_archive(why: impl std::fmt::Display) -> Error {
    Error::invalid("archive", format!("is not one of a jail: {why}"))
}

/// Compares its digest, and reads what it is.
fn opened(archive: &Path, expected: Option<&str>) -> Result<About> {
    let mut file = File::open(archive).map_err(failed("open an archive"))?;
    if let Some(expected) = expected {
        let is = digest(&mut file).map_err(failed("read an archive"))?;
        if is != expected {
            let why =
                format!("the archive has {is}, and not {expected}: it was changed or cut; force takes it as it is");
            return Err(Error::invalid("sha256", why));
        }
        file.rewind().map_err(failed("read an archive"))?;
    }
    let mut archive = tar::Archive::new(file);
    let mut entries = archive.entries().map_err(no_archive)?;
    let first = entries.next().ok_or_else(|| no_archive("it is empty"))?.map_err(no_archive)?;
    if first.path_bytes().as_ref() != ABOUT.as_bytes() || first.size() > ABOUT_BYTES_MAX {
        return Err(no_archive("it does not begin with jail.json"));
    }
    let about: About = serde_json::from_reader(first.take(ABOUT_BYTES_MAX)).map_err(no_archive)?;
    if about.format != FORMAT {
        return Err(no_archive(format!("its format is {}, and this node reads {FORMAT}", about.format)));
    }
    Ok(about)
}

fn unpack(
    archive: &Path,
    files: &Path,
    (uid_base, volumes_base): (u32, u32),
    bytes_max: u64,
    stop: &AtomicBool,
) -> Result<()> {
    place::make(files).map_err(failed("make the directory of a jail"))?;
    let mut archive = tar::Archive::new(File::open(archive).map_err(failed("open an archive"))?);
    let mut left = ImportLimits { bytes_max, ..ImportLimits::default() };
    let mut volumes = 0;
    for entry in archive.entries().map_err(no_archive)?.skip(1) {
        let mut entry = entry.map_err(no_archive)?;
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(no_archive)?;
        let stats = if path == FILES {
            lasting::import(&mut entry, &files.join(UPPER), uid_base, &left, stop)?
        } else {
            let name = path.strip_prefix("volumes/").and_then(|name| name.strip_suffix(".tar"));
            let name = name.filter(|name| super::settings::is_volume_name(name));
            volumes += 1;
            let Some(name) = name.filter(|_| volumes <= VOLUMES_MAX) else {
                return Err(no_archive(format!("it has {path:?} in it")));
            };
            place::make(&files.join(VOLUMES)).map_err(failed("make the directory of a jail"))?;
            lasting::import(&mut entry, &files.join(VOLUMES).join(name), volumes_base, &left, stop)?
        };
        left.bytes_max = left.bytes_max.saturating_sub(stats.bytes_copied);
        left.entries_max = left.entries_max.saturating_sub(stats.files);
    }
    Ok(())
}
