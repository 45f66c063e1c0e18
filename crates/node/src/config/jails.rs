//! `[jails]`: environments with a name that last.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::time::Duration;

use moat_model::jail::{ReleaseName, ReleaseSource};
use serde::Deserialize;

use super::reference::{Key, key};
use super::span::{Size, Span};

/// Ids of one jail.
pub(crate) const UIDS_PER_JAIL: u32 = 65_536;

/// What the operator says of jails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailsConfig {
    /// First of the ids of jails: each keeps 65,536 of its own, to which its files belong.
    pub uid_base: u32,
    /// Most jails on the node.
    pub jails_max: u32,
    /// Paths of the host that jails may be shown, and copied from, with everything below them.
    pub host_paths: Vec<PathBuf>,
    /// What releases are made from, by their names.
    pub releases: BTreeMap<ReleaseName, ReleaseSource>,
    /// Copies of jails' files at once.
    pub copies_max: usize,
    /// Most bytes one step of a template may write.
    pub output_bytes_max: u64,
    /// How long a jail's services have to stop before they are killed.
    pub stop_within: Duration,
    /// Most bytes of an archive that becomes a jail, unpacked.
    pub import_bytes_max: u64,
    /// Most snapshots of a jail.
    pub snapshots_max: usize,
}

impl Default for JailsConfig {
    fn default() -> Self {
        Self {
            uid_base: 0x2000_0000,
            jails_max: 1000,
            host_paths: Vec::new(),
            releases: BTreeMap::new(),
            copies_max: 2,
            output_bytes_max: 64 << 20,
            stop_within: Duration::from_secs(60),
            import_bytes_max: 100 << 30,
            snapshots_max: 100,
        }
    }
}

/// `[jails]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJails {
    pub uid_base: Option<u32>,
    pub jails_max: Option<u32>,
    pub host_paths: Option<Vec<PathBuf>>,
    #[serde(default)]
    pub releases: BTreeMap<String, String>,
    pub copies_max: Option<u32>,
    pub output_max: Option<Size>,
    pub stop_within: Option<Span>,
    pub import_max: Option<Size>,
    pub snapshots_max: Option<u32>,
}

pub(super) const JAILS: &[Key] = &[
    key(
        "uid_base",
        "number",
        "`536870912`",
        "First host id of jails: each keeps 65,536 of its own, to which its files belong on disk. They must lie below `uid_base` and apart from `container.disk_ids`.",
    ),
    key("jails_max", "number", "`1000`", "Most jails on the node."),
    key(
        "host_paths",
        "list of paths",
        "`[]`",
        "Paths of the host that jails may be shown (`MOUNT`) and copied from (`CP` of an absolute path), with everything below them. Whoever may make jails may read them.",
    ),
    key("releases", "table", "none", "See `[jails.releases]`."),
    key("copies_max", "number", "`2`", "Clones, snapshots, exports and imports that copy files at the same time."),
    key("output_max", "size", "`64MiB`", "Most bytes that one step of a template may write before it is ended."),
    key("stop_within", "span", "`60s`", "How long the services of a jail have to stop before they are killed."),
    key("import_max", "size", "`100GiB`", "Most bytes of an archive that becomes a jail, unpacked."),
    key("snapshots_max", "number", "`100`", "Most snapshots of a jail."),
];

pub(super) const RELEASES: &[Key] = &[key(
    "NAME",
    "text",
    "none",
    "What the release of this name is made from: an image (`docker.io/library/debian:12`), or on this node `oci:PATH`, `docker:PATH`, `dir:PATH` or `rootfs:PATH`.",
)];

type Fault = (String, String);

fn fault<T>(key: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.into(), why.into()))
}

/// Checks the table. `others`: where ids begin that others have, with their keys.
pub(super) fn jails(raw: RawJails, disk_ids: u32, uid_base: u32) -> Result<JailsConfig, Fault> {
    let base = JailsConfig::default();
    let first = raw.uid_base.unwrap_or(base.uid_base);
    let jails_max = raw.jails_max.unwrap_or(base.jails_max);
    if !(1..=4096).contains(&jails_max) {
        return fault("jails.jails_max", "must lie within 1 and 4096");
    }
    let past = u64::from(first) + u64::from(jails_max) * u64::from(UIDS_PER_JAIL);
    let meets = |from: u32| u64::from(from) < past && u64::from(from) + u64::from(UIDS_PER_JAIL) > u64::from(first);
    if first < UIDS_PER_JAIL {
        return fault("jails.uid_base", "must be at least 65536: ids below are the host's own");
    }
    if meets(disk_ids) {
        return fault("jails.uid_base", format!("meets container.disk_ids ({disk_ids}); put them apart"));
    }
    if past > u64::from(uid_base) {
        let why = format!("{jails_max} jails reach up to id {past}, and sandboxes begin at uid_base ({uid_base})");
        return fault("jails.uid_base", why);
    }
    let copies_max = raw.copies_max.map_or(base.copies_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(1..=64).contains(&copies_max) {
        return fault("jails.copies_max", "must lie within 1 and 64");
    }
    let snapshots_max = raw.snapshots_max.map_or(base.snapshots_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if snapshots_max > 10_000 {
        return fault("jails.snapshots_max", "must not exceed 10000: each is a copy");
    }
    let releases = raw.releases.into_iter().map(|(name, source)| release(&name, &source));
    Ok(JailsConfig {
        uid_base: first,
        jails_max,
        host_paths: host_paths(raw.host_paths.unwrap_or_default())?,
        releases: releases.collect::<Result<_, _>>()?,
        copies_max,
        output_bytes_max: raw.output_max.map_or(base.output_bytes_max, |size| size.0),
        stop_within: raw.stop_within.map_or(base.stop_within, |span| span.0),
        import_bytes_max: raw.import_max.map_or(base.import_bytes_max, |size| size.0),
        snapshots_max,
    })
}

fn host_paths(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, Fault> {
    let plain = |path: &PathBuf| {
        path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
    };
    match paths.iter().find(|path| !plain(path)) {
        Some(bad) => fault("jails.host_paths", format!("{} is not an absolute path without `..`", bad.display())),
        None => Ok(paths),
    }
}

fn release(name: &str, text: &str) -> Result<(ReleaseName, ReleaseSource), Fault> {
    let key = format!("jails.releases.{name}");
    let name = ReleaseName::parse(name).map_err(|e| (key.clone(), e.to_string()))?;
    let path = |path: &str| {
        let path = PathBuf::from(path);
        if path.is_absolute() { Ok(path) } else { fault(&key, format!("{} is not an absolute path", path.display())) }
    };
    let source = match text.split_once(':') {
        Some(("oci", rest)) => ReleaseSource::OciLayout(path(rest)?),
        Some(("docker", rest)) => ReleaseSource::DockerArchive(path(rest)?),
        Some(("dir", rest)) => ReleaseSource::Directory(path(rest)?),
        Some(("rootfs", rest)) => ReleaseSource::RootArchive(path(rest)?),
        _ if text.parse::<moat_image::ImageRef>().is_ok() => ReleaseSource::Image(text.to_owned()),
        _ => return fault(key, format!("{text:?} is neither an image nor oci:, docker:, dir: or rootfs: and a path")),
    };
    Ok((name, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_what_is_none_is_named() {
        let raw: RawJails = toml::from_str(
            "[releases]\n\"14.2-RELEASE\" = \"docker.io/library/debian:12\"\nown = \"rootfs:/srv/own.tar\"\n",
        )
        .unwrap();
        let read = jails(raw, 0x1000_0000, 0x4000_0000).unwrap();
        let name = |text: &str| ReleaseName::parse(text).unwrap();
        assert_eq!(read.releases[&name("own")], ReleaseSource::RootArchive("/srv/own.tar".into()));
        assert!(matches!(&read.releases[&name("14.2-RELEASE")], ReleaseSource::Image(i) if i.ends_with("debian:12")));
        let raw: RawJails = toml::from_str("[releases]\nown = \"rootfs:own.tar\"\n").unwrap();
        assert_eq!(jails(raw, 0x1000_0000, 0x4000_0000).unwrap_err().0, "jails.releases.own");
    }

    #[test]
    fn ids_of_jails_meet_no_others() {
        let with = |uid_base| RawJails { uid_base, ..RawJails::default() };
        assert!(jails(with(None), 0x2000_0000, 0x4000_0000).is_err());
        assert!(jails(with(Some(0x3fff_0000)), 0x1000_0000, 0x4000_0000).is_err());
        assert!(jails(with(Some(0)), 0x1000_0000, 0x4000_0000).is_err());
        assert!(jails(with(None), moat_drivers::container::ContainerConfig::default().disk_ids, 0x4000_0000).is_ok());
    }
}
