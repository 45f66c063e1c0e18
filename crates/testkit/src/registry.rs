//! A real registry for one test, and a front before it that wants tokens, breaks connections and counts requests.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::nats::free_port;
use crate::not_run::not_run_here;
use crate::tools::tool;
use crate::wait::wait_until;

/// Starts in some 50 ms; a loaded machine may be a hundred times slower.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The user that registries with a password know.
pub const USER: &str = "moat";

/// Her password.
pub const PASSWORD: &str = "secret";

/// bcrypt of [`PASSWORD`], as the registry wants it.
const HTPASSWD: &str = "moat:$2b$04$0kcXOG0yHEsg9PiKHlM81e0sL3trICZB.SwSuUO6ZfA0TQBZeuO2G\n";

/// `Authorization` of the two.
const BASIC: &str = "Basic bW9hdDpzZWNyZXQ=";

/// docker-registry on a free loopback port with its own storage, dead when dropped.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    dir: TempDir,
    child: Child,
    password: bool,
}

impl Registry {
    /// One that asks nobody who they are. `None`, and *not run*, if it or `skopeo` is not installed.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        Self::start_with(false).await
    }

    /// One that wants [`USER`] and [`PASSWORD`] with each request.
    pub async fn start_with_password() -> anyhow::Result<Option<Self>> {
        Self::start_with(true).await
    }

    async fn start_with(password: bool) -> anyhow::Result<Option<Self>> {
        let (Some(program), Some(_)) = (tool("docker-registry"), tool("skopeo")) else {
            not_run_here(
                "docker-registry and skopeo are not installed; `cargo xtask install` puts them into the tools",
            );
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("moat-registry-").tempdir().context("make its directory")?;
        let port = free_port()?;
        let config = dir.path().join("config.yml");
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD)?;
        std::fs::write(&config, configuration(dir.path(), port, password))?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start docker-registry")?;
        let mut registry = Self { port, dir, child, password };
        let child = &mut registry.child;
        let ready = wait_until(READY_WITHIN, "docker-registry answers", async || match child.try_wait() {
            Ok(Some(status)) => Some(Err(status)),
            _ => TcpStream::connect(("127.0.0.1", port)).await.ok().map(|_| Ok(())),
        });
        if let Err(status) = ready.await? {
            let log = std::fs::read_to_string(registry.dir.path().join("log")).unwrap_or_default();
            bail!("docker-registry ended at once ({status}): {log}");
        }
        Ok(Some(registry))
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Copies an image as [`Registry::push`] does, made into docker's own kind of manifest.
    pub async fn push_as_docker(&self, layout: &str, name: &str) -> anyhow::Result<()> {
        self.copy(layout, name, &["--format=v2s2"]).await
    }

    /// Copies an image, or all of an index, from an OCI layout: `layout` as skopeo has it (`/dir:name`), to
    /// `repository:tag` here.
    pub async fn push(&self, layout: &str, name: &str) -> anyhow::Result<()> {
        self.copy(layout, name, &["--all", "--preserve-digests"]).await
    }

    async fn copy(&self, layout: &str, name: &str, how: &[&str]) -> anyhow::Result<()> {
        let skopeo = tool("skopeo").context("skopeo is not installed")?;
        let mut command = tokio::process::Command::new(skopeo);
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]).args(how);
        if self.password {
            command.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        command.arg(format!("oci:{layout}")).arg(format!("docker://{}/{name}", self.host()));
        let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("run skopeo")?;
        if !done.status.success() {
            bail!("skopeo copy {layout} to {name}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    /// Where it keeps the bytes of a blob, by the hex digits of its digest.
    pub fn blob_file(&self, hex: &str) -> PathBuf {
        let two = hex.get(..2).unwrap_or_default();
        self.dir.path().join("storage/docker/registry/v2/blobs/sha256").join(two).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(dir: &Path, port: u16, password: bool) -> String {
    let (storage, htpasswd) = (dir.join("storage"), dir.join("htpasswd"));
    let auth = format!("auth: {{htpasswd: {{realm: moat-test, path: {htpasswd:?}}}}}\n");
    format!(
        "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n\
         storage: {{filesystem: {{rootdirectory: {storage:?}}}, delete: {{enabled: true}}}}\n{}",
        if password { auth.as_str() } else { "" },
    )
}

/// What a [`Front`] wants to see before it lets a request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Nothing.
    Nothing,
    /// [`USER`] and [`PASSWORD`].
    Password,
    /// A token, given for [`USER`] and [`PASSWORD`], that expires after so many requests.
    Token {
        /// Requests it is good for.
        uses: u32,
    },
    /// A token that anybody gets.
    AnonymousToken,
}

/// What happens to one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status instead of it.
    Status(u16),
    /// The connection breaks after so many bytes of the body.
    Break(usize),
    /// One byte in the middle is another one.
    Corrupt,
    /// A redirect to this URL instead of it.
    Redirect(&'static str),
    /// Nothing more comes after so many bytes, until the front is dropped.
    Silence(usize),
}

/// A server before a registry. For GET and HEAD; push to the registry itself.
#[derive(Debug)]
pub struct Front {
    port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    port: u16,
    upstream: String,
    wants: Wants,
    requests: Mutex<Vec<String>>,
    tokens: Mutex<HashMap<String, u32>>,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    held: watch::Sender<bool>,
}

impl Front {
    /// Before `upstream` (`host:port`).
    pub async fn start(upstream: &str, wants: Wants) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the front")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            port,
            upstream: upstream.to_owned(),
            wants,
            requests: Mutex::default(),
            tokens: Mutex::default(),
            faults: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                // A client that goes away is what half of the tests do.
                tokio::spawn(async move { state.serve(stream).await.ok() });
            }
        });
        Ok(Self { port, state, task })
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The next answer to a request whose path contains `part` (the digest of a blob, say) has this fault; several queue up.
    pub fn fault(&self, part: &str, fault: Fault) {
        lock(&self.state.faults).entry(part.to_owned()).or_default().push_back(fault);
    }

    /// No more faults.
    pub fn forgive(&self) {
        lock(&self.state.faults).clear();
    }

    /// Requests so far whose line (`GET /v2/…`) contains this text. Those with a range end in ` from N`.
    pub fn requests(&self, part: &str) -> Vec<String> {
        lock(&self.state.requests).iter().filter(|line| line.contains(part)).cloned().collect()
    }

    /// Requests for blobs are held until this is called with `false`.
    pub fn hold_blobs(&self, hold: bool) {
        self.state.held.send_replace(hold);
    }

    /// All tokens given so far are good for nothing any more.
    pub fn expire_tokens(&self) {
        lock(&self.state.tokens).clear();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    line: String,
    path: String,
    head: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl State {
    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let Some(request) = read_request(&mut stream).await? else { return Ok(()) };
        let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        let logged = range.map_or_else(|| request.line.clone(), |from| format!("{} from {from}", request.line));
        lock(&self.requests).push(logged);
        if request.path.starts_with("/token") {
            let answer = self.token(&request);
            return Ok(stream.write_all(answer.as_bytes()).await?);
        }
        if !self.allowed(&request) {
            return Ok(stream.write_all(self.challenge().as_bytes()).await?);
        }
        if request.path.contains("/blobs/") {
            self.held.subscribe().wait_for(|held| !held).await?;
        }
        let fault = self.take_fault(&request.path);
        if let Some(Fault::Status(status)) = fault {
            let body = r#"{"errors":[{"code":"FAULT","message":"made by the test"}]}"#;
            return Ok(stream.write_all(answer(status, "", body).as_bytes()).await?);
        }
        if let Some(Fault::Redirect(to)) = fault {
            let head = format!("Location: {to}\r\n");
            return Ok(stream.write_all(answer(307, &head, "").as_bytes()).await?);
        }
        self.relay(&request, fault, &mut stream).await
    }

    fn allowed(&self, request: &Request) -> bool {
        let given = request.header("authorization");
        match self.wants {
            Wants::Nothing => true,
            Wants::Password => given == Some(BASIC),
            Wants::Token { .. } | Wants::AnonymousToken => {
                let Some(token) = given.and_then(|given| given.strip_prefix("Bearer ")) else { return false };
                let mut tokens = lock(&self.tokens);
                let Some(left) = tokens.get_mut(token).filter(|left| **left > 0) else { return false };
                *left -= 1;
                true
            }
        }
    }

    fn challenge(&self) -> String {
        let challenge = match self.wants {
            Wants::Nothing | Wants::Password => "Basic realm=\"moat-test\"".to_owned(),
            Wants::Token { .. } | Wants::AnonymousToken => {
                format!("Bearer realm=\"http://127.0.0.1:{}/token\",service=\"moat-test\"", self.port)
            }
        };
        answer(401, &format!("WWW-Authenticate: {challenge}\r\n"), "{}")
    }

    fn token(&self, request: &Request) -> String {
        let uses = match self.wants {
            Wants::Token { uses } if request.header("authorization") == Some(BASIC) => uses,
            Wants::AnonymousToken => u32::MAX,
            _ => return answer(401, "", "{}"),
        };
        let mut tokens = lock(&self.tokens);
        let token = format!("token-{}-{}", tokens.len(), lock(&self.requests).len());
        tokens.insert(token.clone(), uses);
        answer(200, "", &format!("{{\"token\":\"{token}\",\"expires_in\":60}}"))
    }

    fn take_fault(&self, path: &str) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        faults.iter_mut().find(|(part, queue)| path.contains(part.as_str()) && !queue.is_empty())?.1.pop_front()
    }

    async fn relay(&self, request: &Request, fault: Option<Fault>, stream: &mut TcpStream) -> anyhow::Result<()> {
        let mut upstream = TcpStream::connect(&self.upstream).await?;
        let kept = request.head.lines().skip(1).filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !matches!(name.as_str(), "connection" | "authorization" | "host" | "")
        });
        let mut head = format!("{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", request.line, self.upstream);
        for line in kept {
            head.push_str(line);
            head.push_str("\r\n");
        }
        upstream.write_all(format!("{head}\r\n").as_bytes()).await?;
        let mut whole = Vec::new();
        upstream.read_to_end(&mut whole).await?;
        let body = whole.windows(4).position(|four| four == b"\r\n\r\n").map_or(whole.len(), |at| at + 4);
        match fault {
            Some(Fault::Break(after)) => {
                stream.write_all(whole.get(..body + after).unwrap_or(&whole)).await?;
            }
            Some(Fault::Silence(after)) => {
                stream.write_all(whole.get(..body + after).unwrap_or(&whole)).await?;
                // Until the other side has had enough.
                let _ = stream.read(&mut [0; 1]).await;
            }
            Some(Fault::Corrupt) => {
                let middle = body + (whole.len() - body) / 2;
                if let Some(byte) = whole.get_mut(middle) {
                    *byte ^= 1;
                }
                stream.write_all(&whole).await?;
            }
            Some(Fault::Status(_) | Fault::Redirect(_)) | None => stream.write_all(&whole).await?,
        }
        Ok(())
    }
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\
         {headers}\r\n{body}",
        body.len()
    )
}

/// The head of a request; bodies are not for us.
async fn read_request(stream: &mut TcpStream) -> anyhow::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 || head.len() > 64 << 10 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).context("a head that is no text")?;
    let line = head.lines().next().unwrap_or_default();
    let line = line.rsplit_once(' ').map_or(line, |(line, _version)| line).to_owned();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(Some(Request { line, path, head }))
}
