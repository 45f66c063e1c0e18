use super::*;

fn artifact(source: &str) -> ArtifactSpec {
    ArtifactSpec {
        source: source.to_owned(),
        destination: "local/".to_owned(),
        mode: ArtifactMode::Any,
        options: BTreeMap::new(),
        headers: BTreeMap::new(),
        insecure: false,
        chown: false,
    }
}

fn refused(source: &str) -> FetchErrorKind {
    plan(&artifact(source)).unwrap_err().kind
}

#[test]
fn http_keeps_the_servers_query_and_takes_ours() {
    let found =
        plan(&artifact("https://h/a/b.zip?x=1&archive=false&checksum=md5:900150983cd24fb0d6963f7d28e17f72")).unwrap();
    let Fetch::Http(http) = &found.fetch else { panic!("{found:?}") };
    assert_eq!(http.url, "https://h/a/b.zip?x=1");
    assert_eq!(found.archive, ArchiveWish::Never);
    assert!(found.checksum.is_some());
    assert_eq!(found.name, "b.zip");
}

#[test]
fn a_directory_of_it_comes_after_two_slashes() {
    let found = plan(&artifact("https://h/a.tar.gz//inner/dir?x=1")).unwrap();
    assert_eq!(found.subdir.as_deref(), Some("inner/dir"));
    let Fetch::Http(http) = &found.fetch else { panic!("{found:?}") };
    assert_eq!(http.url, "https://h/a.tar.gz?x=1");
    assert_eq!(refused("https://h/a.tar.gz//../etc"), FetchErrorKind::BadSource);
    assert_eq!(refused("https://h/a.tar.gz//%2e%2e/etc"), FetchErrorKind::BadSource);
}

#[test]
fn git_in_its_forms() {
    for source in [
        "git::https://h/a/b.git//sub?ref=v1&depth=2",
        "git::ssh://git@h/a/b.git?ref=v1",
        "git@h:a/b.git?ref=v1",
        "github.com/a/b?ref=v1",
    ] {
        let found = plan(&artifact(source)).unwrap();
        let Fetch::Git(git) = &found.fetch else { panic!("{found:?}") };
        assert_eq!(git.reference.as_deref(), Some("v1"), "{source}");
        assert!(!git.url.contains('?'), "{source}");
        assert_eq!(found.name, "b.git");
    }
    for option in ["ref=--upload-pack=x", "depth=0", "depth=x", "sshkey=%%%", "unknown=1", "submodules=true"] {
        assert_eq!(refused(&format!("git::https://h/a?{option}")), FetchErrorKind::BadOption, "{option}");
    }
    let checksum = "md5:900150983cd24fb0d6963f7d28e17f72";
    assert_eq!(refused(&format!("git::https://h/a?checksum={checksum}")), FetchErrorKind::BadOption);
}

#[test]
fn s3_with_and_without_keys() {
    let found =
        plan(&artifact("s3::http://h:1/b/k/x.zip?region=r&version=7&aws_access_key_id=i&aws_access_key_secret=s"));
    let Fetch::S3(s3) = found.unwrap().fetch else { panic!("not S3") };
    assert_eq!((s3.bucket.as_str(), s3.key.as_str(), s3.region.as_str()), ("b", "k/x.zip", "r"));
    assert_eq!(s3.keys, Some(("i".to_owned(), "s".to_owned())));
    assert_eq!(s3.version.as_deref(), Some("7"));
    assert_eq!(refused("s3::http://h/b/k?aws_access_key_id=i"), FetchErrorKind::BadOption);
}

#[test]
fn ours() {
    let fetch = |source: &str| plan(&artifact(source)).unwrap().fetch;
    assert_eq!(fetch("nats://apps/a/b.zip"), Fetch::Nats { bucket: "apps".into(), key: "a/b.zip".into() });
    assert_eq!(fetch("oci://reg:5000/a/b:v1"), Fetch::Oci { reference: "reg:5000/a/b:v1".into() });
    let image = plan(&artifact("oci://reg:5000/a/b:v1//etc/app")).unwrap();
    assert_eq!((image.subdir.as_deref(), image.archive), (Some("etc/app"), ArchiveWish::As("tar".into())));
    assert_eq!(refused("oci://reg:5000/a/b:v1?archive=zip"), FetchErrorKind::BadOption);
    let sum = format!("oci://reg:5000/a/b:v1?checksum=sha256:{}", "0".repeat(64));
    assert_eq!(refused(&sum), FetchErrorKind::BadOption);
    for source in ["oci://reg:5000/a/b:v1", "nats://apps/a", "s3::https://h/b/k"] {
        let headers = [("X-A".to_owned(), "b".to_owned())].into();
        let error = plan(&ArtifactSpec { headers, ..artifact(source) }).unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::BadOption, "{source}: {error}");
    }
    let file = ArtifactSpec { mode: ArtifactMode::File, ..artifact("oci://reg:5000/a/b:v1") };
    assert_eq!(plan(&file).unwrap_err().kind, FetchErrorKind::BadOption);
}

#[test]
fn what_there_is_not_is_refused_with_what_to_use() {
    for (source, word) in [
        ("file:///etc/passwd", "host volumes"),
        ("git::file:///srv/x", "host volumes"),
        ("git::ext::sh -c x", "no scheme"),
        ("git::git://h/a", "git::https"),
        ("hg::https://h/a", "Mercurial"),
        ("gcs::https://www.googleapis.com/storage/v1/b/k", "s3::"),
        ("gs://b/k", "s3::"),
        ("ftp://h/a", "use http"),
        ("./local", "no scheme"),
        ("/etc/passwd", "no scheme"),
    ] {
        let error = plan(&artifact(source)).unwrap_err();
        assert!(error.detail.contains(word), "{source}: {error}");
        assert!(!error.recoverable(), "{source}");
    }
}

#[test]
fn options_of_the_artifact_win() {
    let mut artifact = artifact("https://h/a.zip?archive=false");
    artifact.options.insert("archive".to_owned(), "tar.gz".to_owned());
    assert_eq!(plan(&artifact).unwrap().archive, ArchiveWish::As("tar.gz".to_owned()));
    artifact.options.insert("archive".to_owned(), "rar".to_owned());
    assert_eq!(plan(&artifact).unwrap_err().kind, FetchErrorKind::BadOption);
}
