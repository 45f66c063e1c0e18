//! From an image in a registry, or in a file, to a root that a sandbox can stand on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use moat_image::ImageStore;
use moat_image::erofs::Limits;
use moat_image::progress::Progress;
use moat_image::store::{Source, StoreConfig};
use moat_testkit::registry::Registry;
use moat_testkit::tool;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::rivals::timed;
use crate::samples::Sample;

/// The series the promise is about.
pub const FROM_REGISTRY: &str = "moat: registry → image ready";
/// What a second asking costs.
pub const AGAIN: &str = "moat: the same again";
const FROM_LAYOUT: &str = "moat: OCI layout → image ready";
const RIVAL: &str = "skopeo copy + umoci unpack";
const ROUNDS: usize = 10;

/// Interleaves ours and theirs, each into an empty directory.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let bench = Bench::prepare().await?;
    let mut samples = Vec::new();
    // The first round fills the page cache and does not count.
    for round in 0..=ROUNDS {
        let registry: Source = bench.registry_source()?;
        let dir = bench.fresh("store")?;
        let store = open(&dir)?;
        let from_registry = pull(&store, registry.clone()).await?;
        let again = pull(&store, registry).await?;
        std::fs::remove_dir_all(&dir)?;

        let dir = bench.fresh("store")?;
        let layout = Source::OciLayout { path: bench.layout(), name: Some(TAG.to_owned()) };
        let from_layout = pull(&open(&dir)?, layout).await?;
        std::fs::remove_dir_all(&dir)?;

        let rival = bench.rival()?;
        if round > 0 {
            // The one that is held against the rival comes last of ours.
            let series = [(AGAIN, again), (FROM_LAYOUT, from_layout), (FROM_REGISTRY, from_registry), (RIVAL, rival)];
            samples.extend(series.map(|(subject, taken)| Sample::time("T6", subject, taken)));
        }
    }
    Ok(samples)
}

const TAG: &str = "bench";

/// A registry with one image, and the programs of others.
struct Bench {
    registry: Registry,
    dir: TempDir,
    umoci: PathBuf,
    skopeo: PathBuf,
}

impl Bench {
    async fn prepare() -> anyhow::Result<Self> {
        let installed = |name: &str| tool(name).with_context(|| format!("{name} is not installed"));
        let registry = Registry::start().await?.context("docker-registry is not installed")?;
        let dir = tempfile::Builder::new().prefix("moat-bench-image-").tempdir()?;
        let bench = Self { registry, dir, umoci: installed("umoci")?, skopeo: installed("skopeo")? };
        let layout = bench.layout();
        let image = bench.tagged(&layout);
        timed(Command::new(&bench.umoci).args(["init", "--layout"]).arg(&layout)).context("umoci init")?;
        timed(Command::new(&bench.umoci).args(["new", "--image", &image])).context("umoci new")?;
        let root = installed("debian-root.tar")?;
        timed(Command::new(&bench.umoci).args(["raw", "add-layer", "--image", &image]).arg(root))
            .context("umoci raw add-layer")?;
        bench.registry.push(&image, &format!("bench/debian:{TAG}")).await?;
        Ok(bench)
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn tagged(&self, layout: &Path) -> String {
        format!("{}:{TAG}", layout.display())
    }

    fn reference(&self) -> String {
        format!("{}/bench/debian:{TAG}", self.registry.host())
    }

    fn registry_source(&self) -> anyhow::Result<Source> {
        Ok(Source::Registry { reference: self.reference().parse()?, auth: None })
    }

    /// An empty directory.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Fetched by one program, unpacked by the other.
    fn rival(&self) -> anyhow::Result<Duration> {
        let dir = self.fresh("rival")?;
        let copy = self.tagged(&dir.join("layout"));
        let from = format!("docker://{}", self.reference());
        let flags = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
        let fetched =
            timed(Command::new(&self.skopeo).args(flags).arg(from).arg(format!("oci:{copy}"))).context("skopeo")?;
        let unpacked = timed(Command::new(&self.umoci).args(["unpack", "--image", &copy]).arg(dir.join("bundle")))
            .context("umoci unpack")?;
        std::fs::remove_dir_all(dir)?;
        Ok(fetched + unpacked)
    }
}

fn open(dir: &Path) -> anyhow::Result<ImageStore> {
    let config = StoreConfig {
        dir: dir.to_owned(),
        insecure_registries: BTreeSet::new(),
        mirrors: BTreeMap::new(),
        docker_config: None,
        parallel_layers: 4,
        limits: Limits::default(),
    };
    ImageStore::open(config).map_err(|e| anyhow::anyhow!(e.chain()))
}

async fn pull(store: &ImageStore, source: Source) -> anyhow::Result<Duration> {
    let (progress, _) = watch::channel(Progress::default());
    let begin = Instant::now();
    let pulled = store.pull(source, None, progress, CancellationToken::new()).await;
    pulled.map_err(|e| anyhow::anyhow!(e.chain()))?;
    Ok(begin.elapsed())
}
