//! README's sixty seconds, line by line as they stand there; only the port is another.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use moat_testkit::{is_root, not_run, shared, static_bin, tool, tools_dir, workspace_root};

/// Lines that prepare what the test kit has prepared already.
const PREPARED: [&str; 2] = ["cargo build --package moat-cli --package echo-service", "export PATH=$PWD/target/"];

#[test]
fn the_tour_runs_as_written() {
    if !is_root() {
        return not_run("tour", "sandboxes are made as root");
    }
    if tool("nats-server").is_none() {
        return not_run("tour", "nats-server is not installed; `cargo xtask test` installs it");
    }
    let _host = shared().unwrap();
    let readme = fs::read_to_string(workspace_root().join("README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut lines = block.lines();
    for prefix in PREPARED {
        assert!(lines.next().unwrap().starts_with(prefix), "{prefix}");
    }

    let dir = tempfile::tempdir().unwrap();
    let script = script(lines, TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let programs = static_bin("moat").unwrap();
    static_bin("echo-service").unwrap();
    let path = format!(
        "{}:{}:{}",
        programs.parent().unwrap().display(),
        tools_dir().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new("timeout")
        .args(["--kill-after=30", "180", "bash", "-c", &script])
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir.path())
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    end_leftover(dir.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = format!("{script}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{all}\n{}", output.status, log(dir.path()));
    for wanted in ["hello from outside", "ready on echo.service", "uid=65534", "Linux"] {
        assert!(said.contains(wanted), "no {wanted:?}\n{all}\n{}", log(dir.path()));
    }
}

/// The same lines, with what a reader does between them: look at the first one's output, and wait for the last.
fn script<'a>(lines: impl Iterator<Item = &'a str>, port: u16) -> String {
    let mut script = "set -eum\n".to_owned();
    for line in lines {
        let line = line.replace("call nats://127.0.0.1:4222", &format!("call nats://127.0.0.1:{port}"));
        script.push_str(&match line.as_str() {
            "moat up &" => format!(
                "moat up --nats-port {port} >up.log 2>&1 &\necho $! >up.pid\nfor try in $(seq 300); do\n  \
                 moat node ls 2>/dev/null | grep -q ^N && break\n  kill -0 %1\n  sleep 0.2\ndone"
            ),
            "kill %1" => "kill %1\nwait %1".to_owned(),
            other => other.to_owned(),
        });
        script.push('\n');
    }
    script
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("up.log")).unwrap_or_default()
}

/// Ends a `moat up` that a failed script left, by its pid, if that is still it.
fn end_leftover(dir: &Path) {
    let Ok(pid) = fs::read_to_string(dir.join("up.pid")) else { return };
    let pid = pid.trim();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.contains("moat\0up\0") {
        let _ = Command::new("kill").args(["-TERM", pid]).status();
    }
}
