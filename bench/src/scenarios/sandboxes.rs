//! An engine with the container driver, without a broker.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_drivers::container::{ContainerConfig, ContainerDriver};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_engine::fabric::Fabric;
use moat_engine::guest::ExecOutput;
use moat_engine::supervisor::{Engine, EngineConfig, Registry};
use moat_engine::{Driver, Outlet};
use moat_model::lifecycle::SandboxView;
use moat_model::spec::{Artifact, ExecSpec, RootSpec};
use moat_model::{Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};
use moat_net::{Net, NetConfig};
use tempfile::TempDir;

/// An engine of its own, below a directory of its own.
pub struct Sandboxes {
    /// The engine.
    pub engine: Engine,
    net: Option<Arc<Net>>,
    _dir: TempDir,
}

impl Sandboxes {
    /// Opens one.
    pub async fn open() -> anyhow::Result<Self> {
        Self::open_in(directory()?, None).await
    }

    /// Opens one that gives networks. Close it: links and rules do not end with us.
    pub async fn open_with_network() -> anyhow::Result<Self> {
        let dir = directory()?;
        let config = NetConfig {
            name: "mbench".to_owned(),
            subnet: "10.99.0.0/16".parse()?,
            gateway: Ipv4Addr::new(169, 254, 99, 1),
            ..NetConfig::new(dir.path().join("net"))
        };
        let net = Net::start(config).await?;
        Self::open_in(dir, Some(net)).await
    }

    async fn open_in(dir: TempDir, net: Option<Arc<Net>>) -> anyhow::Result<Self> {
        let agent = AgentBinary::embedded().context("the agent binary")?;
        let config = ContainerConfig {
            cgroup_parent: "moat-bench".to_owned(),
            roots_dir: dir.path().join("roots"),
            ..ContainerConfig::default()
        };
        let driver: Arc<dyn Driver> = Arc::new(ContainerDriver::new(config, agent)?);
        let config = EngineConfig::new(dir.path().join("run"), dir.path().join("data"));
        let mut registry = Registry::new(vec![driver]);
        if let Some(net) = &net {
            registry = registry.with_fabric(Arc::clone(net) as Arc<dyn Fabric>);
        }
        let (engine, _) = Engine::open(config, registry, Arc::new(Forgetful::default())).await?;
        Ok(Self { engine, net, _dir: dir })
    }

    /// Takes the network away again, once no sandbox is left.
    pub async fn close(self) -> anyhow::Result<()> {
        self.engine.detach().await;
        match &self.net {
            Some(net) => Ok(net.stop().await?),
            None => Ok(()),
        }
    }
}

/// Where records lie in production too: a tmpfs, if the host has one there.
fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("moat-bench-").tempdir_in("/run")?)
}

/// A container on the empty root, with one program in it if there is one to execute.
pub fn scratch(program: Option<&Path>) -> anyhow::Result<SandboxSpec> {
    let artifact = |path: &Path| -> anyhow::Result<Artifact> {
        Ok(Artifact { path: path.to_path_buf(), name: "busybox".to_owned(), sha256: "0".repeat(64) })
    };
    Ok(SandboxSpec {
        restore: None,
        namespace: Namespace::default_namespace(),
        labels: Default::default(),
        isolation: Isolation::Container,
        root: RootSpec::Scratch,
        artifact: program.map(artifact).transpose()?,
        log_dir: None,
        binds: Vec::new(),
        host: Default::default(),
        lasting: None,
        hostname: None,
        leashed: false,
        oom_score_adj: None,
        task_dir: None,
        main: None,
        stop: Default::default(),
        resources: Default::default(),
        security: Default::default(),
        network: Default::default(),
        forwards: Vec::new(),
        ingress: Default::default(),
        timeout: None,
        idle_timeout: None,
        on_timeout: Default::default(),
        process: Default::default(),
        origin: Default::default(),
    })
}

/// A new id.
pub fn new_id() -> SandboxId {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    SandboxId::from_parts(Timestamp::from_millis(i64::try_from(now).unwrap_or(0)), rand::random())
}

/// `busybox true`, by its own path: no shell, no search. Under any other name busybox would look for itself in its list.
pub fn exec_true() -> ExecSpec {
    let process = ProcessSpec {
        command: "/local/busybox".to_owned(),
        args: vec!["true".to_owned()],
        env: Default::default(),
        cwd: None,
        user: None,
    };
    ExecSpec { process, pty: None, stdin: false, timeout: None }
}

/// Executes it and waits for its success.
pub async fn run_true(engine: &Engine, id: &SandboxId) -> anyhow::Result<()> {
    let mut session = engine.exec(id, &exec_true()).await?;
    while let Some(output) = session.output.recv().await {
        match output {
            ExecOutput::Exited { exit, .. } if exit.success() => return Ok(()),
            ExecOutput::Exited { exit, .. } => bail!("true ended with {exit:?}"),
            ExecOutput::Data(..) => {}
        }
    }
    bail!("the exec ended without a status")
}

/// Remembers how much it was given, and nothing else.
#[derive(Debug, Default)]
struct Forgetful(Mutex<HashMap<SandboxId, Offsets>>);

#[async_trait]
impl Outlet for Forgetful {
    async fn position(&self, id: &SandboxId) -> moat_engine::Result<Offsets> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied().unwrap_or_default())
    }

    async fn append(&self, id: &SandboxId, stream: StreamName, offset: u64, bytes: Bytes) -> moat_engine::Result<()> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = map.entry(id.clone()).or_default();
        let end = offset + bytes.len() as u64;
        match stream {
            StreamName::Stdout => at.stdout = end,
            StreamName::Stderr => at.stderr = end,
        }
        Ok(())
    }

    async fn announce(&self, _view: &SandboxView) -> moat_engine::Result<()> {
        Ok(())
    }
}
