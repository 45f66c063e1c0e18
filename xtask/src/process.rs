//! Running other programs: shown before they run, and ended with us.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};

/// A command as a user would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@+%~".contains(&b));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Shows and runs a command with our own input and output.
pub fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    eprintln!("$ {}", shown(command));
    command.status().with_context(|| format!("start {}", command.get_program().to_string_lossy()))
}

/// [`status`] that must be zero.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command quietly and returns what it printed; an error holds what it said.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", shown(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Outlives us to end what we started, however we die: it waits for the end of a pipe that only we hold.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

/// First a list of pids, one a line, then `dismiss`, or the end of the pipe. A daemon gets the time it needs to end what it
/// started itself.
const GUARD: &str = r#"
trap '' INT TERM HUP
pids=
while read -r word; do
    [ "$word" = dismiss ] && exit 0
    pids="$pids $word"
done
for pid in $pids; do kill -TERM "$pid"; done
tries=0
for pid in $pids; do
    while kill -0 "$pid" && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -KILL "$pid"
done
rm -rf "$1"
"#;

impl Guard {
    /// Watches over a directory, to be removed.
    pub fn over(dir: &Path) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "guard"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { shell: shell.spawn().context("start the guard of the demonstration")? })
    }

    /// Watches over a process too.
    pub fn watch(&mut self, pid: u32) -> anyhow::Result<()> {
        self.say(&pid.to_string())
    }

    /// Everything was ended, or shall stay.
    pub fn dismiss(&mut self) -> anyhow::Result<()> {
        self.say("dismiss")?;
        self.shell.wait().context("wait for the guard")?;
        Ok(())
    }

    fn say(&mut self, word: &str) -> anyhow::Result<()> {
        let pipe = self.shell.stdin.as_mut().context("the guard has no pipe")?;
        writeln!(pipe, "{word}").context("tell the guard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_could_be_typed() {
        let mut command = Command::new("moat");
        command.args(["exec", "echo", "--", "sh", "-c", "echo it's"]);
        assert_eq!(shown(&command), r"moat exec echo -- sh -c 'echo it'\''s'");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo the reason >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with("the reason"), "{error:#}");
    }

    #[test]
    fn a_guard_ends_what_its_dead_owner_started() {
        let dir = std::env::temp_dir().join(format!("xtask-guard-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut guard = Guard::over(&dir).unwrap();
        guard.watch(child.id()).unwrap();
        // What the kernel does with our end of the pipe when we die.
        drop(guard.shell.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(guard.shell.wait().is_ok());
        assert!(!dir.exists());
    }
}
