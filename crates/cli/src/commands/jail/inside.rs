//! Programs in a jail: through the sandbox it is while it is up.

use std::io::IsTerminal;
use std::process::ExitCode;

use futures::StreamExt;
use moat_api::rest::exec::{Exec, PtySize};
use moat_api::rest::file::FileQuery;
use moat_model::ErrorKind;
use moat_model::jail::JailView;
use moat_model::jail::target::Reach;

use super::args::{AutoWords, PkgArgs};
use super::front::Front;
use super::words::Words;
use crate::escape::Escape;
use crate::failure::Failure;
use crate::terminal::{self, RawMode};

/// Most of `/etc/passwd` and `/etc/shells` that is read.
const ACCOUNTS_MAX: usize = 1 << 20;

/// Runs a program as it was typed: no shell, no word changed.
pub async fn cmd(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail cmd [-a] TARGET COMMAND [ARGUMENT…]");
    let target = words.take("TARGET")?;
    let command = words.rest();
    if command.is_empty() {
        return Err(Failure::invalid("COMMAND is missing").with_hint("`moat jail console` opens a shell"));
    }
    in_each(front, &target, args.auto, &command).await
}

/// The package tool of the root.
pub async fn pkg(front: &Front, args: PkgArgs) -> Result<ExitCode, Failure> {
    if args.host {
        let why = "-H: the host has no tool for the packages of a jail; without it the jail's own is used";
        return Err(Failure::new(ErrorKind::Unsupported, why));
    }
    let mut words = Words::new(args.words, "moat jail pkg [-a -y] TARGET ARGUMENT…");
    let target = words.take("TARGET")?;
    let mut command = vec!["pkg".to_owned()];
    command.extend(args.yes.then(|| "-y".to_owned()));
    command.extend(words.rest());
    in_each(front, &target, args.auto, &command).await
}

/// Exactly a service and an action.
pub async fn service(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail service [-a] TARGET SERVICE ACTION");
    let (target, service, action) = (words.take("TARGET")?, words.take("SERVICE")?, words.take("ACTION")?);
    words.end()?;
    in_each(front, &target, args.auto, &["service".to_owned(), service, action]).await
}

/// The editor of rc's variables.
pub async fn sysrc(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail sysrc [-a] TARGET NAME[=VALUE]…");
    let target = words.take("TARGET")?;
    let mut command = vec!["sysrc".to_owned()];
    command.extend(words.rest());
    in_each(front, &target, args.auto, &command).await
}

/// `top` or `htop`.
pub async fn top(front: &Front, args: AutoWords, program: &str) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail top [-a] TARGET");
    let jail = front.one(&words.take("TARGET")?).await?;
    words.end()?;
    let id = front.up(&jail, args.auto).await?;
    run(front, &id, exec_of(&[program.to_owned()])?, true).await
}

/// A login shell; the jail stays up when it ends.
pub async fn console(front: &Front, args: AutoWords) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail console [-a] TARGET [USER]");
    let (target, user) = (words.take("TARGET")?, words.maybe().unwrap_or_else(|| "root".to_owned()));
    words.end()?;
    let jails = front.several(&target, Reach::Any).await?;
    front
        .each(&jails, async |jail: &JailView| {
            let id = front.up(jail, args.auto).await?;
            let account = account(front, &id, &user).await?;
            let mut exec = exec_of(&[account.shell.clone(), "-l".to_owned()])?;
            exec.cwd = Some(account.home.clone());
            exec.user = Some(user.clone());
            exec.env.insert("HOME".to_owned(), account.home);
            exec.env.insert("SHELL".to_owned(), account.shell);
            exec.env.insert("USER".to_owned(), user.clone());
            exec.env.insert("LOGNAME".to_owned(), user.clone());
            run(front, &id, exec, true).await
        })
        .await
}

/// Who somebody is inside.
struct Account {
    home: String,
    shell: String,
}

/// A user who may log in: one of `/etc/passwd`, with a shell of `/etc/shells`. Root may always.
async fn account(front: &Front, id: &str, user: &str) -> Result<Account, Failure> {
    let passwd = text(front, id, "/etc/passwd").await?.unwrap_or_default();
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&user));
    let field = |at: usize| fields.as_ref().and_then(|f| f.get(at)).filter(|text| !text.is_empty()).copied();
    if fields.is_none() && user != "root" {
        return Err(Failure::new(ErrorKind::NotFound, format!("user {user}: not in /etc/passwd of the jail")));
    }
    let shell = field(6).unwrap_or("/bin/sh");
    if user != "root" {
        let shells = text(front, id, "/etc/shells").await?.unwrap_or_else(|| "/bin/sh\n".to_owned());
        if !shells.lines().any(|line| line.trim() == shell) {
            return Err(Failure::new(ErrorKind::Denied, format!("user {user}: {shell} is not in /etc/shells")));
        }
    }
    Ok(Account { home: field(5).unwrap_or("/").to_owned(), shell: shell.to_owned() })
}

/// A file of the jail, if it is there.
pub async fn text(front: &Front, id: &str, path: &str) -> Result<Option<String>, Failure> {
    let query = FileQuery { path: path.to_owned(), user: Some("0".to_owned()), ..FileQuery::default() };
    let mut content = match front.client.read_file(id, &query).await {
        Ok(content) => content,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        let piece = piece.map_err(|e| Failure::new(ErrorKind::Unavailable, format!("read {path}: {e}")))?;
        bytes.extend_from_slice(&piece);
        if bytes.len() > ACCOUNTS_MAX {
            return Err(Failure::invalid(format!("{path}: larger than {ACCOUNTS_MAX} bytes")));
        }
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// One command in each jail of a target.
async fn in_each(front: &Front, target: &str, auto: bool, command: &[String]) -> Result<ExitCode, Failure> {
    let jails = front.several(target, Reach::Any).await?;
    // What is typed can go to one program only.
    let interactive = jails.len() == 1;
    let act = async |jail: &JailView| {
        let id = front.up(jail, auto).await?;
        run(front, &id, exec_of(command)?, interactive).await
    };
    front.each(&jails, act).await
}

fn exec_of(command: &[String]) -> Result<Exec, Failure> {
    let (program, args) = command.split_first().ok_or_else(|| Failure::invalid("no command"))?;
    Ok(Exec { command: program.clone(), args: args.to_vec(), ..Exec::default() })
}

/// Runs it, tied to this terminal if there is one.
async fn run(front: &Front, id: &str, mut exec: Exec, interactive: bool) -> Result<ExitCode, Failure> {
    let tty = interactive && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if tty {
        let size = terminal::size();
        exec.pty = Some(PtySize { rows: size.rows, cols: size.cols });
        exec.env.extend(std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)));
    }
    let session = front.client.session(id, exec).await?;
    let raw = if tty { Some(RawMode::enter()?) } else { None };
    let escape = raw.is_some().then(Escape::default);
    let code = crate::commands::exec::attend(&front.say.output, session, interactive, escape).await;
    drop(raw);
    code
}
