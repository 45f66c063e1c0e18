//! What can be written on the command line. The arguments of each command stand beside the command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    alloc, api_key, completions, devrun, events, exec, guest, image, jail, job, lameduck, logs, network, node, ps, run,
    sandbox, snapshot, stop, template, up,
};
use crate::failure::Policy;
use crate::parse;

/// Runs programs you do not trust on machines joined by NATS.
#[derive(Debug, Parser)]
#[command(name = "moat", version, max_term_width = 110, disable_help_subcommand = true, subcommand_required = true)]
#[command(after_help = "Exit codes: 0 done; 2 to 9 and 70 by kind of failure (docs/errors.md). \
    run, devrun, exec, alloc exec, sandbox run and sandbox exec pass on the program's own code and use 125 for failures \
    of moat; job run and job plan have codes of their own, jail commands 1 or that of the program. Below job, alloc and node, long options may have one dash, as \
    Nomad writes them.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// NATS server URLs, separated by commas [default: a running `moat up`, the selected NATS context, or
    /// nats://127.0.0.1:4222]
    #[arg(
        short,
        long,
        global = true,
        value_name = "URL",
        env = "NATS_URL",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub server: Option<String>,
    /// User name; without a password, a token
    #[arg(long, global = true, env = "NATS_USER", hide_env_values = true, help_heading = "Connection")]
    pub user: Option<String>,
    /// Password
    #[arg(long, global = true, env = "NATS_PASSWORD", hide_env_values = true, help_heading = "Connection")]
    pub password: Option<String>,
    /// Credentials file (user JWT and seed)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NATS_CREDS",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub creds: Option<PathBuf>,
    /// File with a user nkey seed
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NATS_NKEY",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub nkey: Option<PathBuf>,
    /// TLS client certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NATS_CERT",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tlscert: Option<PathBuf>,
    /// Key of the TLS client certificate
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NATS_KEY",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tlskey: Option<PathBuf>,
    /// Certificate authority of the server
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NATS_CA",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tlsca: Option<PathBuf>,
    /// TLS before the server's greeting
    #[arg(long, global = true, help_heading = "Connection")]
    pub tlsfirst: bool,
    /// NATS context, as made by `nats context add`
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "NATS_CONTEXT",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub context: Option<String>,
    /// How long a request may take; deploys and stops have at least 60s
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        env = "NATS_TIMEOUT",
        hide_env_values = true,
        default_value = "2s",
        value_parser = parse::duration,
        help_heading = "Connection"
    )]
    pub timeout: Duration,
    /// REST API of a node, for sandboxes, templates, images and snapshots [default: that of a running `moat up`, or
    /// http://127.0.0.1:8080]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MOAT_URL",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub url: Option<String>,
    /// API key for it
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "MOAT_API_KEY",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub api_key: Option<String>,
    /// JetStream domain of the object stores
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub jsdomain: Option<String>,
    /// Tenant to act for
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "NEX_NAMESPACE",
        hide_env_values = true,
        default_value = "default",
        help_heading = "Connection"
    )]
    pub namespace: moat_model::Namespace,
    /// Prefix of the control subjects
    #[arg(long, global = true, value_name = "SUBJECT", default_value = "$NEX", help_heading = "Connection")]
    pub prefix: String,
    /// Write JSON: one document, or one for each line of a feed
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Output")]
    pub color: Color,
    /// What to log on standard error: error, warn, info, debug, or filters such as moat_node=debug [default: info for
    /// nodes, error otherwise]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "MOAT_LOG",
        hide_env_values = true,
        help_heading = "Output"
    )]
    pub log: Option<String>,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it out: start a NATS server, if none is named, and a node beside it
    Up(up::UpArgs),
    /// Nodes: run one here, or look at those that run
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Jobs: declare them in a file, and look at what became of them
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Allocations: instances of jobs, wherever they run
    #[command(subcommand)]
    Alloc(alloc::AllocCommand),
    /// Jails: environments with a name, an address and files that last, with Bastille's words
    Jail(jail::JailArgs),
    /// Sandboxes: create them, run programs in them, move files, pause, fork
    #[command(subcommand, visible_alias = "sb")]
    Sandbox(sandbox::SandboxCommand),
    /// Templates: images made ready for sandboxes
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Images in a node's store
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Snapshots of sandboxes
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Networks: what a node gives, and what would be reached
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Guest: what virtual machines of the node on this machine boot
    #[command(subcommand)]
    Guest(guest::GuestCommand),
    /// Keys for the REST API of the node on this machine
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    /// Start a program that lies in an object store
    Run(run::RunArgs),
    /// Upload a local program and start it
    #[command(visible_alias = "yeet")]
    Devrun(devrun::DevrunArgs),
    /// List workloads, and jails of the node whose API is known
    Ps(ps::PsArgs),
    /// Stop a workload
    Stop(stop::StopArgs),
    /// Show what workloads write
    Logs(logs::LogsArgs),
    /// Show events of workloads and nodes as they come
    Events(events::EventsArgs),
    /// Run a command in the sandbox of a workload
    Exec(exec::ExecArgs),
    /// Make a node refuse new workloads; those it runs stay
    Lameduck(lameduck::LameduckArgs),
    /// Show the version
    Version,
    /// Write shell completions
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Whose exit code this command ends with.
    pub fn policy(&self) -> Policy {
        match self {
            Self::Run(_) | Self::Devrun(_) | Self::Exec(_) => Policy::Program,
            Self::Sandbox(command) if command.passes_code() => Policy::Program,
            Self::Jail(_) => Policy::Always(1),
            Self::Job(command) => command.policy(),
            Self::Alloc(command) => command.policy(),
            _ => Policy::Kind,
        }
    }

    /// It runs a node, so it logs and uses all processors.
    pub fn is_daemon(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Node(node::NodeCommand::Up(_)))
    }
}
