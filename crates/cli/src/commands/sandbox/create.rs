//! `moat sandbox create`, and the options it shares with `run`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_api::rest::network::NetworkWish;
use moat_api::rest::sandbox::{CreateSandbox, OnTimeout, ProxyOptions, ResourceLimits, Sandbox, SecurityOptions};
use moat_model::ErrorKind;

use crate::args::Global;
use crate::failure::Failure;
use crate::network::NetworkArgs;
use crate::output::Output;
use crate::{complete, parse, rest};

/// What to make it of, and how.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    options: SandboxOptions,
    /// Run the image's own entrypoint and command; the sandbox ends with it
    #[arg(long)]
    run_entrypoint: bool,
    /// Template or image [host and scratch are templates too]
    #[arg(value_name = "TEMPLATE|IMAGE", add = ArgValueCandidates::new(complete::templates))]
    from: Option<String>,
}

/// Options of a new sandbox.
#[derive(Debug, Clone, Args)]
pub struct SandboxOptions {
    /// A snapshot instead of a template or image, by name or id
    #[arg(long, value_name = "NAME", conflicts_with = "from", add = ArgValueCandidates::new(complete::snapshots))]
    snapshot: Option<String>,
    /// CPU limit in cores, such as 0.5
    #[arg(long, value_name = "CORES", value_parser = parse::cpus)]
    cpus: Option<u32>,
    /// Memory limit, such as 256MiB; its writable layer counts
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes)]
    memory: Option<u64>,
    /// Size of its writable layer
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes)]
    disk: Option<u64>,
    /// Most processes and threads
    #[arg(long, value_name = "COUNT")]
    pids: Option<u32>,
    /// Relative share of the CPU, 1 to 10000
    #[arg(long, value_name = "WEIGHT")]
    cpu_weight: Option<u32>,
    /// Environment of every program in it; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// User of programs: a name, uid or uid:gid [default: the image's]
    #[arg(long = "as", value_name = "USER")]
    run_as: Option<String>,
    /// Working directory of programs [default: the image's]
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// Label; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// It ends after this long; 0 is never [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    life: Option<Duration>,
    /// It ends when nobody used it for this long
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    idle: Option<Duration>,
    /// What the end of its time does
    #[arg(long, value_name = "WHAT", default_value = "kill")]
    on_timeout: AtTimeout,
    /// Weakest isolation to accept: process, container or microvm [default: container]
    #[arg(long, value_name = "LEVEL")]
    isolation: Option<String>,
    /// Capability to add; may be given several times
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Capability to take away, or all
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Let everybody who reaches the node's reverse proxy reach its ports there, without its token
    #[arg(long, help_heading = "Network")]
    public: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AtTimeout {
    Kill,
    Pause,
}

/// Creates one.
pub async fn run(global: &Global, output: &Output, args: &CreateArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let mut request = args.options.request(&client, args.from.as_deref()).await?;
    request.run_entrypoint = args.run_entrypoint;
    let sandbox = client.create(&request).await?;
    if output.json { output.document(&sandbox) } else { output.line(&sandbox.id) }
}

impl SandboxOptions {
    /// The request, once it is clear what `from` names.
    pub async fn request(&self, client: &RestClient, from: Option<&str>) -> Result<CreateSandbox, Failure> {
        let mib = |field: &str, bytes: Option<u64>| match bytes {
            Some(bytes) if bytes % (1 << 20) != 0 => {
                Err(Failure::invalid(format!("{field}: {bytes} bytes are not whole MiB: say 64MiB, for one")))
            }
            bytes => Ok(bytes.map(|bytes| bytes >> 20)),
        };
        let mut request = CreateSandbox {
            snapshot: self.snapshot.clone(),
            resources: ResourceLimits {
                vcpu: self.cpus.map(|millis| f64::from(millis) / 1000.0),
                memory_mb: mib("--memory", self.memory)?,
                cpu_weight: self.cpu_weight,
                pids: self.pids,
                disk_mb: mib("--disk", self.disk)?,
            },
            env: parse::environment(&self.env)?,
            user: self.run_as.clone(),
            workdir: self.workdir.clone(),
            metadata: parse::environment(&self.labels)?,
            timeout_sec: seconds("--life", self.life)?,
            idle_timeout_sec: seconds("--idle", self.idle)?,
            on_timeout: match self.on_timeout {
                AtTimeout::Kill => OnTimeout::Kill,
                AtTimeout::Pause => OnTimeout::Pause,
            },
            isolation: self.isolation.clone(),
            proxy: ProxyOptions { public: self.public },
            network: self.network.wish().map(|options| NetworkWish::Options(Box::new(options))),
            security: SecurityOptions {
                cap_add: self.cap_add.clone(),
                cap_drop: self.cap_drop.clone(),
                allow_new_privs: false,
            },
            ..CreateSandbox::default()
        };
        match (from, &self.snapshot) {
            (Some(from), None) => match kind_of(client, from).await? {
                Kind::Template => request.template = Some(from.to_owned()),
                Kind::Image => request.image = Some(from.to_owned()),
            },
            (None, Some(_)) => {}
            _ => {
                return Err(Failure::invalid("name a template, an image, or a snapshot with --snapshot")
                    .with_hint("`moat template ls` lists templates; host and scratch are always there"));
            }
        }
        Ok(request)
    }
}

/// Times of the API are whole seconds.
pub fn seconds(field: &str, span: Option<Duration>) -> Result<Option<u64>, Failure> {
    match span {
        Some(span) if span.subsec_nanos() != 0 => {
            Err(Failure::invalid(format!("{field}: {span:?} is not whole seconds")))
        }
        span => Ok(span.map(|span| span.as_secs())),
    }
}

enum Kind {
    Template,
    Image,
}

/// What a word names: a template if there is one of that name, else an image. What no template can be called is not asked.
async fn kind_of(client: &RestClient, word: &str) -> Result<Kind, Failure> {
    let name = word.split_once('@').map_or(word, |(name, _)| name);
    if name.contains(['/', ':']) {
        return Ok(Kind::Image);
    }
    match client.template(name).await {
        Ok(_) => Ok(Kind::Template),
        Err(error) if matches!(error.kind, ErrorKind::NotFound) => Ok(Kind::Image),
        Err(error) => Err(error.into()),
    }
}

/// Creates one, whatever signals say meanwhile: an answer that nobody reads would leave a sandbox nobody knows.
pub async fn create_uninterrupted(
    client: &RestClient,
    output: &Output,
    request: &CreateSandbox,
) -> Result<(Sandbox, bool), Failure> {
    let create = client.create(request);
    tokio::pin!(create);
    tokio::select! {
        created = &mut create => return Ok((created?, false)),
        _ = tokio::signal::ctrl_c() => output.note("the sandbox is removed as soon as it is there; Ctrl-C again leaves it"),
    }
    tokio::select! {
        created = create => Ok((created?, true)),
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(ErrorKind::Deadline, "interrupted twice: a sandbox may be left; `moat sandbox ls` shows it"))
        }
    }
}
