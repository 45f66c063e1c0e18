//! Repositories, by the git that is installed, in an environment in which only our arguments configure it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use url::Url;

use super::Failure;
use super::address::{Unresolved, allowed, check_literal, check_port};
use super::confine::Place;
use crate::error::FetchErrorKind;
use crate::origin::{Git, percent_decoded};
use crate::wire::{Order, TREE};

/// Most of what git says that is kept for the error.
const WORDS_MAX: usize = 4096;

/// What git may not do, whoever asks: run what lies in a repository, ask somebody, follow a server elsewhere, read other
/// configurations, speak other protocols.
const SAFE: [&str; 13] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "credential.helper=",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "protocol.ssh.allow=always",
    "http.followRedirects=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
];

/// Clones into [`TREE`] of the staging directory.
pub(super) async fn clone(git: &Git, order: &Order, place: &Place) -> Result<(), Failure> {
    let bad = |why: String| Failure::new(FetchErrorKind::BadSource, why);
    let mut url: Url = git.url.parse().map_err(|e: url::ParseError| bad(e.to_string()))?;
    let mut caller = Caller::new(place)?;
    let address = resolved(&url, order).await?;
    if url.scheme() == "ssh" {
        caller.ssh(git, order, place, &url, address)?;
    } else {
        caller.http(git, &mut url, address)?;
    }
    let mut arguments: Vec<OsString> = ["clone", "--no-checkout", "--template="].map(OsString::from).to_vec();
    if let Some(depth) = git.depth {
        arguments.push(format!("--depth={depth}").into());
        // A shallow clone has only the branch or tag that is asked for.
        if let Some(reference) = &git.reference {
            arguments.push(format!("--branch={reference}").into());
        }
    }
    arguments.extend(["--".into(), url.as_str().into(), TREE.into()]);
    caller.git(Path::new("."), &arguments).await?;
    let reference = git.reference.as_deref().unwrap_or("HEAD");
    let checkout = ["checkout", "--quiet", reference, "--"].map(OsString::from);
    caller.git(Path::new(TREE), &checkout).await?;
    let modules = std::fs::symlink_metadata(Path::new(TREE).join(".gitmodules")).is_ok();
    if modules && !git.without_submodules {
        let detail = "it has submodules, which are not fetched: options { submodules = \"false\" } does without them";
        return Err(Failure::new(FetchErrorKind::Git, detail));
    }
    Ok(())
}

/// The address of the repository's host that may be reached. git is told to use this one: it never resolves by itself.
async fn resolved(url: &Url, order: &Order) -> Result<SocketAddr, Failure> {
    check_literal(url, &order.network)?;
    let host = url.host_str().ok_or_else(|| Failure::new(FetchErrorKind::BadSource, "it has no host"))?;
    let port = url.port_or_known_default().unwrap_or(22);
    // git can be told another address for a name, not another port.
    check_port(url, Some(port), &order.network)?;
    match allowed(host, port, &order.network).await {
        Ok(addresses) => addresses
            .first()
            .copied()
            .ok_or_else(|| Failure::new(FetchErrorKind::Unreachable, format!("{host} has no address"))),
        Err(Unresolved::Denied(denied)) => Err(denied.into()),
        Err(error) => Err(Failure::new(FetchErrorKind::Unreachable, format!("{host}: {error}"))),
    }
}

/// How git is called.
struct Caller {
    configuration: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
}

impl Caller {
    fn new(place: &Place) -> Result<Self, Failure> {
        let home = place.path.join("home");
        std::fs::create_dir("home").map_err(|e| Failure::node("make git's home", e))?;
        let set = |name, value: &str| (name, OsString::from(value));
        let environment = vec![
            set("GIT_CONFIG_NOSYSTEM", "1"),
            set("GIT_CONFIG_GLOBAL", "/dev/null"),
            set("GIT_ATTR_NOSYSTEM", "1"),
            set("GIT_TERMINAL_PROMPT", "0"),
            set("GIT_ALLOW_PROTOCOL", "https:http:ssh"),
            set("GIT_PROTOCOL_FROM_USER", "0"),
            set("GIT_LFS_SKIP_SMUDGE", "1"),
            set("LC_ALL", "C"),
            ("HOME", home.clone().into()),
            ("TMPDIR", home.into()),
        ];
        Ok(Self { configuration: SAFE.map(str::to_owned).to_vec(), environment })
    }

    /// Over HTTP: the address pinned, a password as a header in the environment and not in the repository's configuration.
    fn http(&mut self, git: &Git, url: &mut Url, address: SocketAddr) -> Result<(), Failure> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let ip = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        // What stands in the address itself needs no name.
        if !matches!(url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_))) {
            self.configuration.push(format!("http.curloptResolve={host}:{}:{ip}", address.port()));
        }
        if git.insecure {
            self.configuration.push("http.sslVerify=false".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            let plain = |text: &str| percent_decoded(text).unwrap_or_default();
            let pair = format!("{}:{}", plain(url.username()), plain(url.password().unwrap_or_default()));
            let header = format!("Authorization: Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
            let place = |_| Failure::new(FetchErrorKind::BadSource, "its user name cannot be taken out");
            url.set_username("").map_err(place)?;
            url.set_password(None).map_err(place)?;
            self.environment.push(("GIT_CONFIG_COUNT", "1".into()));
            self.environment.push(("GIT_CONFIG_KEY_0", "http.extraHeader".into()));
            self.environment.push(("GIT_CONFIG_VALUE_0", header.into()));
        }
        Ok(())
    }

    /// Over ssh: the address pinned, keys of servers known beforehand, none of the host's configuration.
    fn ssh(&mut self, git: &Git, order: &Order, place: &Place, url: &Url, address: SocketAddr) -> Result<(), Failure> {
        let host = url.host_str().unwrap_or_default();
        let alias = match url.port() {
            Some(port) if port != 22 => format!("[{host}]:{port}"),
            _ => host.to_owned(),
        };
        let simple = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b));
        if !simple(&alias) || alias.starts_with('-') {
            return Err(Failure::new(FetchErrorKind::BadSource, "its host is no name"));
        }
        let known = order.ssh_known_hosts.as_deref().unwrap_or(Path::new("/dev/null"));
        let mut command = String::from("ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -o ConnectTimeout=30");
        // Writing into a text does not fail.
        let _ = write!(
            command,
            " -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o UserKnownHostsFile='{}' \
             -o HostKeyAlias='{alias}' -o HostName={} -o ProxyCommand=none -o IdentityAgent=none",
            known.display().to_string().replace('\'', ""),
            address.ip()
        );
        if let Some(key) = &git.ssh_key {
            let path = place.path.join("home/key");
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open("home/key");
            let end = if key.ends_with('\n') { "" } else { "\n" };
            file.and_then(|mut file| file.write_all(format!("{key}{end}").as_bytes()))
                .map_err(|e| Failure::node("keep the key for ssh", e))?;
            let _ = write!(command, " -i {}", path.display());
        }
        self.environment.push(("GIT_SSH_COMMAND", command.into()));
        self.environment.push(("GIT_SSH_VARIANT", "ssh".into()));
        Ok(())
    }

    async fn git(&self, directory: &Path, arguments: &[OsString]) -> Result<(), Failure> {
        let mut command = tokio::process::Command::new("git");
        for setting in &self.configuration {
            command.arg("-c").arg(setting);
        }
        command.args(arguments).current_dir(directory).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let start = |e| Failure::new(FetchErrorKind::Git, format!("git cannot be started: {e}; is it installed?"));
        let mut child = command.spawn().map_err(start)?;
        let mut words = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            let mut chunk = [0; 1024];
            // All of it is read, for git would wait; the last of it is kept.
            while let Ok(got @ 1..) = stderr.read(&mut chunk).await {
                words.extend_from_slice(chunk.get(..got).unwrap_or_default());
                let excess = words.len().saturating_sub(WORDS_MAX);
                words.drain(..excess);
            }
        }
        let status = child.wait().await.map_err(|e| Failure::node("wait for git", e))?;
        if status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&words);
        let lines: Vec<&str> = words.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
        let kept = lines.len().saturating_sub(4);
        let said = lines.get(kept..).unwrap_or_default().join("; ");
        let said: String = said.chars().filter(|c| !c.is_control()).collect();
        Err(Failure::new(FetchErrorKind::Git, format!("git: {said} ({status})")))
    }
}
