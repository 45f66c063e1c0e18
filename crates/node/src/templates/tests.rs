//! Templates on real files: images from layouts made here, records across restarts. No sandbox is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moat_api::rest::image::Image;
use moat_api::rest::sandbox::ResourceLimits;
use moat_engine::fake::{FakeConfig, FakeWorld};
use moat_engine::{EngineConfig, Registry};
use moat_image::progress::Progress;
use moat_image::store::{Source, StoreConfig};
use moat_testkit::wait_until;
use serde_json::json;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Writes an OCI layout with one image of one file, under a name. `content` makes its digest.
pub(crate) fn layout(dir: &Path, name: &str, content: &str) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "greeting", content.as_bytes()).unwrap();
    let layer = builder.into_inner().unwrap();
    let arch = crate::verbs::host::arch();
    let config = json!({"os": "linux", "architecture": arch,
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        "config": {"Env": ["GREETING=hello", "LANG=C"], "Entrypoint": ["/bin/serve"], "Cmd": ["--fast"],
            "WorkingDir": "/srv", "User": "1000:1000", "StopSignal": "SIGQUIT"}})
    .to_string();
    let (config_digest, layer_digest) = (blob(config.as_bytes()), blob(&layer));
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
            "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest,
            "size": layer.len()}]})
    .to_string();
    let digest = blob(manifest.as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": name}}]});
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A store below a directory.
pub(crate) fn store(dir: &Path) -> ImageStore {
    ImageStore::open(StoreConfig {
        dir: dir.join("images"),
        insecure_registries: std::collections::BTreeSet::new(),
        mirrors: BTreeMap::new(),
        docker_config: None,
        parallel_layers: 2,
        limits: moat_image::erofs::Limits::default(),
    })
    .unwrap()
}

/// Brings an image made here into the store.
pub(crate) async fn import(templates: &Templates, dir: &Path, name: &str, content: &str) -> Image {
    let path = dir.join("layout");
    layout(&path, name, content);
    let source = Source::OciLayout { path, name: None };
    let (progress, _) = watch::channel(Progress::default());
    templates.import(source, Some(name.to_owned()), progress, CancellationToken::new()).await.unwrap()
}

/// Nothing else needs images.
#[derive(Debug)]
struct Nobody;

impl ImageUsers for Nobody {
    fn in_use(&self) -> Option<ImageUse> {
        Some(ImageUse::default())
    }

    fn pool_of(&self, _template: &str) -> Option<PoolStatus> {
        None
    }
}

struct Bed {
    dir: tempfile::TempDir,
    templates: Templates,
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let templates = Self::open(dir.path()).await;
        Self { dir, templates }
    }

    async fn open(dir: &Path) -> Templates {
        let world = FakeWorld::new(FakeConfig::default());
        let config = EngineConfig::new(dir.join("run"), dir.join("data"));
        let outbox = crate::events::Outbox::open(&dir.join("outbox"), moat_api::Subjects::default()).await.unwrap();
        let outlet_config = crate::outlet::OutletConfig::new(dir.join("logs"), dir.join("bindings"));
        let outlet = crate::outlet::NodeOutlet::open(outlet_config, outbox).await.unwrap();
        let (engine, _) = Engine::open(config, Registry::new(vec![world.driver()]), Arc::new(outlet)).await.unwrap();
        let templates = Templates::open(&dir.join("templates"), store(dir), engine, None).unwrap();
        templates.add_users(Arc::new(Nobody));
        templates.go_on();
        templates
    }

    async fn restart(self) -> Self {
        self.templates.close().await;
        let Self { dir, templates } = self;
        drop(templates);
        let templates = Self::open(dir.path()).await;
        Self { dir, templates }
    }

    async fn import(&self, name: &str, content: &str) -> Image {
        import(&self.templates, self.dir.path(), name, content).await
    }

    async fn warm(&self, request: Warmup) -> WarmupStatus {
        let name = request.name.clone();
        self.templates.warm_up(request).await.unwrap();
        self.settled(&name).await
    }

    async fn settled(&self, name: &str) -> WarmupStatus {
        let settled = async || Some(self.templates.status(name).unwrap()).filter(|s| s.status != "warming");
        wait_until(SOON, "the warm-up is over", settled).await.unwrap()
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("templates/{name}.json"))
    }
}

fn request(name: &str, image: &str) -> Warmup {
    Warmup { name: name.to_owned(), image: image.to_owned(), ..Warmup::default() }
}

/// A registry that takes connections and never answers.
fn silent_registry() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, format!("{address}/team/app:1"))
}

#[tokio::test]
async fn the_built_in_templates_are_always_there_and_stay() {
    let bed = Bed::new().await;
    let names: Vec<String> = bed.templates.list().templates.into_iter().map(|t| t.name).collect();
    assert_eq!(names, BUILT_IN);
    assert_eq!(bed.templates.status("host").unwrap().status, "ready");
    assert_eq!(bed.templates.remove("host").await.unwrap_err().kind, ErrorKind::Denied);
    let refusal = bed.templates.warm_up(request("scratch", "alpine")).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::InvalidSpec);
    assert_eq!(bed.templates.get("nothing").unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn requests_that_can_never_work_name_their_field() {
    let bed = Bed::new().await;
    let good = request("a", "alpine");
    let limits = ResourceLimits { memory_mb: Some(0), ..ResourceLimits::default() };
    for (bad, field) in [
        (request("../a", "alpine"), "name"),
        (request("a@1", "alpine"), "name"),
        (request("a", "UPPER/case:"), "image"),
        (Warmup { platform: Some("linux".to_owned()), ..good.clone() }, "platform"),
        (Warmup { resources: limits, ..good.clone() }, "resources.memory_mb"),
        (Warmup { workdir: Some("srv".to_owned()), ..good.clone() }, "workdir"),
        (Warmup { user: Some("a b".to_owned()), ..good.clone() }, "user"),
        (Warmup { env: BTreeMap::from([("A=".to_owned(), String::new())]), ..good }, "env"),
    ] {
        let refusal = bed.templates.warm_up(bad).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::InvalidSpec);
        assert!(refusal.chain().starts_with(&format!("{field}: ")), "{field}: {}", refusal.chain());
    }
    assert!(std::fs::read_dir(bed.dir.path().join("templates")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_template_has_the_images_defaults_under_its_own_and_survives_a_restart() {
    let bed = Bed::new().await;
    let image = bed.import("localhost/app:1", "one").await;
    let env = BTreeMap::from([("LANG".to_owned(), "de".to_owned()), ("MORE".to_owned(), "1".to_owned())]);
    let asked = Warmup { env, workdir: Some("/tmp".to_owned()), ..request("app", &image.digest) };
    assert_eq!(bed.warm(asked).await.status, "ready");
    let before = bed.templates.get("app").unwrap();
    assert_eq!((before.version, before.status.as_str()), (1, "ready"));
    assert_eq!(before.digest.as_ref(), Some(&image.digest));
    assert_eq!((before.defaults.env["GREETING"].as_str(), before.defaults.env["LANG"].as_str()), ("hello", "de"));
    assert_eq!(before.defaults.workdir.as_deref(), Some("/tmp"));
    assert_eq!((before.defaults.entrypoint.len(), before.defaults.stop_signal.as_deref()), (1, Some("SIGQUIT")));
    let bed = bed.restart().await;
    assert_eq!(bed.templates.get("app").unwrap(), before);
    let used = bed.templates.images().images;
    assert_eq!(used[0].used_by, ["template app@1"]);
    let refusal = bed.templates.remove_image(&image.digest).await.unwrap_err();
    assert!(refusal.kind == ErrorKind::Conflict && refusal.chain().contains("template app@1"), "{}", refusal.chain());
    bed.templates.remove("app").await.unwrap();
    assert!(!bed.record("app").exists());
    bed.templates.remove_image(&image.digest).await.unwrap();
}

#[tokio::test]
async fn the_same_image_is_no_new_version_and_a_moved_one_is() {
    let bed = Bed::new().await;
    bed.import("localhost/app:1", "one").await;
    // What an import is called: the registry is not asked for it.
    let name = &format!("oci:{}/layout:localhost/app:1", bed.dir.path().display());
    assert_eq!(bed.warm(request("app", name)).await.version, 1);
    assert_eq!(bed.warm(request("app", name)).await.version, 1);
    bed.import("localhost/app:1", "two").await;
    assert_eq!(bed.warm(request("app", name)).await.version, 2);
    let (old, new) = (bed.templates.resolve("app@1").unwrap(), bed.templates.resolve("app").unwrap());
    assert_ne!(old.image, new.image);
    assert_eq!(new.template.unwrap().version, 2);
    let other = Warmup { user: Some("root".to_owned()), ..request("app", name) };
    assert_eq!(bed.warm(other).await.version, 3);
    // Nothing lives from the old ones.
    bed.templates.collect(false).await.unwrap();
    assert_eq!(bed.templates.resolve("app@1").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(bed.templates.resolve("app@3").unwrap().defaults.user.as_deref(), Some("root"));
}

#[tokio::test]
async fn a_failure_is_kept_and_told_and_does_not_take_the_version_in_use() {
    let bed = Bed::new().await;
    let missing = format!("sha256:{}", "0".repeat(64));
    let failed = bed.warm(request("app", &missing)).await;
    assert_eq!((failed.status.as_str(), failed.version), ("failed", 0));
    assert_eq!(failed.error.unwrap().code, "not_found");
    let refusal = bed.templates.resolve("app").unwrap_err();
    assert!(refusal.kind == ErrorKind::Conflict && refusal.chain().contains("its warm-up failed"));
    let bed = bed.restart().await;
    assert_eq!(bed.templates.status("app").unwrap().status, "failed");
    let image = bed.import("localhost/app:1", "one").await;
    assert_eq!(bed.warm(request("app", &image.digest)).await.version, 1);
    let again = bed.warm(request("app", &missing)).await;
    assert_eq!((again.status.as_str(), again.version), ("failed", 1));
    assert!(bed.templates.resolve("app").is_ok());
}

#[tokio::test]
async fn one_warm_up_at_a_time_is_joined_or_a_conflict_and_can_be_cancelled() {
    let bed = Bed::new().await;
    let (_listener, image) = silent_registry();
    let status = bed.templates.warm_up(request("app", &image)).await.unwrap();
    assert_eq!((status.status.as_str(), status.version), ("warming", 0));
    assert_eq!(bed.templates.warm_up(request("app", &image)).await.unwrap().status, "warming");
    let refusal = bed.templates.warm_up(request("app", "alpine")).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    assert_eq!(bed.templates.resolve("app").unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(bed.templates.cancel("app").await.unwrap().status, "cancelled");
    assert_eq!(bed.templates.cancel("app").await.unwrap_err().kind, ErrorKind::Conflict);
    bed.templates.warm_up(request("app", &image)).await.unwrap();
    bed.templates.remove("app").await.unwrap();
    assert_eq!(bed.templates.status("app").unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn an_interrupted_warm_up_is_started_again_by_the_next_daemon() {
    let bed = Bed::new().await;
    let (listener, image) = silent_registry();
    bed.templates.warm_up(request("app", &image)).await.unwrap();
    let bed = bed.restart().await;
    listener.set_nonblocking(true).unwrap();
    assert_eq!(bed.templates.status("app").unwrap().status, "warming");
    // Both daemons asked the registry.
    let mut calls = Vec::new();
    wait_until(SOON, "the second daemon asks too", async || {
        calls.extend(listener.accept().ok());
        (calls.len() >= 2).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(bed.templates.cancel("app").await.unwrap().status, "cancelled");
    let bed = bed.restart().await;
    assert_eq!(bed.templates.status("app").unwrap().status, "cancelled");
}

#[tokio::test]
async fn a_record_that_cannot_be_written_starts_nothing() {
    let bed = Bed::new().await;
    let image = bed.import("localhost/app:1", "one").await;
    std::fs::remove_dir_all(bed.dir.path().join("templates")).unwrap();
    assert_eq!(bed.templates.warm_up(request("app", &image.digest)).await.unwrap_err().kind, ErrorKind::Internal);
    assert_eq!(bed.templates.status("app").unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn what_nothing_needs_is_collected_and_what_a_template_needs_is_not() {
    let bed = Bed::new().await;
    let (kept, gone) = (bed.import("localhost/a:1", "one").await, bed.import("localhost/b:1", "two").await);
    bed.warm(request("app", &kept.digest)).await;
    let collected = bed.templates.collect(true).await.unwrap();
    assert_eq!(collected.images, [gone.digest]);
    let left: Vec<String> = bed.templates.images().images.into_iter().map(|i| i.digest).collect();
    assert_eq!(left, [kept.digest]);
    assert!(bed.templates.resolve("app").is_ok());
}
