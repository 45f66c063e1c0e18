//! Manifests, indexes and image configurations, of OCI and of docker, as they come from somebody else.

use std::collections::BTreeMap;

use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::erofs::Compression;
use crate::error::{Error, Result};
use crate::platform::{PlatformDocument, check_platform, fit};
use crate::store::{ImageConfig, Platform};

/// Longest manifest, index or configuration: what registries take at most.
pub const DOCUMENT_MAX: u64 = 4 << 20;

/// Most layers of one image. Builders stop at 127; whoever makes more than this wants something else.
const LAYERS_MAX: usize = 512;

/// What a client that takes both families asks for.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// `PATH` of an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Points at other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// Of its bytes.
    pub size: u64,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformDocument>,
    /// Names, in the index of a layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A document that a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Of one image.
    Manifest(Manifest),
    /// Of one image for each platform.
    Index(Vec<Descriptor>),
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<(Descriptor, Compression)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidSpec, why)
}

/// Reads a manifest or an index. A document that could be read as both is refused: two readers would see two images.
pub fn read(bytes: &[u8], what: &str) -> Result<Document> {
    let raw: RawDocument = serde_json::from_slice(bytes)
        .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("read the manifest of {what}"), e))?;
    if raw.fs_layers.is_some() || raw.schema_version == Some(1) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{what} has a manifest of schema 1, which no registry makes any more; push the image again"),
        ));
    }
    if raw.schema_version != Some(2) {
        return Err(invalid(format!("{what}: schemaVersion must be 2")));
    }
    let media_type = raw.media_type.as_deref().unwrap_or_default();
    let is_index = media_type.contains("image.index") || media_type.contains("manifest.list");
    let is_manifest = media_type.contains("image.manifest") || media_type.contains("manifest.v2");
    match (raw.config, raw.layers, raw.manifests) {
        (None, None, Some(manifests)) if !is_manifest => Ok(Document::Index(manifests)),
        (Some(config), Some(layers), None) if !is_index => Ok(Document::Manifest(manifest(config, layers, what)?)),
        _ => Err(invalid(format!("{what} is neither the manifest of an image nor an index of images"))),
    }
}

fn manifest(config: Descriptor, layers: Vec<Descriptor>, what: &str) -> Result<Manifest> {
    if layers.len() > LAYERS_MAX {
        return Err(invalid(format!("{what} has {} layers; the most is {LAYERS_MAX}", layers.len())));
    }
    if !matches!(
        config.media_type.as_str(),
        "" | "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    ) {
        let kind = &config.media_type;
        return Err(Error::new(ErrorKind::Unsupported, format!("{what} is no container image: its kind is {kind}")));
    }
    let layers = layers.into_iter().map(|layer| {
        let compression = layer_compression(&layer, what)?;
        Ok((layer, compression))
    });
    Ok(Manifest { config, layers: layers.collect::<Result<_>>()? })
}

fn layer_compression(layer: &Descriptor, what: &str) -> Result<Compression> {
    match layer.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok(Compression::Zstd)
        }
        other if other.contains("foreign") || other.contains("nondistributable") => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{what}: layer {} is kept elsewhere ({other}); such images are not fetched", layer.digest),
        )),
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{what}: layer {} is of kind {other:?}; tar, gzip and zstd layers are read", layer.digest),
        )),
    }
}

/// The manifest for a platform.
pub fn select<'a>(manifests: &'a [Descriptor], wanted: &Platform, what: &str) -> Result<&'a Descriptor> {
    // Some tools write an index around one image and leave the platform out: its configuration tells.
    if let [only] = manifests
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let fitting = manifests.iter().filter_map(|m| m.platform.as_ref().and_then(|p| fit(wanted, p)).map(|f| (f, m)));
    fitting.min_by_key(|(fit, _)| *fit).map(|(_, manifest)| manifest).ok_or_else(|| {
        let there: Vec<String> = manifests
            .iter()
            .filter_map(|m| m.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .take(40)
            .map(|p| Platform::from(p.clone()).to_string())
            .collect();
        let there = if there.is_empty() { "nothing with a platform".to_owned() } else { there.join(", ") };
        Error::new(ErrorKind::NotFound, format!("{what} is not there for {wanted}; there is: {there}"))
    })
}

/// What the configuration of an image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// What it runs on.
    pub platform: Platform,
    /// Of processes.
    pub config: ImageConfig,
    /// Digests of the uncompressed layers, lowest first; empty if it does not say.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(flatten)]
    platform: PlatformDocument,
    #[serde(default)]
    config: Option<RawProcess>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawProcess {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "WorkingDir")]
    working_dir: Option<String>,
    #[serde(rename = "StopSignal")]
    stop_signal: Option<String>,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Reads the configuration of an image.
pub fn read_configuration(bytes: &[u8], what: &str) -> Result<Configuration> {
    let raw: RawConfiguration = serde_json::from_slice(bytes)
        .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("read the configuration of {what}"), e))?;
    let process = raw.config.unwrap_or_default();
    let texts = process.env.iter().chain(&process.entrypoint).chain(&process.cmd).flatten();
    if texts.chain(&process.user).chain(&process.working_dir).any(|text| text.contains('\0')) {
        return Err(invalid(format!("the configuration of {what} has a zero byte where no program can take one")));
    }
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for entry in process.env.unwrap_or_default() {
        let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
        env.insert(name.to_owned(), value.to_owned());
    }
    env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let config = ImageConfig {
        env,
        entrypoint: process.entrypoint.unwrap_or_default(),
        cmd: process.cmd.unwrap_or_default(),
        user: filled(process.user),
        working_dir: filled(process.working_dir).map(|d| if d.starts_with('/') { d } else { format!("/{d}") }),
        stop_signal: filled(process.stop_signal),
        labels: process.labels.unwrap_or_default(),
    };
    let diff_ids = raw.rootfs.unwrap_or_default().diff_ids;
    Ok(Configuration { platform: raw.platform.into(), config, diff_ids })
}

/// The configuration of a root that comes without one.
pub fn bare_configuration(platform: Platform) -> Configuration {
    let env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    Configuration { platform, config: ImageConfig { env, ..ImageConfig::default() }, diff_ids: Vec::new() }
}

/// Refuses a configuration that does not fit the platform or the number of layers.
pub fn check_configuration(configuration: &Configuration, layers: usize, wanted: &Platform, what: &str) -> Result<()> {
    check_platform(&configuration.platform, wanted, what)?;
    if !configuration.diff_ids.is_empty() && configuration.diff_ids.len() != layers {
        let named = configuration.diff_ids.len();
        return Err(invalid(format!("{what}: its configuration names {named} layers, its manifest {layers}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(kind: &str) -> serde_json::Value {
        json!({"mediaType": kind, "digest": Digest::of(kind.as_bytes()).to_string(), "size": 3})
    }

    fn read_json(value: &serde_json::Value) -> Result<Document> {
        read(value.to_string().as_bytes(), "img")
    }

    #[test]
    fn both_families_are_read_and_what_is_no_image_is_refused_by_name() {
        for (config, layer, compression) in [
            (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Compression::Zstd,
            ),
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Compression::Gzip,
            ),
            ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar", Compression::None),
        ] {
            let document = json!({"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer)]});
            let Document::Manifest(manifest) = read_json(&document).unwrap() else { panic!("an index?") };
            assert_eq!(manifest.layers[0].1, compression);
        }
        let oci = "application/vnd.oci.image.config.v1+json";
        for (document, part) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (json!({"schemaVersion": 3}), "schemaVersion"),
            (json!({"schemaVersion": 2}), "neither"),
            (json!({"schemaVersion": 2, "manifests": [], "config": descriptor(oci), "layers": []}), "neither"),
            (
                json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                    "config": descriptor(oci), "layers": []}),
                "neither",
            ),
            (
                json!({"schemaVersion": 2, "config": descriptor(oci),
                    "layers": [descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]}),
                "kept elsewhere",
            ),
            (
                json!({"schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"),
                    "layers": []}),
                "no container image",
            ),
            (
                json!({"schemaVersion": 2, "config": descriptor(oci), "layers": [descriptor("application/wasm")]}),
                "application/wasm",
            ),
        ] {
            let error = read_json(&document).unwrap_err().chain();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_platform_is_found_or_what_is_there_is_listed() {
        let entry = |text: &str| {
            let platform: Platform = text.parse().unwrap();
            let platform =
                PlatformDocument { os: platform.os, architecture: platform.architecture, variant: platform.variant };
            Descriptor {
                media_type: String::new(),
                digest: Digest::of(text.as_bytes()),
                size: 1,
                platform: Some(platform),
                annotations: None,
            }
        };
        let index: Vec<_> = ["unknown/unknown", "linux/amd64/v3", "linux/amd64", "linux/arm/v6", "linux/arm64/v8"]
            .map(entry)
            .into_iter()
            .collect();
        for (wanted, found) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/arm/v7", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v6"),
        ] {
            let chosen = select(&index, &wanted.parse().unwrap(), "img").unwrap();
            assert_eq!(chosen.digest, Digest::of(found.as_bytes()), "{wanted}");
        }
        let error = select(&index, &"linux/s390x".parse().unwrap(), "img").unwrap_err().chain();
        assert!(error.contains("linux/amd64/v3, linux/amd64, linux/arm/v6, linux/arm64/v8"), "{error}");
        assert!(!error.contains("unknown"), "{error}");
    }

    #[test]
    fn a_configuration_is_read_with_its_defaults() {
        let text = json!({"os": "linux", "architecture": "amd64", "config": {
            "Env": ["A=b=c", "EMPTY="], "Entrypoint": ["/e"], "Cmd": null, "User": "", "WorkingDir": "srv",
            "StopSignal": "SIGQUIT", "Labels": {"l": "1"}}});
        let read = read_configuration(text.to_string().as_bytes(), "img").unwrap();
        assert_eq!(read.config.env["A"], "b=c");
        assert_eq!(read.config.env["PATH"], DEFAULT_PATH);
        assert_eq!(read.config.working_dir.as_deref(), Some("/srv"));
        assert_eq!(read.config.user, None);
        assert_eq!(read.config.stop_signal.as_deref(), Some("SIGQUIT"));
        check_configuration(&read, 3, &"linux/amd64".parse().unwrap(), "img").unwrap();
        let error = check_configuration(&read, 3, &"linux/arm64".parse().unwrap(), "img").unwrap_err();
        assert!(error.chain().contains("for linux/amd64 only"), "{error}");
        assert!(read_configuration(br#"{"config":{"Env":["A=\u0000"]}}"#, "img").is_err());
    }
}
