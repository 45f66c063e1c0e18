//! Private registries: every way in, and what is said to those who stay out.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use moat_image::store::{ImageStore, Source};
use moat_model::ErrorKind;
use moat_testkit::registry::{Front, PASSWORD, Registry, USER, Wants};

use crate::fixture::{Layout, Made, Packed, config, here, noise, pull, registry};

/// base64 of the user and the password.
const AUTH: &str = "bW9hdDpzZWNyZXQ=";

/// Set for the child: the store's directory.
const CHILD_STORE: &str = "MOAT_IMAGE_TEST_STORE";
/// Set for the child: what to pull.
const CHILD_NAME: &str = "MOAT_IMAGE_TEST_NAME";

fn image() -> (Layout, Made) {
    let mut layout = Layout::new();
    let layers: [&[_]; 3] = [&[("a", noise(9000, 31))], &[("b", noise(9000, 32))], &[("c", noise(9000, 33))]];
    let made = layout.image(&here(), &layers, Packed::Gzip);
    layout.name(&made, "x");
    (layout, made)
}

/// A store with this docker `config.json`.
fn store_with(docker: &str) -> (ImageStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut with = config(&dir.path().join("store"));
    let path = dir.path().join("config.json");
    std::fs::write(&path, docker).unwrap();
    with.docker_config = Some(path);
    (ImageStore::open(with).unwrap(), dir)
}

/// Complaint 6 of the field: private registries fail with 401 when templates are built from them.
#[tokio::test]
async fn e06_a_private_registry_works_with_every_kind_of_credentials() {
    let Some(server) = Registry::start_with_password().await.unwrap() else { return };
    let (layout, made) = image();
    server.push(&layout.named("x"), "private:1").await.unwrap();
    let name = format!("{}/private:1", server.host());

    let dir = tempfile::tempdir().unwrap();
    let anonymous = ImageStore::open(config(dir.path())).unwrap();
    let error = pull(&anonymous, registry(&name)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("wants a user name and a password; no docker config is set"), "{}", error.chain());

    let given = |user: &str, password: &str| Source::Registry {
        reference: name.parse().unwrap(),
        auth: Some((user.to_owned(), password.to_owned())),
    };
    let error = pull(&anonymous, given(USER, "wrong-hunter2")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("the credentials from the request are not accepted"), "{}", error.chain());
    assert!(!error.chain().contains("hunter2") && !format!("{error:?}").contains("hunter2"));
    let (image, _pin) = pull(&anonymous, given(USER, PASSWORD)).await.unwrap();
    assert_eq!(image.digest, made.manifest);

    let (configured, _dir) = store_with(&format!(r#"{{"auths":{{"{}":{{"auth":"{AUTH}"}}}}}}"#, server.host()));
    pull(&configured, registry(&name)).await.unwrap();

    // Credentials of another registry are not sent to this one.
    let (other, _dir) = store_with(&format!(r#"{{"auths":{{"other.example":{{"auth":"{AUTH}"}}}}}}"#));
    let error = pull(&other, registry(&name)).await.unwrap_err();
    assert!(error.chain().contains(&format!("has none for {}", server.host())), "{}", error.chain());
}

#[tokio::test]
async fn e06_tokens_are_got_and_got_again_when_they_expire() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let (layout, made) = image();
    server.push(&layout.named("x"), "tokens:1").await.unwrap();
    // A token is good for three requests; the pull needs five.
    let front = Front::start(&server.host(), Wants::Token { uses: 3 }).await.unwrap();
    let name = format!("{}/tokens:1", front.host());
    let docker = format!(r#"{{"auths":{{"http://{}/v1/":{{"auth":"{AUTH}"}}}}}}"#, front.host());
    let (store, _dir) = store_with(&docker);
    let (image, _pin) = pull(&store, registry(&name)).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    assert_eq!(front.requests("/token?").len(), 2, "{:?}", front.requests(""));
    assert!(
        front.requests("/token?")[0].contains("scope=repository%3Atokens%3Apull"),
        "{:?}",
        front.requests("/token?")
    );

    let (nobody, _dir) = store_with("{}");
    let error = pull(&nobody, registry(&name)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("it wants credentials"), "{}", error.chain());

    // A server whose tokens are good for nothing is asked a second time, and not for ever.
    let useless = Front::start(&server.host(), Wants::Token { uses: 0 }).await.unwrap();
    let source = Source::Registry {
        reference: format!("{}/tokens:1", useless.host()).parse().unwrap(),
        auth: Some((USER.to_owned(), PASSWORD.to_owned())),
    };
    let error = pull(&nobody, source).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(useless.requests("/token?").len() <= 2, "{:?}", useless.requests("/token?"));
}

#[tokio::test]
async fn credentials_given_for_a_registry_are_not_shown_to_its_mirror() {
    let Some(server) = Registry::start_with_password().await.unwrap() else { return };
    let Some(other) = Registry::start().await.unwrap() else { return };
    // The mirror has another image by that name, and gives it to who shows the right password.
    let mirror = Front::start(&other.host(), Wants::Password).await.unwrap();
    let (layout, made) = image();
    server.push(&layout.named("x"), "mirrored:1").await.unwrap();
    let mut wrong = Layout::new();
    let trap = wrong.image(&here(), &[&[("trap", b"t".to_vec())]], Packed::Gzip);
    wrong.name(&trap, "x");
    other.push(&wrong.named("x"), "mirrored:1").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut with = config(dir.path());
    with.mirrors.insert(server.host(), vec![mirror.host()]);
    let store = ImageStore::open(with).unwrap();
    let source = Source::Registry {
        reference: format!("{}/mirrored:1", server.host()).parse().unwrap(),
        auth: Some((USER.to_owned(), PASSWORD.to_owned())),
    };
    assert!(!format!("{source:?}").contains(PASSWORD));
    let (image, _pin) = pull(&store, source).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    assert!(!mirror.requests("/manifests/").is_empty(), "the mirror was asked, without credentials");
}

#[tokio::test]
async fn anonymous_tokens_open_public_repositories() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let (layout, made) = image();
    server.push(&layout.named("x"), "public:1").await.unwrap();
    let front = Front::start(&server.host(), Wants::AnonymousToken).await.unwrap();
    let (store, _dir) = crate::fixture::store();
    let (image, _pin) = pull(&store, registry(&format!("{}/public:1", front.host()))).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    assert_eq!(front.requests("/token?").len(), 1, "three layers at once share one token");
}

#[tokio::test]
async fn e06_credential_programs_are_asked() {
    let Some(server) = Registry::start_with_password().await.unwrap() else { return };
    let (layout, made) = image();
    server.push(&layout.named("x"), "helped:1").await.unwrap();
    let host = server.host();
    let name = format!("{host}/helped:1");
    for (docker, script, expected) in [
        (
            format!(r#"{{"credHelpers":{{"{host}":"moat-test"}}}}"#),
            format!(
                "#!/bin/sh\n[ \"$1\" = get ] && read -r s; [ \"$s\" = '{host}' ] || exit 3\n\
                 echo '{{\"ServerURL\":\"x\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n"
            ),
            made.manifest.to_string(),
        ),
        (
            // The store knows nothing: the file does.
            format!(r#"{{"credsStore":"moat-test","auths":{{"{host}":{{"auth":"{AUTH}"}}}}}}"#),
            "#!/bin/sh\necho 'credentials not found in native keychain'; exit 1\n".to_owned(),
            made.manifest.to_string(),
        ),
        (
            r#"{"credsStore":"moat-test"}"#.to_owned(),
            "#!/bin/sh\necho 'the keychain is locked'; exit 1\n".to_owned(),
            "the keychain is locked".to_owned(),
        ),
        (
            r#"{"credsStore":"moat-test"}"#.to_owned(),
            "#!/bin/sh\nexec sleep 600\n".to_owned(),
            "did not answer within".to_owned(),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), docker).unwrap();
        write_program(&dir.path().join("docker-credential-moat-test"), &script);
        let said = child(dir.path(), &name).await;
        assert!(said.contains(&expected), "{expected}: {said}");
    }
}

fn write_program(path: &Path, script: &str) {
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o755).open(path).unwrap();
    file.write_all(script.as_bytes()).unwrap();
}

/// Runs this test program again with `dir` on its `PATH`: programs are looked for there.
async fn child(dir: &Path, name: &str) -> String {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let done = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["auth::pulls_in_a_child", "--exact", "--nocapture"])
        .env("PATH", path)
        .env(CHILD_STORE, dir)
        .env(CHILD_NAME, name)
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Does something only in the child of the test above.
#[tokio::test]
async fn pulls_in_a_child() {
    let (Ok(dir), Ok(name)) = (std::env::var(CHILD_STORE), std::env::var(CHILD_NAME)) else { return };
    let mut with = config(&Path::new(&dir).join("store"));
    with.docker_config = Some(Path::new(&dir).join("config.json"));
    let store = ImageStore::open(with).unwrap();
    match pull(&store, registry(&name)).await {
        Ok((image, _pin)) => println!("PULLED {}", image.digest),
        Err(error) => println!("FAILED {}", error.chain()),
    }
}
