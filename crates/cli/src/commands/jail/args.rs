//! What can be written after `moat jail`.
//!
//! As Bastille has it: options stand before the target, and everything after the target is taken as it is, so programs get
//! their own options. That is why each command has one list of words, of which the target is the first.

use clap::{Args, Subcommand};

/// Jails: named, addressed, lasting environments, with Bastille's words.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct JailArgs {
    /// Say nothing but what the command itself is about
    #[arg(short, long)]
    pub quiet: bool,
    /// Write JSON in Bastille's envelope
    #[arg(short)]
    pub json_envelope: bool,
    /// The same, for people
    #[arg(short)]
    pub pretty: bool,
    /// Say which requests are made; -xx says more
    #[arg(short = 'x', action = clap::ArgAction::Count)]
    pub trace: u8,
    /// Show the version
    #[arg(short = 'v')]
    pub version: bool,
    /// Another configuration file: refused, the node's configuration is the operator's
    #[arg(short = 'c', value_name = "FILE", hide = true)]
    pub config_file: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<JailCommand>,
}

/// What to do with jails.
#[derive(Debug, Subcommand)]
pub enum JailCommand {
    /// Make a release that jails are made of, or fetch templates
    Bootstrap(BootstrapArgs),
    /// Make a jail and start it
    Create(Box<CreateArgs>),
    /// Start jails, and before each those it depends on
    Start(StartArgs),
    /// Stop jails, and before each those that depend on it
    Stop(StopArgs),
    /// Stop and start jails
    Restart(RestartArgs),
    /// List jails, or what belongs to them
    List(ListArgs),
    /// Run a program as root in jails; ends with its exit code
    Cmd(AutoWords),
    /// Open a login shell in a jail
    Console(AutoWords),
    /// Manage packages in jails, with what their root has
    Pkg(PkgArgs),
    /// Start, stop or look at a service in jails
    Service(AutoWords),
    /// Set or show persistent variables of rc in jails
    Sysrc(AutoWords),
    /// Apply a template to jails
    Template(TemplateArgs),
    /// Make another jail of a jail's files, up or down
    Clone(LiveWords),
    /// Give a jail another name
    Rename(AutoWords),
    /// Write a jail into an archive, with its checksum beside it
    Export(ExportArgs),
    /// Make a jail of an archive
    Import(ImportArgs),
    /// Keep the files of jails as they are
    Snapshot(AutoWords),
    /// Make the files of jails what they were
    Rollback(AutoWords),
    /// snapshot, rollback, destroy and df, in Bastille's spelling
    Zfs(ZfsArgs),
    /// Bound what jails use
    Limits(LimitsArgs),
    /// Show a path of the host inside jails
    Mount(AutoWords),
    /// No longer show it
    Umount(AutoWords),
    /// Lead a port of the host to a jail: [-d IP] [-t ipv4] TARGET tcp|udp HOSTPORT JAILPORT, or TARGET list|clear|reset
    Rdr(Words1),
    /// Label jails, and list labels
    Tags(Words1),
    /// Show or change properties of jails
    Config(Words1),
    /// Copy from this machine into jails
    Cp(CopyArgs),
    /// Copy from one jail into others
    Jcp(CopyArgs),
    /// Copy from a jail to this machine
    Rcp(CopyArgs),
    /// Run top in a jail
    Top(AutoWords),
    /// Run htop in a jail, which must have it
    Htop(AutoWords),
    /// Show what a jail wrote on its console
    Logs(LogsArgs),
    /// Have services of jails started again when they are found down
    Monitor(Words1),
    /// Make a thin jail thick, or a release of a jail
    Convert(ConvertArgs),
    /// Fetch a release again, which thin jails get at their next start
    Update(AutoWords),
    /// Put a jail on another release
    Upgrade(AutoWords),
    /// Check a template, or that a release is whole
    Verify(Words1),
    /// Edit a file of a jail, or its properties
    Edit(Words1),
    /// Destroy jails, or a release that no jail needs
    Destroy(DestroyArgs),
    /// Say what a host needs
    Setup(SetupArgs),
    /// Make a link named `bastille` to this program, so that `bastille create …` runs `moat jail create …`
    Alias(AliasArgs),
    /// Not here: jails have their network from their start
    #[command(hide = true)]
    Network(Anything),
    /// Not here: there are no plugins
    #[command(hide = true)]
    Plugin(Anything),
    /// Not here: export and import
    #[command(hide = true)]
    Migrate(Anything),
    /// Not here: thin jails keep their own /etc
    #[command(hide = true)]
    Etcupdate(Anything),
    /// Not here: no compose files
    #[command(hide = true)]
    Up(Anything),
}

/// Words and nothing else.
#[derive(Debug, Args)]
pub struct Words1 {
    /// Jail: a name, its number, the beginning of a name, a tag, or ALL; several in quotes. Then what the command takes
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Whatever stands there.
#[derive(Debug, Args)]
pub struct Anything {
    /// Not read.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Words, and whether a jail may be started or stopped for them.
#[derive(Debug, Args)]
pub struct AutoWords {
    /// Start a jail that is down, or stop one that is up, if the command needs it
    #[arg(short, long)]
    pub auto: bool,
    /// Jail: a name, its number, the beginning of a name, a tag, or ALL; several in quotes. Then what the command takes
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Words for what can be done to a jail that is up.
#[derive(Debug, Args)]
pub struct LiveWords {
    /// As Bastille has it; a jail that is up is cloned as it is anyway, and stays up
    #[arg(short, long)]
    pub auto: bool,
    /// Start the clone
    #[arg(short, long)]
    pub live: bool,
    /// Jail, the new one's name, and its address
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// A release or templates.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Sets of packages: refused, releases are images
    #[arg(short, hide = true)]
    pub pkgbase: bool,
    /// A release that is there is made anew
    #[arg(short, long)]
    pub update: bool,
    /// What the release is made of: a directory, a tar archive, or the reference of an image [default: what the operator
    /// says of its name]
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,
    /// What a template of this machine is called: project/template [default: its last two directories]
    #[arg(long = "as", value_name = "NAME")]
    pub named: Option<String>,
    /// Which state of a repository
    #[arg(long, value_name = "COMMIT")]
    pub commit: Option<String>,
    /// RELEASE [ARCH], URL of a repository of templates, or a directory of this machine with templates
    #[arg(required = true, num_args = 1..=2, value_name = "RELEASE")]
    pub words: Vec<String>,
}

/// A jail.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// A copy of the release of its own
    #[arg(short = 'T', long, group = "kind")]
    pub thick: bool,
    /// The release as it is now, shared until something is changed
    #[arg(short = 'C', long = "clone", group = "kind")]
    pub cloned: bool,
    /// Nothing; it is not started
    #[arg(short = 'E', long, group = "kind")]
    pub empty: bool,
    /// An OCI image in the place of the release
    #[arg(short = 'O', long, group = "kind")]
    pub oci: bool,
    /// A jail of Linux on FreeBSD: refused, all are Linux here
    #[arg(short = 'L', long, group = "kind", hide = true)]
    pub linux: bool,
    /// Environment of an OCI image's program; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", requires = "oci")]
    pub env: Vec<String>,
    /// Refused: images are for this node's platform
    #[arg(long, hide = true)]
    pub os: Option<String>,
    /// Refused: volumes are kept with the jail
    #[arg(long, hide = true)]
    pub data_path: Option<String>,
    /// Refused: every jail has a network stack of its own
    #[arg(short = 'V', long, hide = true)]
    pub vnet: bool,
    /// Refused: there are no bridges
    #[arg(short = 'B', long, hide = true)]
    pub bridge: bool,
    /// Refused: no interface of the host is given away
    #[arg(short = 'P', long, hide = true)]
    pub passthrough: bool,
    /// Refused: there are no bridges
    #[arg(short = 'M', long, hide = true)]
    pub static_mac: bool,
    /// Refused: there are no bridges
    #[arg(short = 'v', long, value_name = "ID", hide = true)]
    pub vlan: Option<String>,
    /// No network but its own loopback
    #[arg(long)]
    pub no_ip: bool,
    /// Refused: no IPv6
    #[arg(short = 'D', long, hide = true)]
    pub dual: bool,
    /// Refused: the gateway is the node's
    #[arg(short, long, value_name = "IP", hide = true)]
    pub gateway: Option<String>,
    /// Resolvers it asks in place of the node's, separated by commas
    #[arg(short, long, value_name = "IP,…", value_delimiter = ',')]
    pub nameservers: Vec<std::net::Ipv4Addr>,
    /// Lower ones are started first [default: 99]
    #[arg(short, long, value_name = "NUMBER")]
    pub priority: Option<u16>,
    /// It is not started with the node
    #[arg(long)]
    pub no_boot: bool,
    /// Labels, separated by commas
    #[arg(long, value_name = "TAG,…", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Jails that are up before it is, separated by commas
    #[arg(long, value_name = "JAIL,…", value_delimiter = ',')]
    pub depend: Vec<String>,
    /// Refused: there are no datasets
    #[arg(short = 'Z', long, hide = true)]
    pub zfs: Option<String>,
    /// Names of releases are free anyway
    #[arg(long, hide = true)]
    pub no_validate: bool,
    /// The weakest isolation accepted: container or microvm
    #[arg(long, value_name = "WORD")]
    pub isolation: Option<String>,
    /// What it reaches: internet, internal or isolated [default: the most the node gives]
    #[arg(long, value_name = "MODE", conflicts_with = "no_ip")]
    pub network: Option<String>,
    /// NAME RELEASE [IP]; for an empty one NAME; with --oci NAME IMAGE [IP]
    #[arg(required = true, trailing_var_arg = true, value_name = "NAME")]
    pub words: Vec<String>,
}

/// Jails to start.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Leave out those that do not start with the node
    #[arg(short, long)]
    pub boot: bool,
    /// Seconds between one and the next
    #[arg(short, long, value_name = "SECONDS")]
    pub delay: Option<u16>,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    /// Jails
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Jails to stop.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Kill them, without stopping their services
    #[arg(short, long)]
    pub force: bool,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    /// Jails
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Jails to restart.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Leave out those that do not start with the node
    #[arg(short, long)]
    pub boot: bool,
    /// Seconds between one and the next
    #[arg(short, long, value_name = "SECONDS")]
    pub delay: Option<u16>,
    /// Leave out those that are down
    #[arg(short, long)]
    pub ignore: bool,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    /// Jails
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those that are down
    #[arg(short, long, conflicts_with = "up")]
    pub down: bool,
    /// Only those that are up
    #[arg(short, long)]
    pub up: bool,
    /// JSON
    #[arg(short)]
    pub json_list: bool,
    /// JSON for people
    #[arg(short)]
    pub pretty_list: bool,
    /// all, ip, path, port, state, type, boot, prio, jails, releases, templates, limits, snapshots, or a target
    #[arg(num_args = 0..=2, value_name = "WHAT")]
    pub words: Vec<String>,
}

/// Packages.
#[derive(Debug, Args)]
pub struct PkgArgs {
    /// Start a jail that is down
    #[arg(short, long)]
    pub auto: bool,
    /// Refused: the host has no tool for the packages of a jail
    #[arg(short = 'H', long, hide = true)]
    pub host: bool,
    /// Answer yes
    #[arg(short, long)]
    pub yes: bool,
    /// Jails, then what the tool takes: install -y NAME…
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// A template and its arguments.
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// Start a jail that is down
    #[arg(short, long)]
    pub auto: bool,
    /// Value for an argument of it; may be given several times, also after the template
    #[arg(long, value_name = "NAME=VALUE")]
    pub arg: Vec<String>,
    /// File with such values, one a line
    #[arg(long, value_name = "FILE")]
    pub arg_file: Option<String>,
    /// Show the steps, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// If a step fails, make the jail's files what they were
    #[arg(long)]
    pub rollback: bool,
    /// Jails, then project/template or a URL
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// An archive to write.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// As Bastille has it; a jail that is up is exported as it is anyway, and stays up
    #[arg(short, long)]
    pub auto: bool,
    /// The same
    #[arg(short, long)]
    pub live: bool,
    /// A tar archive packed with zstd: what is written anyway
    #[arg(long)]
    pub tzst: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub tgz: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub txz: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub gz: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub xz: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub zst: bool,
    /// Refused
    #[arg(long, hide = true)]
    pub raw: bool,
    /// Jail, and the directory the archive goes to [default: this one]; - is standard output
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// An archive to read.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Take it without its checksum
    #[arg(short, long)]
    pub force: bool,
    /// What the jail is called [default: as in the archive]
    #[arg(long = "as", value_name = "NAME")]
    pub named: Option<String>,
    /// Archive; FILE.sha256 beside it
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    pub words: Vec<String>,
}

/// Snapshots in Bastille's spelling.
#[derive(Debug, Args)]
pub struct ZfsArgs {
    /// Stop a jail that is up, if the command needs it, and start it again
    #[arg(short, long)]
    pub auto: bool,
    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,
    /// Jails, then snapshot [TAG], rollback [TAG], destroy TAG or df
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Limits.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    /// Start a jail that is down
    #[arg(short, long)]
    pub auto: bool,
    /// Refused: nothing is logged when a limit is met
    #[arg(short, long, hide = true)]
    pub log_too: bool,
    /// Jails, then add KEY VALUE, remove KEY, clear, reset, list [active] or stats
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// A copy.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Say nothing
    #[arg(short)]
    pub quiet_copy: bool,
    /// Start a jail that is down
    #[arg(short, long)]
    pub auto: bool,
    /// cp: TARGET HERE THERE. jcp: TARGET THERE TARGET THERE. rcp: TARGET THERE HERE
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// Which log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// All of it
    #[arg(short, long, conflicts_with = "live")]
    pub full: bool,
    /// Go on until interrupted
    #[arg(short, long)]
    pub live: bool,
    /// Jail, then console
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// What to make of a jail.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Stop a jail that is up, and start it again
    #[arg(short, long)]
    pub auto: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Jail, then the name of the release to be made of it
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// What to destroy.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Stop a jail that is up
    #[arg(short, long)]
    pub auto: bool,
    /// As Bastille has it; nothing is cached apart from the images of the node
    #[arg(short, long)]
    pub cache: bool,
    /// Stop a jail that is up by killing it
    #[arg(short, long)]
    pub force: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Whole names of jails, or of a release
    #[arg(required = true, trailing_var_arg = true, value_name = "TARGET")]
    pub words: Vec<String>,
}

/// What a host needs.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// bridge, linux, loopback, netgraph, firewall, shared, storage or vnet
    #[arg(value_name = "WHAT")]
    pub what: Option<String>,
}

/// Where the link goes.
#[derive(Debug, Args)]
pub struct AliasArgs {
    /// Directory it is made in, such as /usr/local/bin
    #[arg(long, value_name = "DIR")]
    pub install: std::path::PathBuf,
}
