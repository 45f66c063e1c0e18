//! `moat node`: running one, looking at those that run, and what jobs may do with them.

mod drain;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use moat_api::client::Client;
use moat_api::nex::{InfoResponse, PingResponse, tags};
use moat_model::units::format_bytes;
use moat_model::{ErrorKind, Isolation, NodeId};
use moat_node::config::{ApiConfig, DRIVER_NAMES, NatsConfig, NodeConfig, Secret};
use owo_colors::Style;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::commands::preflight::{self, PreflightArgs};
use crate::commands::ps::node_label;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::{self, Connection};

/// What about nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Run a node in this process; workloads outlive it
    Up(NodeArgs),
    /// List nodes
    Ls(LsArgs),
    /// Show a node and its workloads
    Info(InfoArgs),
    /// Say whether this machine can be a node, and what would make it one
    Preflight(PreflightArgs),
    /// List nodes as jobs see them, or show one and what runs on it
    Status(status::StatusArgs),
    /// Empty a node of what jobs run on it, or give that up; follows what happens
    Drain(drain::DrainArgs),
    /// Say whether anything new may be placed on a node
    Eligibility(drain::EligibilityArgs),
}

/// How to run a node. What is given here wins over the configuration file.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Configuration: TOML, or the JSON of a Nex node
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name for people
    #[arg(long)]
    pub name: Option<String>,
    /// Group of nodes it belongs to
    #[arg(long)]
    pub nexus: Option<String>,
    /// Tag for placement; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<String>,
    /// What must survive the power: identity, programs, log files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What must survive the daemon: records and sockets
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Driver to offer; may be given several times. `process` is no sandbox
    #[arg(long = "driver", value_name = "NAME", value_parser = DRIVER_NAMES)]
    pub drivers: Vec<String>,
    /// Isolation of workloads that ask for none: process, container or microvm
    #[arg(long, value_parser = isolation)]
    pub isolation: Option<Isolation>,
    /// Public key that may sign starts; may be given several times [default: anybody]
    #[arg(long = "valid-issuer", value_name = "KEY")]
    pub valid_issuers: Vec<String>,
    /// NATS server that workloads may be led to
    #[arg(long, value_name = "HOST:PORT")]
    pub workload_nats: Option<String>,
    /// Where /metrics listens
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// Where the REST API listens; may be given several times [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub api_listen: Vec<SocketAddr>,
    /// Serve no REST API
    #[arg(long, conflicts_with = "api_listen")]
    pub no_api: bool,
}

/// How much.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Also group, system, sandbox and tags
    #[arg(long)]
    full: bool,
}

/// Which.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Node id, the beginning of one, or a node's name
    node: String,
}

fn isolation(text: &str) -> Result<Isolation, String> {
    Isolation::parse(text).ok_or_else(|| format!("{text:?} is not process, container or microvm"))
}

impl NodeArgs {
    /// The configuration, with what was given here in its place.
    pub fn config(&self, global: &Global) -> Result<NodeConfig, Failure> {
        let mut config = match &self.config {
            Some(path) => NodeConfig::load(path)?,
            None => NodeConfig::default(),
        };
        for note in &config.notes {
            tracing::warn!("{note}");
        }
        if self.config.is_none() || names_connection(global) {
            config.nats = connection(global)?;
        }
        if global.prefix != moat_api::subjects::DEFAULT_PREFIX {
            return Err(Failure::new(ErrorKind::Unsupported, "--prefix: nodes of this version only listen below $NEX"));
        }
        for (mine, given) in [(&mut config.data_dir, &self.data_dir), (&mut config.run_dir, &self.run_dir)] {
            if let Some(given) = given {
                mine.clone_from(given);
            }
        }
        if self.name.is_some() {
            config.name.clone_from(&self.name);
        }
        if let Some(nexus) = &self.nexus {
            config.nexus.clone_from(nexus);
        }
        config.tags.extend(crate::parse::environment(&self.tags)?);
        if !self.drivers.is_empty() {
            config.drivers.clone_from(&self.drivers);
        }
        if let Some(isolation) = self.isolation {
            config.isolation = isolation;
        }
        if !self.valid_issuers.is_empty() {
            config.valid_issuers.clone_from(&self.valid_issuers);
        }
        if self.workload_nats.is_some() {
            config.workload_nats.clone_from(&self.workload_nats);
        }
        if self.metrics.is_some() {
            config.metrics_listen = self.metrics;
        }
        if !self.api_listen.is_empty() {
            config.api = ApiConfig { listen: self.api_listen.clone(), explicit: true };
        }
        if self.no_api {
            config.api = ApiConfig::off();
        }
        Ok(config)
    }
}

/// Whether the command line says anything about the connection.
fn names_connection(global: &Global) -> bool {
    global.server.is_some() || global.context.is_some() || global.creds.is_some() || global.user.is_some()
}

fn connection(global: &Global) -> Result<NatsConfig, Failure> {
    let connection = Connection::resolve(global)?;
    Ok(NatsConfig {
        servers: connection.servers,
        creds: connection.creds,
        nkey: connection.nkey,
        user: connection.user,
        password: connection.password.map(Secret::new),
        token: connection.token.map(Secret::new),
        tls_cert: connection.tls_cert,
        tls_key: connection.tls_key,
        tls_ca: connection.tls_ca,
        tls_first: connection.tls_first,
    })
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: NodeCommand) -> Result<ExitCode, Failure> {
    match command {
        NodeCommand::Up(args) => {
            let config = args.config(global)?;
            let lives_on = !config.stop_workloads;
            attend(output, config, lives_on).await.map(|()| ExitCode::SUCCESS)
        }
        NodeCommand::Ls(args) => ls(global, output, &args).await.map(|()| ExitCode::SUCCESS),
        NodeCommand::Info(args) => info(global, output, &args).await.map(|()| ExitCode::SUCCESS),
        NodeCommand::Preflight(args) => preflight::run(global, output, &args).await,
        NodeCommand::Status(args) => status::run(global, output, &args).await.map(|()| ExitCode::SUCCESS),
        NodeCommand::Drain(args) => drain::drain(global, output, &args).await,
        NodeCommand::Eligibility(args) => drain::eligibility(global, output, &args).await.map(|()| ExitCode::SUCCESS),
    }
}

/// Runs a node until a signal; a second one does not wait for the end.
pub async fn attend(output: &Output, config: NodeConfig, lives_on: bool) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::internal("listen to signals", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let shutdown = CancellationToken::new();
    let daemon = moat_node::daemon::run(config, shutdown.clone());
    tokio::pin!(daemon);
    tokio::select! {
        result = &mut daemon => return Ok(result?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if lives_on {
        output.note("stopping; workloads live on: start the node again to reach them, then `moat stop` ends them");
    } else {
        output.note("stopping the workloads and the node; a second signal leaves at once");
    }
    shutdown.cancel();
    tokio::select! {
        result = &mut daemon => Ok(result?),
        _ = interrupt.recv() => Err(left()),
        _ = terminate.recv() => Err(left()),
    }
}

fn left() -> Failure {
    Failure::new(
        ErrorKind::Deadline,
        "left before everything had stopped: start the node again with the same directories to find what still runs",
    )
}

/// The node somebody means by an id, the beginning of one, or a name.
pub async fn resolve(client: &Client, text: &str) -> Result<NodeId, Failure> {
    if let Ok(node) = NodeId::parse(text) {
        return Ok(node);
    }
    let mut found: Vec<_> = client
        .ping()
        .await?
        .into_iter()
        .filter(|node| node.name() == text || !text.is_empty() && node.node_id.as_str().starts_with(text))
        .collect();
    let candidates: Vec<_> = found.iter().map(|node| format!("{} ({})", node.node_id, node.name())).collect();
    match (found.pop(), candidates.len()) {
        (Some(node), 1) => Ok(node.node_id),
        (None, _) => Err(Failure::new(ErrorKind::NotFound, format!("no node {text:?} answers (see `moat node ls`)"))),
        (Some(_), _) => Err(Failure::invalid(format!("node {text:?} could be any of: {}", candidates.join("; ")))),
    }
}

async fn ls(global: &Global, output: &Output, args: &LsArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let mut nodes = client.ping().await?;
    nodes.sort_by(|a, b| (a.name(), &a.node_id).cmp(&(b.name(), &b.node_id)));
    if output.json {
        return output.document(&nodes);
    }
    let tag = |node: &PingResponse, name: &str| node.tags.get(name).cloned().unwrap_or_else(|| "-".to_owned());
    let state = |node: &PingResponse| {
        if node.lameduck() {
            output.styled("lame duck", Style::new().yellow())
        } else {
            output.styled("ready", Style::new().green())
        }
    };
    let workloads = |node: &PingResponse| node.running_machines.to_string();
    if !args.full {
        let rows = nodes.iter().map(|n| {
            [
                n.node_id.to_string(),
                node_label(&n.node_id, n.name()),
                state(n),
                workloads(n),
                n.version.clone(),
                n.uptime.clone(),
            ]
        });
        return output.table(["ID", "NAME", "STATE", "WORKLOADS", "VERSION", "UPTIME"], rows.collect());
    }
    let rows = nodes.iter().map(|n| {
        let sandboxed = if n.unsafe_mode() { output.styled("no", Style::new().red()) } else { "yes".to_owned() };
        [
            n.node_id.to_string(),
            node_label(&n.node_id, n.name()),
            state(n),
            workloads(n),
            n.version.clone(),
            n.uptime.clone(),
            n.nexus.clone().unwrap_or_else(|| "-".to_owned()),
            sandboxed,
            format!("{}/{}", tag(n, tags::OS), tag(n, tags::ARCH)),
            own_tags(n),
        ]
    });
    let header = ["ID", "NAME", "STATE", "WORKLOADS", "VERSION", "UPTIME", "NEXUS", "SANDBOXED", "SYSTEM", "TAGS"];
    output.table(header, rows.collect())
}

/// The tags that an operator set.
fn own_tags(node: &PingResponse) -> String {
    let own = node.tags.iter().filter(|(name, _)| !name.starts_with("nex.") && *name != tags::NODE_NAME);
    own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[derive(Serialize)]
struct NodeInfo<'a> {
    node_id: &'a NodeId,
    #[serde(flatten)]
    info: &'a InfoResponse,
}

async fn info(global: &Global, output: &Output, args: &InfoArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let node = resolve(&client, &args.node).await?;
    let info = client.info(&node).await?;
    if output.json {
        return output.document(&NodeInfo { node_id: &node, info: &info });
    }
    let mut lines = vec![
        ("node", node.to_string()),
        ("version", info.version.clone()),
        ("uptime", info.uptime.clone()),
        ("xkey", info.public_xkey.clone()),
        ("types", info.supported_workload_types.join(", ")),
    ];
    if let Some(memory) = info.memory {
        let of = |kilobytes: u64| format_bytes(kilobytes.saturating_mul(1024));
        lines.push(("memory", format!("{} of {} available", of(memory.available), of(memory.total))));
    }
    lines.extend(info.tags.iter().map(|(name, value)| ("tag", format!("{name}={value}"))));
    for (name, value) in lines {
        output.line(&format!("{} {value}", output.styled(&format!("{name:<8}"), Style::new().dimmed())))?;
    }
    if info.machines.is_empty() {
        return output.line(&format!("no workloads in namespace {}", global.namespace));
    }
    output.line("")?;
    let rows = info.machines.iter().map(|m| {
        let w = &m.workload;
        let hash: String = w.hash.chars().take(12).collect();
        [m.id.clone(), w.name.clone(), w.workload_type.clone(), m.uptime.clone(), hash, w.description.clone()]
    });
    output.table(["ID", "NAME", "TYPE", "UPTIME", "SHA-256", "DESCRIPTION"], rows.collect())
}
