//! Images from files of this host.

use std::collections::BTreeSet;
use std::path::Path;

use moat_image::store::Source;
use moat_model::ErrorKind;
use serde_json::json;

use crate::fixture::{Layout, Packed, files, here, noise, pack, pull, root_of, store, tar_of};

fn layout_source(path: &Path, name: Option<&str>) -> Source {
    Source::OciLayout { path: path.to_owned(), name: name.map(str::to_owned) }
}

/// A tar archive of all files of a directory.
fn archive_of(dir: &Path, to: &Path) {
    let mut builder = tar::Builder::new(std::fs::File::create(to).unwrap());
    builder.append_dir_all(".", dir).unwrap();
    builder.finish().unwrap();
}

#[tokio::test]
async fn a_layout_is_the_same_image_as_a_directory_and_as_an_archive() {
    let mut layout = Layout::new();
    let one = layout.image(&here(), &[&[("a", noise(100_000, 41))], &[("b", b"b".to_vec())]], Packed::Zstd);
    layout.name(&one, "one");
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("layout.tar");
    archive_of(layout.path(), &archive);
    let (first, _dir) = store();
    let (image, _pin) = pull(&first, layout_source(layout.path(), None)).await.unwrap();
    assert_eq!(image.digest, one.manifest);
    assert_eq!(image.references, BTreeSet::from([format!("oci:{}", layout.path().display())]));
    let (second, second_dir) = store();
    let (same, _pin) = pull(&second, layout_source(&archive, Some("one"))).await.unwrap();
    assert_eq!((same.digest, root_of(&same)), (image.digest, root_of(&image)));
    // Read in place: nothing is kept twice.
    assert!(files(&second_dir.path().join("blobs")).is_empty());

    let two = layout.image(&here(), &[&[("two", b"2".to_vec())]], Packed::Gzip);
    layout.name(&two, "two");
    let error = pull(&first, layout_source(layout.path(), None)).await.unwrap_err();
    assert!(error.chain().contains("one, two"), "{}", error.chain());
    let error = pull(&first, layout_source(layout.path(), Some("three"))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.chain());
    assert_eq!(pull(&first, layout_source(layout.path(), Some("two"))).await.unwrap().0.digest, two.manifest);

    // A compressed archive says what to do.
    let packed = dir.path().join("layout.tar.gz");
    std::fs::write(&packed, pack(&std::fs::read(&archive).unwrap(), Packed::Gzip)).unwrap();
    let error = pull(&first, layout_source(&packed, None)).await.unwrap_err();
    assert!(error.chain().contains("decompress it first"), "{}", error.chain());
}

#[tokio::test]
async fn damage_in_a_layout_is_refused_wherever_it_is() {
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(50_000, 42))]], Packed::Plain);
    layout.name(&made, "x");
    let (store, dir) = store();
    for digest in [made.manifest, made.config, made.layers[0]] {
        let file = layout.blob_file(&digest);
        let right = std::fs::read(&file).unwrap();
        let mut wrong = right.clone();
        let at = wrong.len() - 700.min(wrong.len() / 2);
        wrong[at] ^= 1;
        std::fs::write(&file, &wrong).unwrap();
        let error = pull(&store, layout_source(layout.path(), None)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidSpec, "{}", error.chain());
        std::fs::remove_file(&file).unwrap();
        assert!(pull(&store, layout_source(layout.path(), None)).await.is_err());
        std::fs::write(&file, &right).unwrap();
    }
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    pull(&store, layout_source(layout.path(), None)).await.unwrap();
}

#[tokio::test]
async fn what_docker_saves_is_read_with_its_names_and_links() {
    let one = tar_of(&[("one", b"1".to_vec())]);
    let two = tar_of(&[("two", noise(10_000, 43))]);
    let diff_ids: Vec<_> = [&one, &two, &one].map(|tar| moat_image::Digest::of(tar).to_string()).into();
    let (os, arch) = here().split_once('/').map(|(os, arch)| (os.to_owned(), arch.to_owned())).unwrap();
    let config = json!({"os": os, "architecture": arch, "config": {"Entrypoint": ["/one"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let list = json!([{"Config": "abc.json", "RepoTags": ["app:1", "registry.example/app:2"],
        "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("saved.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("abc.json", config.as_bytes());
    add("1/layer.tar", &one);
    add("2/layer.tar", &two);
    add("manifest.json", list.to_string().as_bytes());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "3/layer.tar", "../1/layer.tar").unwrap();
    builder.finish().unwrap();

    let (store, _dir) = store();
    let source = |name: Option<&str>| Source::DockerArchive { path: path.clone(), name: name.map(str::to_owned) };
    let (image, _pin) = pull(&store, source(None)).await.unwrap();
    assert_eq!(image.config.entrypoint, ["/one"]);
    assert!(image.references.contains("docker.io/library/app:1"), "{:?}", image.references);
    assert_eq!(store.find("app:1").unwrap().0.digest, image.digest);
    assert_eq!(pull(&store, source(Some("registry.example/app:2"))).await.unwrap().0.digest, image.digest);
    let error = pull(&store, source(Some("other"))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.chain());
}

#[tokio::test]
async fn directories_and_archives_of_a_root_are_named_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/hostname"), "one").unwrap();
    let (store, _dir) = store();
    let directory = || Source::Directory { path: root.clone() };
    let (first, _pin) = pull(&store, directory()).await.unwrap();
    assert_eq!(pull(&store, directory()).await.unwrap().0.digest, first.digest);
    std::fs::write(root.join("etc/hostname"), "two").unwrap();
    let (second, _pin) = pull(&store, directory()).await.unwrap();
    assert_ne!(second.digest, first.digest);
    assert!(second.config.env.contains_key("PATH"));

    let archive = dir.path().join("root.tar.gz");
    std::fs::write(&archive, pack(&tar_of(&[("etc/hostname", b"one".to_vec())]), Packed::Gzip)).unwrap();
    let packed = || Source::RootArchive { path: archive.clone() };
    let (third, _pin) = pull(&store, packed()).await.unwrap();
    assert_eq!(pull(&store, packed()).await.unwrap().0.digest, third.digest);
    assert_eq!(store.list().len(), 3);
}

#[tokio::test]
async fn what_skopeo_writes_is_read() {
    let Some(skopeo) = moat_testkit::tool("skopeo") else {
        return moat_testkit::not_run_here("skopeo is not installed; `cargo xtask install` puts it into the tools");
    };
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(30_000, 44))], &[("b", b"b".to_vec())]], Packed::Gzip);
    layout.name(&made, "x");
    let dir = tempfile::tempdir().unwrap();
    let (store, _dir) = store();
    let (expected, _pin) = pull(&store, layout_source(layout.path(), None)).await.unwrap();
    for kind in ["docker-archive", "oci-archive", "oci"] {
        let path = dir.path().join(kind);
        let done = tokio::process::Command::new(&skopeo)
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}", layout.named("x")))
            .arg(format!("{kind}:{}:app:1", path.display()))
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let source = match kind {
            "docker-archive" => Source::DockerArchive { path, name: Some("app:1".to_owned()) },
            _ => layout_source(&path, Some("app:1")),
        };
        let (image, _pin) = pull(&store, source).await.unwrap();
        assert_eq!((&image.config, root_of(&image)), (&expected.config, root_of(&expected)), "{kind}");
    }
}
