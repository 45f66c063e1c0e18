//! `moat jail`: jails, with Bastille's words and manners.
//!
//! Options before the target, everything after it as it was typed; one message style, one exit code. Nothing here knows more
//! of a node than its REST API says.

mod args;
pub mod argv;
mod create;
mod edit;
mod files;
mod front;
mod inside;
mod keep;
mod life;
mod list;
mod rdr;
mod say;
mod settings;
mod template;
mod words;

use std::path::Path;
use std::process::ExitCode;

use moat_model::ErrorKind;

pub use args::JailArgs;
use args::{AliasArgs, JailCommand, SetupArgs};
use front::Front;
use say::{Form, Say};

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::rest;

/// Does what was asked. Failures are told here, as Bastille tells them: the code is 1, or a program's own.
pub async fn run(global: &Global, output: &Output, args: JailArgs) -> Result<ExitCode, Failure> {
    let form = match &args.command {
        Some(JailCommand::List(list)) if list.pretty_list => Form::Pretty,
        Some(JailCommand::List(list)) if list.json_list => Form::Json,
        _ if args.pretty => Form::Pretty,
        _ if args.json_envelope || output.json => Form::Json,
        _ => Form::Text,
    };
    let say = Say { output: *output, form, quiet: args.quiet, trace: args.trace > 0 };
    match ask(global, say, args).await {
        Ok(code) => Ok(code),
        Err(failure) if failure.is_quiet() => Err(failure),
        Err(failure) => {
            say.error(&failure);
            Ok(ExitCode::from(1))
        }
    }
}

async fn ask(global: &Global, say: Say, args: JailArgs) -> Result<ExitCode, Failure> {
    if args.version {
        say.line(env!("CARGO_PKG_VERSION"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.config_file.is_some() {
        let why = "-c: the configuration of a node is its operator's; --url or MOAT_URL names another node";
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let command =
        args.command.ok_or_else(|| Failure::invalid("no command").with_hint("`moat jail --help` lists them"))?;
    let front = Front { client: rest::client(global)?, say };
    if say.trace {
        say.output.note(&format!("the node is {}", front.client.options().url));
    }
    dispatch(&front, command).await
}

async fn dispatch(front: &Front, command: JailCommand) -> Result<ExitCode, Failure> {
    match command {
        JailCommand::Bootstrap(args) => create::bootstrap(front, args).await,
        JailCommand::Create(args) => create::create(front, *args).await,
        JailCommand::Start(args) => life::start(front, args).await,
        JailCommand::Stop(args) => life::stop(front, args).await,
        JailCommand::Restart(args) => life::restart(front, args).await,
        JailCommand::List(args) => list::list(front, args).await,
        JailCommand::Cmd(args) => inside::cmd(front, args).await,
        JailCommand::Console(args) => inside::console(front, args).await,
        JailCommand::Pkg(args) => inside::pkg(front, args).await,
        JailCommand::Service(args) => inside::service(front, args).await,
        JailCommand::Sysrc(args) => inside::sysrc(front, args).await,
        JailCommand::Top(args) => inside::top(front, args, "top").await,
        JailCommand::Htop(args) => inside::top(front, args, "htop").await,
        JailCommand::Template(args) => template::template(front, args).await,
        JailCommand::Verify(args) => template::verify(front, args).await,
        JailCommand::Clone(args) => life::clone(front, args).await,
        JailCommand::Rename(args) => life::rename(front, args).await,
        JailCommand::Convert(args) => life::convert(front, args).await,
        JailCommand::Update(args) => life::update(front, args).await,
        JailCommand::Upgrade(args) => life::upgrade(front, args).await,
        JailCommand::Destroy(args) => life::destroy(front, args).await,
        JailCommand::Export(args) => keep::export(front, args).await,
        JailCommand::Import(args) => keep::import(front, args).await,
        JailCommand::Snapshot(args) => keep::snapshot(front, args).await,
        JailCommand::Rollback(args) => keep::rollback(front, args).await,
        JailCommand::Zfs(args) => keep::zfs(front, args).await,
        other => dispatch_settings(front, other).await,
    }
}

async fn dispatch_settings(front: &Front, command: JailCommand) -> Result<ExitCode, Failure> {
    match command {
        JailCommand::Limits(args) => settings::limits(front, args).await,
        JailCommand::Mount(args) => settings::mount(front, args).await,
        JailCommand::Umount(args) => settings::umount(front, args).await,
        JailCommand::Tags(args) => settings::tags(front, args).await,
        JailCommand::Config(args) => settings::config(front, args).await,
        JailCommand::Monitor(args) => settings::monitor(front, args).await,
        JailCommand::Rdr(args) => rdr::rdr(front, args).await,
        JailCommand::Cp(args) => files::cp(front, args).await,
        JailCommand::Jcp(args) => files::jcp(front, args).await,
        JailCommand::Rcp(args) => files::rcp(front, args).await,
        JailCommand::Logs(args) => files::logs(front, args).await,
        JailCommand::Edit(args) => edit::edit(front, args).await,
        JailCommand::Setup(args) => setup(front, &args).await,
        JailCommand::Alias(args) => alias(front, &args),
        JailCommand::Network(args) => {
            let why = "network: a jail has one link of its own; `moat jail config TARGET set ip4.addr IP` changes its address";
            refused(&args.words, why)
        }
        JailCommand::Plugin(args) => refused(&args.words, "plugin: there are none; templates do what plugins do"),
        JailCommand::Migrate(args) => {
            let why = "migrate: `moat jail export TARGET`, copy both files, then `moat jail import FILE` with MOAT_URL set \
                to the other node";
            refused(&args.words, why)
        }
        JailCommand::Etcupdate(args) => {
            let why =
                "etcupdate: what a jail changed in /etc stays its own when its release changes; nothing is merged";
            refused(&args.words, why)
        }
        JailCommand::Up(args) => {
            let why = "up: compose files are not read; `moat jail create --oci NAME IMAGE` makes a jail of one image";
            refused(&args.words, why)
        }
        _ => Err(Failure::internal("jail", "a command nobody does")),
    }
}

/// A command of Bastille's that is not here, by its name, whatever stands behind it.
fn refused(_words: &[String], why: &str) -> Result<ExitCode, Failure> {
    Err(Failure::new(ErrorKind::Unsupported, why))
}

/// A node prepares its host by itself; what FreeBSD has besides is not there.
async fn setup(front: &Front, args: &SetupArgs) -> Result<ExitCode, Failure> {
    match args.what.as_deref() {
        None | Some("loopback" | "firewall" | "shared" | "storage") => {
            let releases = front.client.releases().await?.releases.len();
            let asked = if args.yes { ", and nothing is asked" } else { "" };
            front.say.info(&format!("nothing is to be set up: the node did so when it started{asked}"))?;
            front.say.info(&format!("{releases} releases are there; `moat jail bootstrap RELEASE` makes one"))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(what @ ("bridge" | "vnet" | "netgraph" | "linux")) => {
            let why = format!(
                "setup {what}: every jail has a network stack of its own and runs Linux; nothing is to be set up"
            );
            Err(Failure::new(ErrorKind::Unsupported, why))
        }
        Some(other) => Err(Failure::invalid(format!("setup {other:?}: there is nothing of that name"))),
    }
}

/// A link named `bastille` to this program.
fn alias(front: &Front, args: &AliasArgs) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::internal("find this program", e))?;
    let link = args.install.join(argv::ALIAS);
    let is_ours = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to == program);
    match std::os::unix::fs::symlink(&program, &link) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && is_ours(&link) => {}
        made => made.map_err(|e| Failure::file("make a link at", &link, &e))?,
    }
    front.say.info(&format!("{} -> {}", link.display(), program.display()))?;
    Ok(ExitCode::SUCCESS)
}
