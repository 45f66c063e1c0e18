//! G01 and G07 of the series, through `exec` and `raw_exec`: what was fetched is what runs, and what was not is told.

use std::os::unix::fs::PermissionsExt;

use async_nats::jetstream;
use serde_json::Value;

use crate::stage::{Stage, client, id, is_over, tar_of};

/// A program that was fetched says hello; of one that is only there to be read, a shell says it.
fn job(name: &str, driver: &str, command: &str, artifact: &str) -> String {
    let args = match command.strip_prefix("test ") {
        Some(path) => format!("command = \"/bin/sh\"\n args = [\"-c\", \"test -s {path} && echo hello\"]"),
        None => format!("command = \"{command}\"\n args = [\"args\", \"hello\"]"),
    };
    format!(
        "job \"{name}\" {{\n type = \"batch\"\n group \"g\" {{\n restart {{\n attempts = 0\n mode = \"fail\"\n }}\n \
         reschedule {{\n attempts = 0\n unlimited = false\n }}\n task \"t\" {{\n driver = \"{driver}\"\n config {{\n \
         {args}\n }}\n artifact {{\n{artifact}\n }}\n }}\n }}\n}}\n"
    )
}

/// A file, a zip and a tar, to the default place and to others, run by `exec`.
pub async fn g01_fetched_unpacked_and_run(stage: &Stage) {
    let host = "http://s3.internal.net";
    let rows = [
        ("g01-file", "local/probe", format!("source = \"{host}/probe\"")),
        (
            "g01-named",
            "local/tool",
            format!("source = \"{host}/probe\"\nmode = \"file\"\ndestination = \"local/tool\""),
        ),
        (
            "g01-alloc",
            "test /alloc/probe",
            format!("source = \"{host}/probe\"\ndestination = \"${{NOMAD_ALLOC_DIR}}\""),
        ),
        ("g01-up", "test /alloc/data/probe", format!("source = \"{host}/probe\"\ndestination = \"../alloc/data\"")),
        ("g01-tar", "local/in/bin/tool", format!("source = \"{host}/probe.tar\"\ndestination = \"local/in\"")),
    ];
    for (name, command, artifact) in &rows {
        runs(stage, name, "exec", command, artifact).await;
    }
    // On the host there is no `/alloc`: what is in the task's own directory.
    for (name, command, artifact) in rows.iter().filter(|(_, command, _)| command.starts_with("local/")) {
        runs(stage, &format!("{name}-raw"), "raw_exec", command, artifact).await;
    }
}

async fn runs(stage: &Stage, name: &str, driver: &str, command: &str, artifact: &str) {
    let file = stage.job(&format!("{name}.hcl"), &job(name, driver, command, artifact));
    stage.run(&file);
    let over = stage.until(name, "it is over", is_over).await;
    assert_eq!(client(&over), "complete", "{name}: {over:#}");
    assert_eq!(stage.writes(name, "hello").await.trim(), "hello", "{name}");
    stage.purge(name).await;
}

/// G07: the reason stands in what people look at, and nothing of it was left.
pub async fn g07_a_checksum_that_differs_is_shown(stage: &Stage) {
    let sum = "0".repeat(64);
    let artifact = format!("source = \"http://s3.internal.net/probe\"\noptions {{\n checksum = \"sha256:{sum}\"\n }}");
    let file = stage.job("g07.hcl", &job("g07", "exec", "local/probe", &artifact));
    stage.run(&file);
    let over = stage.until("g07", "it failed", is_over).await;
    assert_eq!(client(&over), "failed", "{over:#}");
    let status = stage.says(&["alloc", "status", id(&over)]);
    for wanted in ["Failed Artifact Download", "sha256 is", sum.as_str(), "s3.internal.net/probe"] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    let listed = stage.says(&["alloc", "fs", id(&over), "t/local"]);
    assert!(!listed.contains("probe"), "{listed}");
    stage.purge("g07").await;

    // What the operator leads nowhere is refused as before, loopback and all.
    let artifact = "source = \"http://127.0.0.1:1/probe\"";
    let file = stage.job("denied.hcl", &job("denied", "exec", "local/probe", artifact));
    stage.run(&file);
    let over = stage.until("denied", "it failed", is_over).await;
    let status = stage.says(&["alloc", "status", id(&over)]);
    assert!(status.contains("an address of the node itself"), "{status}");
    stage.purge("denied").await;
}

/// What only the daemon can fetch: objects of NATS, of the namespace's own bucket and no other's, and files of an image.
pub async fn objects_and_images(stage: &Stage, probe: &[u8]) {
    let nats = jetstream::new(stage.nats().await);
    for bucket in ["moat_objects_default", "moat_objects_blue"] {
        let config = jetstream::object_store::Config { bucket: bucket.to_owned(), ..Default::default() };
        let store = nats.create_object_store(config).await.unwrap();
        store.put("bin/probe", &mut &*probe).await.unwrap();
        store.put("probe.tar", &mut &*tar_of("bin/tool", probe)).await.unwrap();
    }
    let own = "nats://moat_objects_default";
    runs(stage, "object", "exec", "local/probe", &format!("source = \"{own}/bin/probe\"")).await;
    let archive = format!("source = \"{own}/probe.tar\"\ndestination = \"local/in\"");
    runs(stage, "object-tar", "raw_exec", "local/in/bin/tool", &archive).await;

    let dir = stage.data_dir().with_file_name("files");
    std::fs::create_dir_all(dir.join("opt")).unwrap();
    std::fs::write(dir.join("opt/tool"), probe).unwrap();
    std::fs::set_permissions(dir.join("opt/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    stage.says(&["jail", "bootstrap", "files", "--from", &dir.display().to_string()]);
    let images = stage.told(&["image", "ls"]);
    let image = images["images"].as_array().unwrap_or(images.as_array().unwrap_or(&Vec::new())).last().cloned();
    let image =
        image.as_ref().and_then(|image| image["digest"].as_str()).unwrap_or_else(|| panic!("{images:#}")).to_owned();
    let artifact = format!("source = \"oci://{image}\"\ndestination = \"local/files\"");
    runs(stage, "image", "exec", "local/files/opt/tool", &artifact).await;

    let missing = format!("oci://localhost/{}:1", "missing");
    let refused: [(&str, &str, &[&str]); 4] = [
        ("blues", "nats://moat_objects_blue/bin/probe", &["moat_objects_default", "buckets of [jobs.artifact]"]),
        ("no-bucket", "nats://apps/x", &["buckets of [jobs.artifact]"]),
        ("no-object", "nats://moat_objects_default/x", &["moat_objects_default", "x"]),
        ("no-image", &missing, &["localhost/missing", "in the store of this node"]),
    ];
    for (name, source, wanted) in refused {
        let file =
            stage.job(&format!("{name}.hcl"), &job(name, "exec", "local/probe", &format!("source = \"{source}\"")));
        stage.run(&file);
        let over = stage.until(name, "it failed", is_over).await;
        let status = stage.says(&["alloc", "status", id(&over)]);
        for words in [&["Failed Artifact Download"], wanted].concat() {
            assert!(status.contains(words), "{words}: {status}");
        }
        let listed: Vec<Value> = stage.allocations(name);
        assert_eq!(client(&listed[0]), "failed", "{listed:#?}");
        stage.purge(name).await;
    }
}
