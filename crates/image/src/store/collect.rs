//! Taking away what nothing needs. Records go first, then roots, then blobs: whenever the process is killed, what is left is
//! either a whole image or files that the next collection takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use moat_model::ErrorKind;

use super::index::{self, Record};
use super::{Collected, Inner};
use crate::disk;
use crate::error::{Error, Result};
use crate::{Digest, ImageRef};

/// Forgets a reference or an image. Blocks.
pub(super) fn remove(inner: &Inner, text: &str, used: &BTreeMap<Digest, Vec<String>>) -> Result<Collected> {
    let _one = inner.changes();
    let (mut record, name) = find(inner, text)?;
    let name = name.filter(|_| record.image.references.len() > 1);
    if let Some(name) = name {
        record.image.references.remove(&name);
        index::write(&inner.records(), &inner.scratch_file(), &record)?;
        inner.index().records.insert(record.image.digest, record);
        return Ok(Collected::default());
    }
    let digests = [record.image.digest, record.image.root.digest];
    let users: Vec<&str> = digests.iter().filter_map(|d| used.get(d)).flatten().map(String::as_str).collect();
    if !users.is_empty() {
        let text = format!("image {text} is needed by {}; remove those first", users.join(", "));
        return Err(Error::new(ErrorKind::Conflict, text));
    }
    let mut done = Collected::default();
    if !forget(inner, &record, &mut done)? {
        let text = format!("image {text} is being used right now; try again when that has ended");
        return Err(Error::new(ErrorKind::Conflict, text));
    }
    let root = record.image.root.digest;
    take_away(inner, &inner.root_path(&root), &root, &mut done)?;
    let needed = needed_blobs(inner);
    for blob in record.blobs.iter().filter(|blob| !needed.contains(blob)) {
        take_away(inner, &inner.blobs.path(blob), blob, &mut done)?;
    }
    Ok(done)
}

/// The record that a text means, and the reference in it if it was one.
fn find(inner: &Inner, text: &str) -> Result<(Record, Option<String>)> {
    let missing = || Error::new(ErrorKind::NotFound, format!("image {text} is not in the store"));
    let index = inner.index();
    if let Ok(digest) = text.parse::<Digest>() {
        return index.records.get(&digest).cloned().map(|record| (record, None)).ok_or_else(missing);
    }
    let full = text.parse::<ImageRef>().map(|reference| reference.to_string());
    let names = [Some(text.to_owned()), full.ok()];
    let found =
        names.into_iter().flatten().find_map(|name| index.by_reference(&name).cloned().map(|r| (r, Some(name))));
    found.ok_or_else(missing)
}

/// Removes all that nothing needs. Blocks.
pub(super) fn collect(inner: &Inner, used: &BTreeSet<Digest>, all: bool) -> Result<Collected> {
    let _one = inner.changes();
    let mut done = Collected::default();
    let records: Vec<Record> = inner.index().records.values().cloned().collect();
    for record in records {
        let image = &record.image;
        let needed = used.contains(&image.digest) || used.contains(&image.root.digest);
        if !needed && (all || image.references.is_empty()) {
            forget(inner, &record, &mut done)?;
        }
    }
    let roots: BTreeSet<Digest> = inner.index().records.values().map(|record| record.image.root.digest).collect();
    sweep(inner, &inner.roots(), |root| roots.contains(root) || used.contains(root), &mut done)?;
    let blobs = needed_blobs(inner);
    sweep(inner, &inner.blobs.dir, |blob| blobs.contains(blob), &mut done)?;
    sweep(inner, &inner.blobs.partial, |_| false, &mut done)?;
    Ok(done)
}

fn needed_blobs(inner: &Inner) -> BTreeSet<Digest> {
    inner.index().records.values().flat_map(|record| record.blobs.iter().copied()).collect()
}

/// Takes an image out of the index and removes its record, unless it is pinned. Tells whether.
fn forget(inner: &Inner, record: &Record, done: &mut Collected) -> Result<bool> {
    let digest = record.image.digest;
    {
        let pins = inner.pins.lock();
        if pins.contains_key(&digest) || pins.contains_key(&record.image.root.digest) {
            return Ok(false);
        }
        // While the pins are held still: whoever pins from now on does not find it any more.
        inner.index().records.remove(&digest);
    }
    done.files += 1;
    done.bytes += disk::remove(&index::path(&inner.records(), &digest))?;
    disk::sync_dir(&inner.records())?;
    done.images.push(digest);
    Ok(true)
}

/// Removes the files of a directory whose name is a digest that nothing needs. Other names are not ours to touch.
fn sweep(inner: &Inner, dir: &Path, needed: impl Fn(&Digest) -> bool, done: &mut Collected) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| disk::failed("list", dir, e))? {
        let path = entry.map_err(|e| disk::failed("list", dir, e))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Ok(digest) = format!("sha256:{stem}").parse::<Digest>() else { continue };
        if !needed(&digest) {
            take_away(inner, &path, &digest, done)?;
        }
    }
    Ok(())
}

/// Removes a file unless its digest is pinned: out of its place while the pins are held still, then for good.
fn take_away(inner: &Inner, path: &Path, digest: &Digest, done: &mut Collected) -> Result<()> {
    let aside = inner.scratch_file();
    if !move_aside(&inner.pins.lock(), path, &aside, digest)? {
        return Ok(());
    }
    done.files += 1;
    done.bytes += disk::remove(&aside)?;
    Ok(())
}

fn move_aside(pins: &HashMap<Digest, usize>, path: &Path, aside: &PathBuf, digest: &Digest) -> Result<bool> {
    if pins.contains_key(digest) {
        return Ok(false);
    }
    match std::fs::rename(path, aside) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(disk::failed("remove", path, e)),
    }
}
