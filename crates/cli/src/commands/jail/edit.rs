//! `moat jail edit`: the one command that starts a program of this machine, the user's own editor.

use std::process::{Command, ExitCode};

use futures::StreamExt;
use moat_api::rest::file::FileQuery;
use moat_model::ErrorKind;
use moat_model::jail::{ChangeJail, JailView};

use super::args::Words1;
use super::front::Front;
use super::inside::text;
use super::settings::set;
use super::words::Words;
use crate::failure::Failure;

const DONE: ExitCode = ExitCode::SUCCESS;

/// A file of a jail, or its properties, in `$EDITOR`.
pub async fn edit(front: &Front, args: Words1) -> Result<ExitCode, Failure> {
    let mut words = Words::new(args.words, "moat jail edit TARGET [FILE]");
    let jail = front.one(&words.take("TARGET")?).await?;
    let file = words.maybe();
    words.end()?;
    match file {
        Some(file) => {
            let path = match file.as_str() {
                "rc.conf" | "resolv.conf" => format!("/etc/{file}"),
                path if path.starts_with('/') => path.to_owned(),
                other => {
                    let why = format!("edit {other}: rc.conf, resolv.conf, or a path inside that begins with /");
                    return Err(Failure::invalid(why));
                }
            };
            let id = front.up(&jail, false).await?;
            let before = text(front, &id, &path).await?.unwrap_or_default();
            let Some(after) = edited(&before)? else { return Ok(DONE) };
            let content = futures::stream::once(async move { Ok(bytes::Bytes::from(after)) }).boxed();
            let query = FileQuery { path, user: Some("0".to_owned()), ..FileQuery::default() };
            front.client.write_file(&id, &query, content).await?;
        }
        None => {
            let Some(after) = edited(&properties(&jail))? else { return Ok(DONE) };
            front.client.change_jail(jail.spec.name.as_str(), &read(&after)?).await?;
        }
    }
    Ok(DONE)
}

/// Properties as lines, those that can be changed.
fn properties(jail: &JailView) -> String {
    let spec = &jail.spec;
    let depend: Vec<_> = spec.depend.iter().map(|name| name.as_str()).collect();
    let mut text = format!(
        "boot={}\ndepend={}\npriority={}\n",
        if spec.boot { "on" } else { "off" },
        depend.join(" "),
        spec.priority
    );
    if let Some(address) = spec.network.address {
        text.push_str(&format!("ip4.addr={address}\n"));
    }
    let hostname = spec.properties.get("host.hostname").cloned().unwrap_or_else(|| spec.name.to_string());
    text.push_str(&format!("host.hostname={hostname}\n"));
    text
}

fn read(text: &str) -> Result<ChangeJail, Failure> {
    let mut all = ChangeJail::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) =
            line.split_once('=').ok_or_else(|| Failure::invalid(format!("{line:?}: PROPERTY=VALUE is needed")))?;
        let one = set(name.trim(), value.trim())?;
        all.boot = one.boot.or(all.boot);
        all.depend = one.depend.or(all.depend);
        all.priority = one.priority.or(all.priority);
        all.address = one.address.or(all.address);
        all.properties.extend(one.properties);
    }
    Ok(all)
}

/// What an editor made of a text; none if it is as it was.
fn edited(before: &str) -> Result<Option<String>, Failure> {
    let failed = |e: std::io::Error| Failure::internal("edit", e);
    let dir = tempfile::tempdir().map_err(failed)?;
    let path = dir.path().join("edit");
    std::fs::write(&path, before).map_err(failed)?;
    let editor = std::env::var("EDITOR").unwrap_or_else(|_| "vi".to_owned());
    // As everywhere: the variable may hold options.
    let words = crate::parse::words(&editor)?;
    let (program, options) = words.split_first().ok_or_else(|| Failure::invalid("EDITOR is empty"))?;
    let status = Command::new(program).args(options).arg(&path).status().map_err(failed)?;
    if !status.success() {
        return Err(Failure::new(ErrorKind::Conflict, format!("{editor} ended with {status}: nothing was changed")));
    }
    let after = std::fs::read_to_string(&path).map_err(failed)?;
    Ok((after != before).then_some(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_as_lines() {
        let change = read("boot=off\n# nothing\npriority = 5\ndepend=a b\nhost.hostname=x\n").unwrap();
        assert_eq!((change.boot, change.priority, change.depend.unwrap().len()), (Some(false), Some(5), 2));
        assert_eq!(change.properties["host.hostname"].as_deref(), Some("x"));
        assert!(read("boot").is_err());
        assert!(read("allow.raw_sockets=1").is_err());
    }
}
