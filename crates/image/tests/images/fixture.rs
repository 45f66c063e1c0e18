//! Images made for a test: OCI layouts with layers of a few files, and a store to bring them into.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use moat_image::erofs::Limits;
use moat_image::progress::Progress;
use moat_image::store::{Image, ImageStore, Pin, Platform, Source, StoreConfig};
use moat_image::{Digest, Result};
use moat_testkit::not_run_here;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a layer of a test is compressed.
#[derive(Debug, Clone, Copy)]
pub enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// An OCI layout in a directory of its own.
pub struct Layout {
    dir: TempDir,
    entries: Vec<Value>,
}

/// An image in a layout.
pub struct Made {
    pub manifest: Digest,
    pub size: usize,
    pub layers: Vec<Digest>,
    pub config: Digest,
    pub platform: String,
}

impl Layout {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, entries: Vec::new() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// As skopeo names an image in it.
    pub fn named(&self, name: &str) -> String {
        format!("{}:{name}", self.dir.path().display())
    }

    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("blobs/sha256").join(digest.hex())
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        std::fs::write(self.blob_file(&digest), bytes).unwrap();
        digest
    }

    /// An image with these layers; each is a list of files with their content.
    pub fn image(&mut self, platform: &str, layers: &[&[(&str, Vec<u8>)]], packed: Packed) -> Made {
        let tars: Vec<Vec<u8>> = layers.iter().map(|files| tar_of(files)).collect();
        let diff_ids: Vec<String> = tars.iter().map(|tar| Digest::of(tar).to_string()).collect();
        self.image_with(platform, &tars, &diff_ids, packed)
    }

    /// The same with any diff_ids.
    pub fn image_with(&mut self, platform: &str, tars: &[Vec<u8>], diff_ids: &[String], packed: Packed) -> Made {
        let (os, arch) = platform.split_once('/').unwrap();
        let config = json!({"os": os, "architecture": arch, "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "config": {"Env": ["GREETING=hello"], "Cmd": ["/bin/sh"], "WorkingDir": "/srv", "User": "1000:1000"}})
        .to_string();
        let config_digest = self.blob(config.as_bytes());
        let kind = match packed {
            Packed::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packed::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packed::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let packed: Vec<Vec<u8>> = tars.iter().map(|tar| pack(tar, packed)).collect();
        let digests: Vec<Digest> = packed.iter().map(|bytes| self.blob(bytes)).collect();
        let described: Vec<Value> = packed
            .iter()
            .zip(&digests)
            .map(|(bytes, digest)| json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
                "size": config.len()},
            "layers": described})
        .to_string();
        let digest = self.blob(manifest.as_bytes());
        Made {
            manifest: digest,
            size: manifest.len(),
            layers: digests,
            config: config_digest,
            platform: platform.to_owned(),
        }
    }

    /// Gives an image a name in the layout.
    pub fn name(&mut self, made: &Made, name: &str) {
        self.entry("application/vnd.oci.image.manifest.v1+json", &made.manifest, made.size, name);
    }

    /// Makes an index of images under a name.
    pub fn index(&mut self, images: &[&Made], name: &str) -> Digest {
        let manifests: Vec<Value> = images
            .iter()
            .map(|made| {
                let (os, arch) = made.platform.split_once('/').unwrap();
                json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": made.manifest,
                    "size": made.size, "platform": {"os": os, "architecture": arch}})
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests})
        .to_string();
        let digest = self.blob(index.as_bytes());
        self.entry("application/vnd.oci.image.index.v1+json", &digest, index.len(), name);
        digest
    }

    fn entry(&mut self, kind: &str, digest: &Digest, size: usize, name: &str) {
        self.entries.push(json!({"mediaType": kind, "digest": digest, "size": size,
            "annotations": {"org.opencontainers.image.ref.name": name}}));
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        std::fs::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// A tar archive of files.
pub fn tar_of(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn pack(tar: &[u8], packed: Packed) -> Vec<u8> {
    match packed {
        Packed::Plain => tar.to_vec(),
        Packed::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Packed::Zstd => zstd::stream::encode_all(tar, 1).unwrap(),
    }
}

/// Bytes that no compression makes smaller, the same each time for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

/// What this host runs, as layouts write it.
pub fn here() -> String {
    let platform = Platform::host();
    format!("{}/{}", platform.os, platform.architecture)
}

pub fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.to_owned(),
        insecure_registries: BTreeSet::new(),
        mirrors: BTreeMap::new(),
        docker_config: None,
        parallel_layers: 3,
        limits: Limits::default(),
    }
}

/// An empty store; the directory lives as long as what is returned.
pub fn store() -> (ImageStore, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (ImageStore::open(config(dir.path())).unwrap(), dir)
}

pub fn registry(name: &str) -> Source {
    Source::Registry { reference: name.parse().unwrap(), auth: None }
}

/// A pull that nobody watches or cancels.
pub async fn pull(store: &ImageStore, source: Source) -> Result<(Image, Pin)> {
    store.pull(source, None, watch::Sender::new(Progress::default()), CancellationToken::new()).await
}

/// All files below a directory, without its name.
pub fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found
}

/// What is in the root of an image, mounted: names and content of all its files. The bytes of the root file itself depend on
/// which layer was the faster one.
pub fn root_of(image: &Image) -> Digest {
    let dir = tempfile::tempdir().unwrap();
    let mounted = rustix::mount::mount(&image.root.path, dir.path(), "erofs", rustix::mount::MountFlags::RDONLY, None);
    if let Err(e) = mounted {
        not_run_here(&format!("the content of a root is not looked at: mounting it needs root and Linux 6.12: {e}"));
        return Digest::of(b"");
    }
    let found = files(dir.path()).into_iter().map(|name| {
        let content = std::fs::read(dir.path().join(&name)).unwrap();
        format!("{name} {}\n", Digest::of(&content))
    });
    let all: String = found.collect();
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    Digest::of(all.as_bytes())
}
