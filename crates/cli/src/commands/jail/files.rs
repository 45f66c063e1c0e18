//! Files between this machine and jails, and between jails; what a jail wrote on its console.

use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use moat_api::rest::file::{FileQuery, MakeDirectory};
use moat_api::rest::jail::ReadConsole;
use moat_model::ErrorKind;
use moat_model::jail::JailView;
use moat_model::jail::target::Reach;

use super::args::{CopyArgs, LogsArgs};
use super::front::Front;
use super::words::Words;
use crate::commands::sandbox::copy::Inside;
use crate::failure::Failure;

const DONE: ExitCode = ExitCode::SUCCESS;
/// Lines of a console that are shown if all of them are not asked for.
const LAST_LINES: u32 = 20;

/// Into jails. Directories above the target are made.
pub async fn cp(front: &Front, args: CopyArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail cp [-a -q] TARGET HOSTPATH JAILPATH");
    let (target, here, there) = (words.take("TARGET")?, words.take("HOSTPATH")?, words.take("JAILPATH")?);
    words.end()?;
    let jails = front.several(&target, Reach::Any).await?;
    front
        .each(&jails, async |jail: &JailView| {
            let id = front.up(jail, args.auto).await?;
            above(front, &id, &there).await?;
            root(front, &id, &there).bring(Path::new(&here)).await?;
            tell(front, args.quiet_copy, &format!("{here} -> {}:{there}", jail.spec.name))
        })
        .await
}

/// Out of a jail.
pub async fn rcp(front: &Front, args: CopyArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail rcp [-a -q] TARGET JAILPATH HOSTPATH");
    let (target, there, here) = (words.take("TARGET")?, words.take("JAILPATH")?, words.take("HOSTPATH")?);
    words.end()?;
    let jail = front.one(&target).await?;
    let id = front.up(&jail, args.auto).await?;
    root(front, &id, &there).fetch(Path::new(&here)).await?;
    tell(front, args.quiet_copy, &format!("{}:{there} -> {here}", jail.spec.name))
}

/// From one jail into others, by way of this machine.
pub async fn jcp(front: &Front, args: CopyArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail jcp [-a -q] TARGET JAILPATH TARGET JAILPATH");
    let (from, source) = (words.take("TARGET")?, words.take("JAILPATH")?);
    let (to, there) = (words.take("TARGET")?, words.take("JAILPATH")?);
    words.end()?;
    let jail = front.one(&from).await?;
    let id = front.up(&jail, args.auto).await?;
    let name = Path::new(&source).file_name().ok_or_else(|| Failure::invalid(format!("{source}: it has no name")))?;
    let between = tempfile::tempdir().map_err(|e| Failure::internal("make a directory for the copy", e))?;
    root(front, &id, &source).fetch(between.path()).await?;
    let here = between.path().join(name);
    let jails = front.several(&to, Reach::Any).await?;
    front
        .each(&jails, async |other: &JailView| {
            let id = front.up(other, args.auto).await?;
            above(front, &id, &there).await?;
            root(front, &id, &there).bring(&here).await?;
            tell(front, args.quiet_copy, &format!("{}:{source} -> {}:{there}", jail.spec.name, other.spec.name))
        })
        .await
}

fn tell(front: &Front, quiet: bool, text: &str) -> Result<ExitCode, Failure> {
    if !quiet {
        front.say.info(text)?;
    }
    Ok(DONE)
}

/// A path inside, as the jail's root.
fn root<'a>(front: &'a Front, id: &str, path: &str) -> Inside<'a> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Inside { client: &front.client, id: id.to_owned(), user: Some("0".to_owned()), path }
}

/// Makes the directories above a path.
async fn above(front: &Front, id: &str, path: &str) -> Result<(), Failure> {
    let path = format!("/{}", path.trim_start_matches('/'));
    let dir = if path.ends_with('/') { Some(Path::new(&path)) } else { Path::new(&path).parent() };
    let Some(dir) = dir.filter(|dir| *dir != Path::new("/")) else { return Ok(()) };
    let query = FileQuery { path: dir.display().to_string(), user: Some("0".to_owned()), ..FileQuery::default() };
    match front.client.stat(id, &query).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let request = MakeDirectory { path: query.path, mode: None, user: query.user };
            Ok(front.client.make_directory(id, &request).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The console: its last lines, all of it, or what comes.
pub async fn logs(front: &Front, args: LogsArgs) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail logs [-f|-l] TARGET [console]");
    let jail = front.one(&words.take("TARGET")?).await?;
    if let Some(which) = words.maybe().filter(|which| which != "console" && which != "oci") {
        return Err(words.wrong(&format!("{which:?}: a jail has one log, console")));
    }
    words.end()?;
    let query = ReadConsole { tail: (!args.full).then_some(LAST_LINES), follow: args.live };
    let mut pieces = front.client.jail_console(jail.spec.name.as_str(), query).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| Failure::new(ErrorKind::Unavailable, format!("read the console: {e}")))?;
        front.say.output.bytes(&piece)?;
    }
    Ok(DONE)
}
