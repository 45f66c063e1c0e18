//! Contexts of the `nats` command line: named connections in `~/.config/nats/context/`.

use std::path::{Path, PathBuf};

use moat_model::ErrorKind;
use serde::Deserialize;

use crate::failure::Failure;

/// A named connection. Every member may be empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NatsContext {
    /// Server URLs, separated by commas.
    pub url: String,
    /// Token.
    pub token: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Credentials file.
    pub creds: String,
    /// File with a user nkey seed.
    pub nkey: String,
    /// TLS client certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
    /// Certificate authority of the server.
    pub ca: String,
    /// TLS before the server's greeting.
    pub tls_first: bool,
    /// JetStream domain.
    pub jetstream_domain: String,
    /// Prefix of reply subjects.
    pub inbox_prefix: String,
    nsc: String,
    socks_proxy: String,
    jetstream_api_prefix: String,
    user_jwt: String,
}

/// The context of that name.
pub fn named(name: &str) -> Result<NatsContext, Failure> {
    load(&config_dir()?, name)
}

/// The context the user selected, if any.
pub fn selected() -> Result<Option<NatsContext>, Failure> {
    let Ok(dir) = config_dir() else { return Ok(None) };
    match std::fs::read_to_string(dir.join("context.txt")) {
        Ok(name) if !name.trim().is_empty() => load(&dir, name.trim()).map(Some),
        _ => Ok(None),
    }
}

fn config_dir() -> Result<PathBuf, Failure> {
    directories::BaseDirs::new()
        .map(|dirs| dirs.config_dir().join("nats"))
        .ok_or_else(|| Failure::invalid("no home directory to find NATS contexts in: set HOME"))
}

fn load(dir: &Path, name: &str) -> Result<NatsContext, Failure> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(Failure::invalid(format!("{name:?} is not the name of a NATS context")));
    }
    let path = dir.join("context").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::file("read NATS context", &path, &e))?;
    let context: NatsContext =
        serde_json::from_str(&text).map_err(|e| Failure::invalid(format!("NATS context {}: {e}", path.display())))?;
    // To connect without what a context asks for would be to connect somewhere else, or as somebody else.
    for (member, value) in [
        ("nsc", &context.nsc),
        ("socks_proxy", &context.socks_proxy),
        ("jetstream_api_prefix", &context.jetstream_api_prefix),
        ("user_jwt", &context.user_jwt),
    ] {
        if !value.is_empty() {
            return Err(Failure::new(
                ErrorKind::Unsupported,
                format!("NATS context {}: {member} is not supported", path.display()),
            ));
        }
    }
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(json: &str) -> Result<NatsContext, Failure> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("context/prod.json"), json).unwrap();
        load(dir.path(), "prod")
    }

    #[test]
    fn contexts_of_the_nats_command_line_are_read() {
        let read = context(
            r#"{"description":"p","url":"nats://a:1,nats://b:2","socks_proxy":"","token":"","user":"u","password":"p",
                "creds":"","nkey":"","cert":"","key":"","ca":"","nsc":"","jetstream_domain":"hub","jetstream_api_prefix":"",
                "jetstream_event_prefix":"","inbox_prefix":"_I","user_jwt":"","color_scheme":"","tls_first":true}"#,
        )
        .unwrap();
        assert_eq!((read.url.as_str(), read.user.as_str()), ("nats://a:1,nats://b:2", "u"));
        assert_eq!((read.jetstream_domain.as_str(), read.tls_first), ("hub", true));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        assert_eq!(context(r#"{"url":"nats://a","nsc":"nsc://o/a/u"}"#).unwrap_err().kind, ErrorKind::Unsupported);
        assert!(context("{").is_err());
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), "none").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(load(dir.path(), "../../etc/passwd").unwrap_err().kind, ErrorKind::InvalidSpec);
    }
}
