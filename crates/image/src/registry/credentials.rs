//! Who we are to a registry: given with the request, or found in docker's `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::{BASE64, BASE64_NOPAD};
use moat_model::ErrorKind;
use serde::Deserialize;

use super::credstore;
use super::retry::Patience;
use crate::error::{Error, Result};
use crate::reference::DEFAULT_REGISTRY;

/// Longest `config.json`.
const CONFIG_MAX: u64 = 1 << 20;

/// What docker calls its own registry in `config.json` and to credential programs.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A text that must not show up in logs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// What proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User name and password.
    Basic { user: String, password: Secret },
    /// Given to the token server for a token.
    Identity(Secret),
    /// A token that the registry itself takes.
    Token(Secret),
}

/// Credentials, and where they are from, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub credentials: Option<Credentials>,
    pub origin: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    programs: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Looks up credentials for a registry. The file is read each time: `docker login` takes effect without a restart.
pub(crate) async fn find(config: Option<&Path>, registry: &str, repository: &str, patience: Patience) -> Result<Found> {
    let Some(path) = config else {
        return Ok(Found { credentials: None, origin: "no docker config is set".to_owned() });
    };
    let shown = path.display();
    let Some(config) = read(path).await? else {
        return Ok(Found { credentials: None, origin: format!("{shown} does not exist") });
    };
    let program = config.programs.iter().find(|(key, _)| host_of(key) == registry).map(|(_, name)| name);
    let key = if registry == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { registry };
    if let Some(name) = program.or(config.store.as_ref()).filter(|name| !name.is_empty())
        && let Some(credentials) = credstore::get(name, key, patience.connect).await?
    {
        let origin = format!("docker-credential-{name}");
        return Ok(Found { credentials: Some(credentials), origin });
    }
    let entry = entry_for(&config.auths, registry, repository);
    let credentials = match entry {
        Some(entry) => from_entry(entry, registry, path)?,
        None => None,
    };
    let origin = match &credentials {
        Some(_) => format!("{shown}"),
        None => format!("{shown} has none for {registry}"),
    };
    Ok(Found { credentials, origin })
}

async fn read(path: &Path) -> Result<Option<DockerConfig>> {
    let doing = || format!("read {}", path.display());
    let failed = |e: std::io::Error| Error::caused_by(ErrorKind::InvalidSpec, doing(), e);
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = Vec::new();
    let mut bounded = tokio::io::AsyncReadExt::take(file, CONFIG_MAX + 1);
    tokio::io::AsyncReadExt::read_to_end(&mut bounded, &mut text).await.map_err(failed)?;
    if text.len() as u64 > CONFIG_MAX {
        return Err(Error::new(ErrorKind::InvalidSpec, format!("{}: more than {CONFIG_MAX} bytes", doing())));
    }
    // The text of a syntax error quotes no values, so no secret gets into the message.
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, doing(), e))
}

/// `https://index.docker.io/v1/` → `docker.io`, `https://r.example/v2/` → `r.example`.
fn host_of(key: &str) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = bare.split('/').next().unwrap_or(bare);
    match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        host => host,
    }
}

/// The entry of the longest path that the repository lies in; most keys are just a host.
fn entry_for<'a>(auths: &'a BTreeMap<String, Entry>, registry: &str, repository: &str) -> Option<&'a Entry> {
    let mut path = format!("{registry}/{repository}");
    loop {
        if let Some(entry) = auths.get(&path) {
            return Some(entry);
        }
        match path.rfind('/') {
            Some(at) => path.truncate(at),
            None => break,
        }
    }
    auths
        .iter()
        .find(|(key, _)| host_of(key) == registry && (key.contains("://") || key.starts_with("index.")))
        .map(|(_, entry)| entry)
}

fn from_entry(entry: &Entry, registry: &str, path: &Path) -> Result<Option<Credentials>> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(token) = filled(&entry.registrytoken) {
        return Ok(Some(Credentials::Token(Secret(token))));
    }
    if let Some(token) = filled(&entry.identitytoken) {
        return Ok(Some(Credentials::Identity(Secret(token))));
    }
    if let (Some(user), Some(password)) = (filled(&entry.username), filled(&entry.password)) {
        return Ok(Some(Credentials::Basic { user, password: Secret(password) }));
    }
    let Some(auth) = filled(&entry.auth) else { return Ok(None) };
    let bytes = BASE64.decode(auth.as_bytes()).or_else(|_| BASE64_NOPAD.decode(auth.as_bytes()));
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    let Some((user, password)) = pair else {
        let field = format!("{}: auths.{registry}.auth", path.display());
        return Err(Error::invalid(&field, "must be the base64 of user:password"));
    };
    // Docker pads the password with zero bytes in some versions.
    let password = Secret(password.trim_end_matches('\0').to_owned());
    Ok(Some(Credentials::Basic { user: user.to_owned(), password }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look(config: &str, registry: &str, repository: &str) -> Result<Found> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find(Some(&path), registry, repository, Patience::default()).await
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { user: user.to_owned(), password: Secret(password.to_owned()) })
    }

    #[tokio::test]
    async fn entries_are_found_by_every_spelling_of_the_host() {
        let auth = BASE64.encode(b"u:p:w");
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("r.example:5000", "r.example:5000"),
            ("https://r.example", "r.example"),
            ("r.example/team", "r.example"),
        ] {
            let config = format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#);
            let found = look(&config, registry, "team/app").await.unwrap();
            assert_eq!(found.credentials, basic("u", "p:w"), "{key}");
        }
        let config = format!(r#"{{"auths":{{"r.example/other":{{"auth":"{auth}"}}}}}}"#);
        assert_eq!(look(&config, "r.example", "team/app").await.unwrap().credentials, None);
    }

    #[tokio::test]
    async fn a_config_that_is_wrong_is_named_without_its_secrets() {
        let error = look(r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#, "r", "a").await.unwrap_err().chain();
        assert!(error.contains("auths.r.auth") && !error.contains("hunter2") && !error.contains("aHVu"), "{error}");
        assert!(look("{", "r", "a").await.is_err());
        let none = find(Some(Path::new("/nonexistent/config.json")), "r", "a", Patience::default()).await.unwrap();
        assert!(none.credentials.is_none() && none.origin.contains("does not exist"));
        let shown = format!("{:?}", Credentials::Identity(Secret("hunter2".to_owned())));
        assert!(!shown.contains("hunter2"));
    }
}
