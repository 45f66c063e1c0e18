//! A real daemon beside a real nats-server, and a client of both.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use moat_api::client::rest::{RestClient, RestOptions};
use moat_api::client::{Client, Deploy, Deployed, Options};
use moat_api::nex::{Extension, Location, Template};
use moat_model::{NodeId, WorkloadName};
use moat_testkit::{NatsServer, Release, static_bin, wait_until};
use nkeys::{KeyPair, XKey};
use tempfile::TempDir;

/// The daemon answers well within this, or something is broken.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Room for a bucket of programs.
const BUCKET_BYTES: i64 = 1 << 30;

/// A node and its server; both end with this value.
pub struct Node {
    /// The server.
    pub nats: NatsServer,
    /// A client of the node.
    pub client: Client,
    /// A client of its REST API.
    pub rest: RestClient,
    /// The node.
    pub id: NodeId,
    /// Who signs.
    pub issuer: KeyPair,
    sender: XKey,
    daemon: Option<Child>,
    dir: TempDir,
}

impl Node {
    /// Starts both.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with("").await
    }

    /// Starts both, the node with more in its configuration.
    pub async fn start_with(more: &str) -> anyhow::Result<Self> {
        Self::start_with_top("", more).await
    }

    /// The same; `top` stands before the first table of its configuration.
    pub async fn start_with_top(top: &str, more: &str) -> anyhow::Result<Self> {
        Self::start_in(Path::new("/run"), top, more).await
    }

    /// The same, its files below a directory: those of long life belong on a disk.
    pub async fn start_at(place: &Path, more: &str) -> anyhow::Result<Self> {
        Self::start_in(place, "", more).await
    }

    async fn start_in(place: &Path, top: &str, more: &str) -> anyhow::Result<Self> {
        let nats = NatsServer::start(Release::Current).await?.context("nats-server is not installed")?;
        let dir = tempfile::Builder::new().prefix("moat-bench-node-").tempdir_in(place)?;
        let api = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "run_dir = {:?}\ndata_dir = {:?}\nstop_workloads = true\n{top}[api]\nlisten_addr = \"{api}\"\n[nats]\nservers = [{:?}]\n{more}",
            dir.path().join("run"),
            dir.path().join("data"),
            nats.url(),
        );
        std::fs::write(dir.path().join("node.toml"), config)?;
        let client = Client::new(nats.client().await?, Options::default());
        let rest = RestClient::new(RestOptions { url: format!("http://{api}"), ..RestOptions::default() })?;
        let daemon = spawn(dir.path())?;
        let mut node = Self {
            nats,
            client,
            rest,
            // Replaced as soon as the node has told.
            id: NodeId::parse(&format!("N{}", "A".repeat(55)))?,
            issuer: KeyPair::new_account(),
            sender: XKey::new(),
            daemon: Some(daemon),
            dir,
        };
        node.id = node.wait_ready().await?;
        Ok(node)
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    async fn wait_ready(&self) -> anyhow::Result<NodeId> {
        let found = wait_until(READY_WITHIN, "the node answers", async || {
            self.client.ping().await.ok()?.into_iter().next().map(|reply| reply.node_id)
        });
        found.await.with_context(|| self.log())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    /// Uploads `program` under the workload's name.
    pub async fn upload(&self, name: &str, program: &Path) -> anyhow::Result<Location> {
        let location = Location::parse(&format!("nats://BENCH/{name}"))?;
        let mut file = tokio::fs::File::open(program).await.context("open the program")?;
        self.client.upload(&location, &mut file, BUCKET_BYTES, &mut |_| {}).await?;
        Ok(location)
    }

    /// Uploads and deploys.
    pub async fn deploy(&self, name: &str, program: &Path, argv: &[&str], template: &str) -> anyhow::Result<Deployed> {
        let location = self.upload(name, program).await?;
        self.deploy_from(name, &location, argv, template).await
    }

    /// Deploys what was uploaded.
    pub async fn deploy_from(
        &self,
        name: &str,
        location: &Location,
        argv: &[&str],
        template: &str,
    ) -> anyhow::Result<Deployed> {
        let template = if template == "scratch" { Template::Scratch } else { Template::Host };
        let deploy = Deploy {
            name: WorkloadName::parse(name)?,
            location: location.clone(),
            workload_type: "native".to_owned(),
            argv: argv.iter().map(|s| (*s).to_owned()).collect(),
            environment: BTreeMap::new(),
            description: String::new(),
            essential: false,
            sha256: None,
            extension: Some(Extension { template: Some(template), ..Extension::default() }),
        };
        Ok(self.client.deploy(&self.id, &deploy, &self.issuer, &self.sender).await?)
    }

    /// Stops a workload.
    pub async fn stop(&self, deployed: &Deployed) -> anyhow::Result<()> {
        let name = WorkloadName::parse(&deployed.name)?;
        self.client.stop(&self.id, &deployed.id, &name, &self.issuer).await?;
        Ok(())
    }

    /// SIGKILL, and the status collected.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Starts the daemon again.
    pub fn start_daemon(&mut self) -> anyhow::Result<()> {
        self.daemon = Some(spawn(self.dir.path())?);
        Ok(())
    }

    /// Stops every workload of ours, then the daemon.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let listed = self.client.list(&moat_api::sandbox::InspectRequest::default()).await?;
        for workload in listed.workloads {
            let name = WorkloadName::parse(&workload.name)?;
            self.client.stop(&self.id, &workload.id, &name, &self.issuer).await?;
        }
        self.stop_daemon()
    }

    /// In good order, so that members of its pools end with it.
    pub fn stop_daemon(&mut self) -> anyhow::Result<()> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let asked =
            Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().context("stop the daemon")?;
        anyhow::ensure!(asked.success() && daemon.wait()?.success(), "the daemon did not end in good order");
        self.daemon = None;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_daemon();
    }
}

fn spawn(dir: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("daemon.log"))?;
    Command::new(static_bin("moat")?)
        .args(["node", "up", "--config"])
        .arg(dir.join("node.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the daemon")
}
