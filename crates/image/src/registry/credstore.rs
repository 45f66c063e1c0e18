//! Credential programs (`docker-credential-…`): one question on standard input, one answer on standard output.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use moat_model::ErrorKind;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credentials::{Credentials, Secret};
use crate::error::{Error, Result};

/// Longest answer; real ones are a few kilobytes.
const ANSWER_MAX: u64 = 64 << 10;

/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name>` for a server. `None`: it knows nothing of it.
pub(crate) async fn get(name: &str, server: &str, within: Duration) -> Result<Option<Credentials>> {
    let sound = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !sound {
        let why = format!("{name:?} must be the letters, digits and . _ - after docker-credential-");
        return Err(Error::invalid("credential program", why));
    }
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(within, ask(&program, server)).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(ErrorKind::Deadline, format!("{program} did not answer within {within:?}"))),
    }
}

async fn ask(program: &str, server: &str) -> Result<Option<Credentials>> {
    let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Unavailable, format!("ask {program} for {server}"), e);
    let found = find(program).ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            format!("{program} is not on the PATH; install it, or take it out of config.json"),
        )
    })?;
    let mut child = Command::new(found)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that answers without reading closes the pipe: that is its business.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer).trim().chars().take(200).collect::<String>();
        // The words of the reference implementation for "I know nothing of it"; there is no code for it.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(Error::new(ErrorKind::Unavailable, format!("{program} for {server} ended with {status}: {said}")));
    }
    // The cause may quote the answer, which is a secret: leave it out.
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| {
        Error::new(ErrorKind::Unavailable, format!("{program} did not answer with Username and Secret"))
    })?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credentials::Identity(Secret(answer.secret)),
        _ => Credentials::Basic { user: answer.username, password: Secret(answer.secret) },
    }))
}

/// Absolute directories of `PATH` only: a relative one would mean whatever directory the daemon was started in.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_are_paths_or_shell_are_refused_and_missing_ones_named() {
        for name in ["../x", "a b", "x;id", "", "$(id)"] {
            let error = get(name, "r", Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidSpec, "{name}");
        }
        let error = get("moat-none-such", "r", Duration::from_secs(1)).await.unwrap_err();
        assert!(error.chain().contains("docker-credential-moat-none-such is not on the PATH"));
    }
}
