//! A daemon with what the seed's job files expect of its machine, and commands that speak to it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use moat_testkit::{static_bin, tools_dir, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::story;

/// Longest wait for anything: a loaded machine is slow.
pub const SOON: Duration = Duration::from_secs(120);

/// Where the seed's third file looks.
const VAGRANT: &str = "/vagrant";

/// What stands in for the machine of whoever wrote the job files.
pub struct Stands {
    pub dir: TempDir,
    /// The artifact host.
    pub web: SocketAddr,
    /// A program that says what it is told to.
    pub probe: Vec<u8>,
    /// The directory was made here, and is taken away at the end.
    made: bool,
}

impl Stands {
    /// Nothing if something else is where `/vagrant` is to be.
    pub async fn build() -> Option<Self> {
        let made = match std::fs::create_dir(VAGRANT) {
            Ok(()) => true,
            // Left by a test that was killed.
            Err(_) if std::fs::read_dir(VAGRANT).is_ok_and(|mut names| names.next().is_none()) => true,
            Err(_) => return None,
        };
        let dir = tempfile::Builder::new().prefix("moat-seed-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let probe = std::fs::read(static_bin("probe").unwrap()).unwrap();
        let run = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &probe).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        run("vagrant/apps/bin/dashboard");
        run("usr/bin/dotnet");
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let served = BTreeMap::from([
            ("/consumer-go.zip".to_owned(), zip_of("consumer", &probe)),
            ("/consumer-dotnet.zip".to_owned(), zip_of("Consumer.dll", b"what dotnet runs\n")),
            ("/probe".to_owned(), probe.clone()),
            ("/probe.tar".to_owned(), tar_of("bin/tool", &probe)),
        ]);
        let served = served.into_iter().chain(story::served()).collect();
        Some(Self { web: serve(served).await, dir, probe, made })
    }

    /// A file beside the others.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Stands {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_dir(VAGRANT);
        }
    }
}

fn zip_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap().into_inner()
}

pub fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, name, bytes).unwrap();
    tar.into_inner().unwrap()
}

/// A web server that has these, for as long as the test runs.
async fn serve(files: BTreeMap<String, Vec<u8>>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let files = Arc::new(files);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let files = Arc::clone(&files);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let body = head.split(' ').nth(1).and_then(|path| files.get(path));
                let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
                let body = body.map(Vec::as_slice).unwrap_or_default();
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// A daemon, killed with the test if the test fails.
pub struct Stage {
    home: TempDir,
    child: Child,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- moat up said ---\n{}",
                std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
            );
        }
    }
}

impl Stage {
    /// `moat up` where the stand-ins are what the machine has.
    pub async fn up(stands: &Stands, config: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("moat-jobs-").tempdir().unwrap();
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let stand = stands.dir.path().display();
        let place = format!(
            "mount --bind {stand}/vagrant {VAGRANT} && \
             mount -t overlay overlay -o lowerdir=/usr,upperdir={stand}/usr,workdir={stand}/work /usr && exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &place, "sh"]);
        command.arg(assert_cmd::cargo::cargo_bin("moat"));
        command.args(["up", "--nats-port", "0", "--api-listen", "127.0.0.1:0", "--config"]).arg(config);
        command.arg("--dir").arg(home.path().join("up"));
        own_world(&mut command, home.path());
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let stage = Self { child: command.spawn().unwrap(), home };
        stage
            .when("the node is there for jobs", async || {
                let said = stage.moat(&["node", "status", "--json"]);
                said.status.success() && String::from_utf8_lossy(&said.stdout).contains("driver.exec")
            })
            .await;
        stage
    }

    /// Ends it as somebody at a terminal does.
    pub async fn down(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let child = &mut self.child;
        let status = wait_until(SOON, "moat up ends", async || child.try_wait().unwrap()).await;
        assert!(status.unwrap().success());
    }

    pub fn moat(&self, words: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("moat"));
        own_world(&mut command, self.home.path());
        command.args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command says that ends well.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        let output = self.moat(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command says to programs.
    #[track_caller]
    pub fn told(&self, words: &[&str]) -> Value {
        let text = self.says(&[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    /// A job file of this text.
    pub fn job(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Runs a job file and does not wait for its deployment.
    #[track_caller]
    pub fn run(&self, file: &str) {
        self.says(&["job", "run", "--detach", file]);
    }

    /// Allocations of a job, the newest first; none if there is no such job.
    pub fn allocations(&self, job: &str) -> Vec<Value> {
        let output = self.moat(&["job", "allocs", job, "--json"]);
        serde_json::from_slice(&output.stdout).ok().and_then(|list: Value| list.as_array().cloned()).unwrap_or_default()
    }

    /// Waits until the newest allocation of a job is like this.
    pub async fn until(&self, job: &str, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        let looked = async || self.allocations(job).into_iter().next().filter(|newest| like(newest));
        match wait_until(SOON, what, looked).await {
            Ok(found) => found,
            Err(error) => panic!("{error}: {:#?}", self.allocations(job)),
        }
    }

    /// Waits until something is so.
    pub async fn when(&self, what: &str, mut so: impl AsyncFnMut() -> bool) {
        let looked = async || if so().await { Some(()) } else { None };
        wait_until(SOON, what, looked).await.unwrap();
    }

    /// Waits until the newest allocation of a job has written this; all it wrote.
    pub async fn writes(&self, job: &str, wanted: &str) -> String {
        let mut last = String::new();
        let looked = async || {
            let newest = self.allocations(job).into_iter().next()?;
            let said = self.moat(&["alloc", "logs", "--stdout", id(&newest)]);
            last = String::from_utf8_lossy(&said.stdout).into_owned();
            last.contains(wanted).then(|| last.clone())
        };
        match wait_until(SOON, &format!("job {job} writes {wanted:?}"), looked).await {
            Ok(text) => text,
            Err(error) => panic!("{error}; {:#?}", self.allocations(job)),
        }
    }

    /// Stops a job and waits until nothing of it is left.
    pub async fn purge(&self, job: &str) {
        self.says(&["job", "stop", "--purge", job]);
        self.when(&format!("nothing of {job} runs"), async || self.allocations(job).iter().all(is_over)).await;
    }

    /// What it tells other commands.
    fn published(&self, key: &str) -> String {
        let text = std::fs::read_to_string(self.home.path().join("moat/up.json")).unwrap();
        let told: Value = serde_json::from_str(&text).unwrap();
        told[key].as_str().unwrap().to_owned()
    }

    /// Where its REST is.
    pub fn api(&self) -> String {
        self.published("api")
    }

    /// Its NATS server, as the node itself reaches it.
    pub async fn nats(&self) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::with_user_and_password(self.published("user"), self.published("password"));
        options.connect(self.published("server")).await.unwrap()
    }

    /// Where its node keeps what survives.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("up/node")
    }
}

/// Which allocation.
pub fn id(allocation: &Value) -> &str {
    allocation["allocation"]["id"].as_str().unwrap_or_default()
}

/// What an allocation is.
pub fn client(allocation: &Value) -> &str {
    allocation["client"].as_str().unwrap_or_default()
}

pub fn is_running(allocation: &Value) -> bool {
    client(allocation) == "running"
}

pub fn is_over(allocation: &Value) -> bool {
    matches!(client(allocation), "complete" | "failed" | "lost")
}

fn own_world(command: &mut Command, home: &Path) {
    command.env_remove("XDG_CONFIG_HOME").env("HOME", home).env("XDG_RUNTIME_DIR", home).env("MOAT_TOOLS", tools_dir());
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "NATS_NKEY", "NEX_NAMESPACE"] {
        command.env_remove(name);
    }
    for name in ["MOAT_URL", "MOAT_API_KEY"] {
        command.env_remove(name);
    }
}
