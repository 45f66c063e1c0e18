//! `moat up`: a node, and a NATS server beside it if none is named.
//!
//! The command to try things out with: what it started ends with it. A node that is to outlive a terminal is `moat node
//! up` under a service manager.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use moat_api::client::Client;
use moat_model::ErrorKind;
use moat_node::config::{ApiConfig, Secret};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use super::node::{NodeArgs, attend};
use crate::args::Global;
use crate::credentials::{self, Published};
use crate::failure::Failure;
use crate::nats_server::{CONTROL_USER, NatsServer};
use crate::output::Output;
use crate::port::reserve;
use crate::session;

/// How long to wait for the node's first answer before giving up on saying hello.
const HELLO_WITHIN: Duration = Duration::from_secs(60);

/// How to try it out.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where everything is kept [default: ~/.local/share/moat/up]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The nats-server program [default: on the path, or in $MOAT_TOOLS]
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Port of that server on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 4222)]
    nats_port: u16,
    /// Leave workloads running at the end; the next `moat up` with the same directories finds them again
    #[arg(long)]
    leave_running: bool,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Serialize)]
struct Ready<'a> {
    node: &'a str,
    name: &'a str,
    server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<&'a str>,
    credentials: PathBuf,
}

/// Runs until a signal.
pub async fn run(global: &Global, output: &Output, args: UpArgs) -> Result<(), Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => directories::BaseDirs::new()
            .map(|dirs| dirs.data_local_dir().join("moat/up"))
            .ok_or_else(|| Failure::invalid("no home directory: set HOME, or give --dir"))?,
    };
    let _lock = lock(&dir)?;
    let mut config = args.node.config(global)?;
    config.stop_workloads = !args.leave_running;
    if args.node.data_dir.is_none() {
        config.data_dir = dir.join("node");
    }
    if args.node.run_dir.is_none() && args.dir.is_some() {
        config.run_dir = dir.join("run");
    }
    let (api, _reserved) = settle(&mut config.api, output)?;
    if global.server.is_some() || global.context.is_some() {
        return attend(output, config, args.leave_running).await;
    }

    let server = NatsServer::start(args.nats_server.as_deref(), &dir.join("nats"), args.nats_port).await?;
    let url = server.url();
    config.nats = moat_node::config::NatsConfig {
        servers: vec![url.clone()],
        user: Some(CONTROL_USER.to_owned()),
        password: Some(Secret::new(server.password())),
        ..moat_node::config::NatsConfig::default()
    };
    if args.node.workload_nats.is_none() {
        config.workload_nats = Some(server.address());
    }
    let published =
        credentials::publish(url.clone(), CONTROL_USER.to_owned(), server.password().to_owned(), api.clone())?;
    let hello = tokio::spawn(hello(global.clone(), *output, url, api));

    let server_shutdown = CancellationToken::new();
    let mut supervision = tokio::spawn(server.supervise(server_shutdown.clone()));
    let result = tokio::select! {
        result = attend(output, config, args.leave_running) => result,
        ended = &mut supervision => {
            // Without its server the node goes on, but nobody can reach it.
            return Err(match ended {
                Ok(Err(failure)) => failure,
                other => Failure::internal("keep nats-server running", format!("{other:?}")),
            });
        }
    };
    hello.abort();
    drop::<Published>(published);
    // The node has said goodbye over it.
    server_shutdown.cancel();
    let stopped = supervision.await.map_err(|e| Failure::internal("stop nats-server", e))?;
    result.and(stopped)
}

/// One `moat up` in a directory.
fn lock(dir: &Path) -> Result<std::fs::File, Failure> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::file("create directory", dir, &e))?;
    let path = dir.join("up.lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| Failure::file("open", &path, &e))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(
            ErrorKind::Conflict,
            format!("another `moat up` uses {}: give this one its own --dir", dir.display()),
        )
    })?;
    Ok(file)
}

/// Decides where the REST API listens, so that other commands can be told: a port of 0 becomes a free one, and where the
/// usual port is somebody else's, another is taken. The ports are kept from others as long as the sockets are.
fn settle(api: &mut ApiConfig, output: &Output) -> Result<(Option<String>, Vec<TcpSocket>), Failure> {
    let mut reserved = Vec::new();
    for address in &mut api.listen {
        match reserve(*address) {
            Ok((free, socket)) => {
                *address = free;
                reserved.push(socket);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && !api.explicit => {
                let (free, socket) = reserve(SocketAddr::new(address.ip(), 0))
                    .map_err(|e| Failure::internal("find a free port for the REST API", e))?;
                output.note(&format!("{address} is taken: the REST API listens on {free} instead"));
                *address = free;
                reserved.push(socket);
            }
            Err(error) => {
                let kind = match error.kind() {
                    std::io::ErrorKind::AddrInUse => ErrorKind::Conflict,
                    std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                    _ => ErrorKind::InvalidSpec,
                };
                let failure = Failure::new(kind, format!("listen on {address} for the REST API: {error}"));
                return Err(failure.with_hint("--api-listen names another address, --no-api serves none"));
            }
        }
    }
    // What was free a moment ago and is not any more is an error from here on.
    api.explicit = true;
    Ok((api.listen.first().map(|address| format!("http://{address}")), reserved))
}

/// Says how to go on, once the node answers.
async fn hello(global: Global, output: Output, url: String, api: Option<String>) {
    let greeting = async {
        let nats = session::Connection::resolve(&global)?.connect(&global).await?;
        let client = Client::new(nats, session::options(&global, session::subjects(&global)?, None));
        loop {
            if let Some(node) = client.ping().await?.into_iter().next() {
                return Ok::<_, Failure>(node);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let Ok(Ok(node)) = tokio::time::timeout(HELLO_WITHIN, greeting).await else {
        return output.note("the node has not answered within a minute: see its log above");
    };
    let rest = api.as_ref().map(|api| format!(" and {api}")).unwrap_or_default();
    let sandbox =
        if api.is_some() { "      moat sandbox run host -- sh    moat sandbox run IMAGE -- COMMAND\n" } else { "" };
    let said = if output.json {
        output.record(&Ready {
            node: node.node_id.as_str(),
            name: node.name(),
            server: &url,
            api: api.as_deref(),
            credentials: credentials::path(),
        })
    } else {
        output.line(&format!(
            "node {} ({}) is up at {url}{rest}; other commands of this user find it by themselves\n\
             try:  moat devrun ./program KEY=VALUE    moat ps    moat logs -f NAME    moat exec NAME -- /bin/sh\n\
             {sandbox}Ctrl-C stops the workloads, the node and the server",
            node.name(),
            node.node_id,
        ))
    };
    if let Err(failure) = said {
        output.failure(&failure);
    }
}
