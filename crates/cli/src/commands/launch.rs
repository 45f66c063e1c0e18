//! What `run` and `devrun` share: the options of a workload, its start, and waiting for its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use moat_api::client::{Client, Deploy, Deployed, Placement};
use moat_api::nex::{AuctionRequest, Extension, Level, Location, Template};
use moat_api::sandbox::WorkloadView;
use moat_model::spec::{Resources, Signal};
use moat_model::workload::WorkloadKind;
use moat_model::{Cause, ErrorKind, GivenIsolation, Isolation, NodeId, WorkloadId, WorkloadName};
use nkeys::KeyPair;
use serde::Serialize;

use super::node::resolve;
use crate::failure::{Failure, program_code};
use crate::follow::Follower;
use crate::output::Output;
use crate::program::Target;
use crate::{keys, parse};

/// Options of a workload.
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// Its environment
    #[arg(value_name = "KEY=VALUE")]
    environment: Vec<String>,
    /// Arguments of the program, split as a shell does
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, conflicts_with = "arguments")]
    argv: Option<String>,
    /// Arguments of the program
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
    /// For people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// Start it again when it fails
    #[arg(long)]
    essential: bool,
    /// What the program is
    #[arg(long = "type", value_name = "TYPE", default_value = "native")]
    workload_type: String,
    /// A service runs until it is stopped, a job to its own end [default: service]
    #[arg(long)]
    kind: Option<Kind>,
    /// The weakest isolation to accept [default: the node's]
    #[arg(long)]
    isolation: Option<IsolationLevel>,
    /// Root file system: the operator's list of host paths, or nothing [default: the node's]
    #[arg(long)]
    template: Option<Root>,
    /// Memory limit, such as 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes)]
    memory: Option<u64>,
    /// CPU limit in cores, such as 0.5
    #[arg(long, value_name = "CORES", value_parser = parse::cpus)]
    cpus: Option<u32>,
    /// Most processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
    /// User inside: a name, uid or uid:gid [default: nobody]
    #[arg(long = "as", value_name = "USER")]
    run_as: Option<String>,
    /// Give it the operator's NATS server at 127.0.0.1:4222
    #[arg(long)]
    nats: bool,
    /// Signal that asks it to stop [default: SIGINT]
    #[arg(long, value_name = "SIGNAL", value_parser = parse::signal)]
    stop_signal: Option<Signal>,
    /// How long it may take to stop before it is killed [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    stop_grace: Option<Duration>,
    /// Kill it after this long
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    time_limit: Option<Duration>,
    /// Key that signs the start, and alone can stop it [default: one in ~/.config/moat, made if need be]
    #[arg(long, value_name = "FILE")]
    issuer: Option<PathBuf>,
    /// Key that seals the environment [default: one in ~/.config/moat, made if need be]
    #[arg(long, value_name = "FILE")]
    xkey: Option<PathBuf>,
    /// Node: an id, the beginning of one, or a name [default: of those that bid, the one with the fewest workloads]
    #[arg(long)]
    node: Option<String>,
    /// Show its output, wait for its end and exit with its code; Ctrl-C stops it [default for jobs]
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// Return as soon as it runs [default for services]
    #[arg(short, long)]
    detach: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Service,
    Job,
}

/// `Isolation`, as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IsolationLevel {
    Process,
    Container,
    Microvm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Root {
    Host,
    Scratch,
}

/// A program to start, and how.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: WorkloadName,
    /// Where it lies.
    pub location: Location,
    /// Hex SHA-256 it must have.
    pub sha256: Option<String>,
}

#[derive(Serialize)]
struct Started<'a> {
    id: &'a str,
    name: &'a str,
    node: &'a NodeId,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<&'a GivenIsolation>,
}

impl LaunchArgs {
    /// The key that signs.
    pub fn issuer(&self) -> Result<KeyPair, Failure> {
        keys::issuer(self.issuer.as_deref())
    }

    /// Checks what needs no server, so that nothing is uploaded or started for a mistake.
    pub fn check(&self) -> Result<(), Failure> {
        parse::environment(&self.environment)?;
        self.argv().map(drop)
    }

    fn argv(&self) -> Result<Vec<String>, Failure> {
        match &self.argv {
            Some(text) => parse::words(text),
            None => Ok(self.arguments.clone()),
        }
    }

    /// Where to start it.
    pub async fn place(&self, client: &Client, target: Option<Target>) -> Result<NodeId, Failure> {
        if let Some(node) = &self.node {
            return resolve(client, node).await;
        }
        let request = AuctionRequest {
            arch: target.map(|t| t.arch.to_owned()),
            os: target.map(|t| t.os.to_owned()),
            sandboxed: self.isolation.is_some_and(|i| i != IsolationLevel::Process).then_some(true),
            workload_types: vec![self.workload_type.clone()],
            ..AuctionRequest::default()
        };
        Ok(client.place(&Placement::Auction(request)).await?)
    }

    /// Starts it there, and waits for its end if that was asked for.
    pub async fn start(
        &self,
        client: &Client,
        output: &Output,
        node: &NodeId,
        program: Program,
    ) -> Result<ExitCode, Failure> {
        let issuer = self.issuer()?;
        let sender = keys::sender(self.xkey.as_deref())?;
        let deploy = Deploy {
            name: program.name,
            location: program.location,
            workload_type: self.workload_type.clone(),
            argv: self.argv()?,
            environment: parse::environment(&self.environment)?,
            description: self.description.clone(),
            essential: self.essential,
            sha256: program.sha256,
            extension: self.extension(),
        };
        let deployed = client.deploy(node, &deploy, &issuer, &sender).await?;
        if !self.waits() {
            return started(output, &deployed).map(|()| ExitCode::SUCCESS);
        }
        let id = WorkloadId::parse(&deployed.id).map_err(|_| {
            Failure::new(ErrorKind::Unsupported, format!("{} runs, but its node cannot be waited for", deployed.id))
        })?;
        wait(client, output, &deployed, id, &deploy.name, &issuer).await
    }

    fn waits(&self) -> bool {
        self.wait || self.kind == Some(Kind::Job) && !self.detach
    }

    /// What Nex cannot ask for, if any of it was asked for.
    fn extension(&self) -> Option<Extension> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let extension = Extension {
            kind: self.kind.map(|kind| match kind {
                Kind::Service => WorkloadKind::Service,
                Kind::Job => WorkloadKind::Job,
            }),
            isolation: self.isolation.map(|isolation| match isolation {
                IsolationLevel::Process => Isolation::Process,
                IsolationLevel::Container => Isolation::Container,
                IsolationLevel::Microvm => Isolation::Microvm,
            }),
            template: self.template.map(|template| match template {
                Root::Host => Template::Host,
                Root::Scratch => Template::Scratch,
            }),
            resources: Resources {
                memory_bytes: self.memory,
                cpu_quota_millis: self.cpus,
                pids_max: self.pids,
                ..Resources::default()
            },
            user: self.run_as.clone(),
            stop_signal: self.stop_signal,
            stop_grace_ms: self.stop_grace.map(millis),
            timeout_ms: self.time_limit.map(millis),
            nats: self.nats,
            ..Extension::default()
        };
        (extension != Extension::default()).then_some(extension)
    }
}

fn started(output: &Output, deployed: &Deployed) -> Result<(), Failure> {
    if output.json {
        return output.document(&Started {
            id: &deployed.id,
            name: &deployed.name,
            node: &deployed.node,
            isolation: deployed.isolation.as_ref(),
        });
    }
    let isolation = deployed.isolation.as_ref().map(|i| format!(" ({i})")).unwrap_or_default();
    output.line(&format!("started {} as {} on {}{isolation}", deployed.name, deployed.id, deployed.node))
}

/// Shows its output until it has ended. Ctrl-C stops it; a second one leaves it to itself.
async fn wait(
    client: &Client,
    output: &Output,
    deployed: &Deployed,
    id: WorkloadId,
    name: &WorkloadName,
    issuer: &KeyPair,
) -> Result<ExitCode, Failure> {
    let mut follower = Follower::new(client, output, deployed.node.clone(), id, Level::DEBUG);
    let mut lines = follower.listen().await?;
    let interrupted = async {
        // Without signals there is only no Ctrl-C.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        view = follower.until_end(&mut lines) => return ended(output, &view?),
        () = interrupted => output.note(&format!("stopping {name}; Ctrl-C again leaves it to itself")),
    }
    let end = async {
        client.stop(&deployed.node, &deployed.id, name, issuer).await?;
        follower.until_end(&mut lines).await
    };
    tokio::select! {
        view = end => ended(output, &view?),
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(ErrorKind::Deadline, format!("{name} ({}) may still be stopping", deployed.id)))
        }
    }
}

/// The program's own exit code; why, if it was not its own doing.
fn ended(output: &Output, view: &WorkloadView) -> Result<ExitCode, Failure> {
    let why = view.cause.as_ref().map(Cause::message);
    match (&view.cause, view.exit) {
        (Some(Cause::Exited), Some(exit)) => Ok(program_code(exit)),
        (_, Some(exit)) => {
            output.note(&format!("{}: {}", view.name, why.unwrap_or_default()));
            Ok(program_code(exit))
        }
        (_, None) => Err(Failure::new(
            ErrorKind::Guest,
            format!("{}: {}", view.name, why.unwrap_or_else(|| "ended in an unknown way".to_owned())),
        )),
    }
}
