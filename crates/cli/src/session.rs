//! From options, environment, contexts and a running `moat up` to a connected client.

use std::path::{Path, PathBuf};

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use moat_api::client::{Client, Options, Timeouts};
use moat_api::subjects::Subjects;
use moat_model::ErrorKind;

use crate::args::Global;
use crate::context::{self, NatsContext};
use crate::credentials;
use crate::failure::Failure;

/// Where a server is expected if nobody says otherwise.
pub const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// A connection as decided, every source considered.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Server URLs.
    pub servers: Vec<String>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Token.
    pub token: Option<String>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// File with a user nkey seed.
    pub nkey: Option<PathBuf>,
    /// TLS client certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Certificate authority of the server.
    pub tls_ca: Option<PathBuf>,
    /// TLS before the server's greeting.
    pub tls_first: bool,
    /// JetStream domain.
    pub jsdomain: Option<String>,
    inbox_prefix: Option<String>,
}

impl Connection {
    /// Options win over a named context, that over a running `moat up`, that over the selected context, that over the
    /// default.
    pub fn resolve(global: &Global) -> Result<Self, Failure> {
        let base = match (&global.context, &global.server) {
            (Some(name), _) => Self::of_context(context::named(name)?),
            (None, Some(_)) => Self::default(),
            (None, None) => match credentials::find() {
                Some(up) => Self {
                    servers: vec![up.server],
                    user: Some(up.user),
                    password: Some(up.password),
                    ..Self::default()
                },
                None => context::selected()?.map(Self::of_context).unwrap_or_default(),
            },
        };
        base.with_options(global)
    }

    fn of_context(context: NatsContext) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let file = |text: String| some(text).map(expand_home);
        Self {
            servers: servers(&context.url),
            user: some(context.user),
            password: some(context.password),
            token: some(context.token),
            creds: file(context.creds),
            nkey: file(context.nkey),
            tls_cert: file(context.cert),
            tls_key: file(context.key),
            tls_ca: file(context.ca),
            tls_first: context.tls_first,
            jsdomain: some(context.jetstream_domain),
            inbox_prefix: some(context.inbox_prefix),
        }
    }

    fn with_options(mut self, global: &Global) -> Result<Self, Failure> {
        if let Some(list) = &global.server {
            self.servers = servers(list);
        }
        if self.servers.is_empty() {
            self.servers = vec![DEFAULT_SERVER.to_owned()];
        }
        if global.password.is_some() && global.user.is_none() {
            return Err(Failure::invalid("--password needs --user"));
        }
        if let Some(user) = &global.user {
            match &global.password {
                Some(password) => {
                    (self.user, self.password, self.token) = (Some(user.clone()), Some(password.clone()), None);
                }
                None => (self.user, self.password, self.token) = (None, None, Some(user.clone())),
            }
        }
        for (mine, given) in [
            (&mut self.creds, &global.creds),
            (&mut self.nkey, &global.nkey),
            (&mut self.tls_cert, &global.tlscert),
            (&mut self.tls_key, &global.tlskey),
            (&mut self.tls_ca, &global.tlsca),
        ] {
            if given.is_some() {
                mine.clone_from(given);
            }
        }
        self.tls_first |= global.tlsfirst;
        if global.jsdomain.is_some() {
            self.jsdomain.clone_from(&global.jsdomain);
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(Failure::invalid("--tlscert and --tlskey are needed together"));
        }
        Ok(self)
    }

    /// Connects; one attempt.
    pub async fn connect(&self, global: &Global) -> Result<async_nats::Client, Failure> {
        let shown = self.shown();
        let mut options = ConnectOptions::new().name("moat").connection_timeout(global.timeout);
        if let Some(path) = &self.creds {
            options = options.credentials_file(path).await.map_err(|e| Failure::file("read credentials", path, &e))?;
        } else if let Some(path) = &self.nkey {
            options = options.nkey(read_seed(path)?);
        } else if let Some(token) = &self.token {
            options = options.token(token.clone());
        } else if let (Some(user), Some(password)) = (&self.user, &self.password) {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(path) = &self.tls_ca {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        if self.tls_first {
            options = options.tls_first();
        }
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        options = options.event_callback(|event| async move {
            match event {
                // Without this a forbidden publish would only show as silence.
                Event::ServerError(error) => tracing::error!(%error, "the NATS server refused something"),
                other => tracing::debug!(event = %other, "connection"),
            }
        });
        options.connect(self.servers.clone()).await.map_err(|error| {
            let kind = match error.kind() {
                ConnectErrorKind::ServerParse => ErrorKind::InvalidSpec,
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => ErrorKind::Denied,
                ConnectErrorKind::TimedOut => ErrorKind::Deadline,
                _ => ErrorKind::Unavailable,
            };
            let hint = match kind {
                ErrorKind::Unavailable | ErrorKind::Deadline => " (is a nats-server there? `moat up` starts one)",
                ErrorKind::Denied => " (see --user, --password, --creds, --nkey, --context)",
                _ => "",
            };
            Failure::new(kind, format!("connect to {shown}: {error}{hint}"))
        })
    }

    /// The servers without what they hold of passwords.
    fn shown(&self) -> String {
        let shown = self.servers.iter().map(|server| match url::Url::parse(server) {
            Ok(mut url) => {
                // A URL without a host has no password to hide.
                let _ = url.set_password(None);
                let _ = url.set_username("");
                url.to_string()
            }
            Err(_) => "?".to_owned(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// A client for the options given.
pub async fn client(global: &Global) -> Result<Client, Failure> {
    let subjects = subjects(global)?;
    let connection = Connection::resolve(global)?;
    let nats = connection.connect(global).await?;
    Ok(Client::new(nats, options(global, subjects, connection.jsdomain)))
}

/// What a client is about, from the options given.
pub fn options(global: &Global, subjects: Subjects, jsdomain: Option<String>) -> Options {
    Options { subjects, namespace: global.namespace.clone(), timeouts: Timeouts::of_request(global.timeout), jsdomain }
}

/// The subjects below `--prefix`.
pub fn subjects(global: &Global) -> Result<Subjects, Failure> {
    Subjects::new(&global.prefix).map_err(|e| Failure::invalid(e.to_string()))
}

fn servers(list: &str) -> Vec<String> {
    let with_scheme =
        |server: &str| if server.contains("://") { server.to_owned() } else { format!("nats://{server}") };
    list.split(',').map(str::trim).filter(|server| !server.is_empty()).map(with_scheme).collect()
}

fn expand_home(text: String) -> PathBuf {
    match (text.strip_prefix("~/"), directories::BaseDirs::new()) {
        (Some(rest), Some(dirs)) => dirs.home_dir().join(rest),
        _ => PathBuf::from(text),
    }
}

fn read_seed(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read nkey", path, &e))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| Failure::invalid(format!("{}: holds no user seed (SU...)", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn global(arguments: &[&str]) -> Global {
        Cli::try_parse_from(["moat", "ps"].iter().chain(arguments)).unwrap().global
    }

    #[test]
    fn options_win_over_a_context() {
        let context = Connection {
            servers: vec!["nats://ctx:1".to_owned()],
            token: Some("t".to_owned()),
            ..Connection::default()
        };
        let kept = context.clone().with_options(&global(&[])).unwrap();
        assert_eq!(kept, context);
        let won = context.with_options(&global(&["-s", "a, tls://b:2", "--user", "u", "--password", "p"])).unwrap();
        assert_eq!(won.servers, ["nats://a", "tls://b:2"]);
        assert_eq!((won.user.as_deref(), won.token), (Some("u"), None));
    }

    #[test]
    fn a_user_without_a_password_is_a_token() {
        let connection = Connection::default().with_options(&global(&["--user", "tok"])).unwrap();
        assert_eq!((connection.token.as_deref(), connection.user), (Some("tok"), None));
        assert_eq!(connection.servers, [DEFAULT_SERVER]);
        assert!(Connection::default().with_options(&global(&["--password", "p"])).is_err());
        assert!(Connection::default().with_options(&global(&["--tlscert", "c"])).is_err());
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        let connection = Connection { servers: servers("nats://u:secret@h:1,h2"), ..Connection::default() };
        assert_eq!(connection.shown(), "nats://h:1, nats://h2");
    }
}
