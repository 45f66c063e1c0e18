//! `moat up`, from its start to its end, with a job in between.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use moat_testkit::{busybox, is_root, not_run, shared, tool, tools_dir, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn moat(home: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("moat"));
    command.env_remove("XDG_CONFIG_HOME").env("HOME", home).env("XDG_RUNTIME_DIR", home).env("MOAT_TOOLS", tools_dir());
    for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "NATS_NKEY", "NEX_NAMESPACE"] {
        command.env_remove(name);
    }
    command
}

fn run(home: &Path, words: &[&str]) -> Output {
    moat(home).args(words).stdin(Stdio::null()).output().unwrap()
}

/// Killed with the test, if the test fails.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn servers_of(home: &Path) -> Vec<u32> {
    with_argument(home.join("up/nats/nats-server.conf").to_str().unwrap())
}

/// Processes of the host, those in sandboxes too.
fn with_argument(wanted: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|b| *b == 0).any(|argument| argument == wanted.as_bytes())
    };
    pids.filter(ours).collect()
}

/// One task, which sleeps for a number of seconds that nobody else has.
const SLEEPER: &str = r#"
job "sleeper" {
  group "g" {
    task "t" {
      driver = "exec"
      config {
        command = "/bin/sleep"
        args    = ["SECONDS"]
      }
      resources {
        memory = 32
      }
    }
  }
}
"#;

#[tokio::test]
async fn up_runs_a_job_and_leaves_nothing() {
    if !is_root() {
        return not_run("up_runs_a_job_and_leaves_nothing", "sandboxes need root");
    }
    let (Some(_), Some(busybox)) = (tool("nats-server"), busybox()) else {
        return not_run("up_runs_a_job_and_leaves_nothing", "nats-server or busybox is not installed");
    };
    let _host = shared().unwrap();
    let home = TempDir::new().unwrap();
    let dir = home.path().join("up");
    let log = std::fs::File::create(home.path().join("log")).unwrap();
    let mut up = moat(home.path());
    up.args(["up", "--nats-port", "0", "--dir"]).arg(&dir).stdin(Stdio::null());
    let mut up = Up(up.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    wait_until(Duration::from_secs(60), "the node is there", async || {
        String::from_utf8(run(home.path(), &["node", "ls", "--json"]).stdout).unwrap().contains("node_id").then_some(())
    })
    .await
    .unwrap_or_else(|e| panic_with_log(home.path(), &e.to_string()));

    let program = busybox.to_str().unwrap();
    let job = ["devrun", program, "--name", "busybox-job", "--kind", "job", "WORD=hello"];
    let script = ["--", "sh", "-c", "echo $WORD; echo no >&2; exit 7"];
    let output = run(home.path(), &[&job[..], &script[..]].concat());
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "no\n");

    let listed = run(home.path(), &["ps", "-a", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["view"]["exit"]["code"], 7, "{listed}");
    assert_eq!(listed[0]["view"]["isolation"], "container", "{listed}");

    let service = ["devrun", program, "--name", "busybox-svc", "--", "sh", "-c", "echo ready; sleep 1000"];
    let output = run(home.path(), &service);
    assert!(output.status.success(), "{output:?}");
    let output = run(home.path(), &["exec", "busybox-svc", "--", "/local/busybox-svc", "sh", "-c", "echo in; exit 5"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b"in\n"[..]), "{output:?}");
    let seconds = format!("1000.{}", std::process::id());
    let file = home.path().join("sleeper.hcl");
    std::fs::write(&file, SLEEPER.replace("SECONDS", &seconds)).unwrap();
    let output = run(home.path(), &["job", "run", "-detach", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let runs = wait_until(Duration::from_secs(60), "the task runs", async || with_argument(&seconds).first().copied());
    runs.await.unwrap_or_else(|e| panic_with_log(home.path(), &e.to_string()));
    assert_eq!(run(home.path(), &["up", "--nats-port", "0", "--dir", dir.to_str().unwrap()]).status.code(), Some(5));

    let pid = Pid::from_child(&up.0);
    kill_process(pid, Signal::INT).unwrap();
    let status = wait_until(Duration::from_secs(30), "moat up ends", async || up.0.try_wait().unwrap())
        .await
        .unwrap_or_else(|e| panic_with_log(home.path(), &e.to_string()));
    assert!(status.success(), "{status:?}");
    assert!(servers_of(home.path()).is_empty());
    assert_eq!(with_argument(&seconds), Vec::<u32>::new(), "a task of a job goes on");
    assert!(!home.path().join("moat/up.json").exists());
}

fn panic_with_log(home: &Path, why: &str) -> ! {
    let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
    panic!("{why}; moat up said: {log}")
}
