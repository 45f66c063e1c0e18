//! Real containers and real processes of the host, without a broker: one node, many allocations.

use std::path::PathBuf;

use moat_model::job::artifact::{ChangeMode, TemplateSpec};
use moat_model::job::{Check, CheckKind, CheckRestart, ServiceSpec, TaskPhase};

use super::*;
use crate::config::NodeConfig;

/// A directory that others than root may enter, as the data directory of a node is.
fn bed_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("moat-allocs-").tempdir().unwrap()
}

fn registry(dir: &Path) -> Option<Registry> {
    let config = NodeConfig {
        run_dir: dir.join("run"),
        data_dir: dir.join("data"),
        drivers: ["container", "process"].map(str::to_owned).to_vec(),
        ..NodeConfig::default()
    };
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    crate::daemon::drivers(&config).ok().filter(|registry| registry.offer(moat_model::Isolation::Container).is_ok())
}

fn template(data: &str, destination: &str, env: bool) -> TemplateSpec {
    TemplateSpec {
        data: Some(data.to_owned()),
        source: None,
        destination: destination.to_owned(),
        change_mode: ChangeMode::Noop,
        splay: Duration::ZERO,
        perms: 0o644,
        uid: None,
        gid: None,
        left_delimiter: "{{".to_owned(),
        right_delimiter: "}}".to_owned(),
        env,
        error_on_missing_key: false,
        once: true,
    }
}

fn raw(task: Task) -> Task {
    Task { driver: TaskDriver::RawExec, ..task }
}

/// J03, A01, A04 and J10 with real containers: who ran in which order is written into the shared directory.
#[tokio::test(flavor = "multi_thread")]
async fn j03_hooks_templates_and_shared_directories_in_containers() {
    let dir = bed_dir();
    let Some(registry) = registry(dir.path()) else {
        moat_testkit::not_run("J03", "the container driver needs root and its kernel");
        return;
    };
    let bed = Bed::open(dir.path(), registry, crate::networks::tests::off(), false).await;
    let says = |name: &str, more: &str| sh(name, &format!("echo {name} >> /alloc/data/order; {more}"));
    let mut main = says(
        "main",
        "cat /local/greeting /secrets/key; echo $COLOUR $NOMAD_ALLOC_NAME; echo mine > /local/mine; (echo x > /alloc/logs/x) 2> /dev/null && echo bad; true",
    );
    main.templates = vec![
        template("Hello {{ env \"NOMAD_TASK_NAME\" }}\n", "local/greeting", false),
        template("secret\n", "secrets/key", false),
        template("COLOUR=blue\n", "secrets/file.env", true),
    ];
    let tasks = vec![
        hook(says("init", "true"), Hook::Prestart, false),
        hook(says("proxy", "exec sleep 1000"), Hook::Prestart, true),
        main,
        hook(says("clean", "true"), Hook::Poststop, false),
    ];
    let batch = job(JobType::Batch, group(tasks));
    bed.allocations.assign(assignment(1, &batch)).await.unwrap();
    let view = bed.when(1, "it is over", |view| view.status.client.is_terminal()).await;
    assert_eq!(view.status.client, ClientStatus::Complete, "{:#?}", view.status);
    let root = dir.path().join("alloc").join(alloc_id(1).as_str());
    let order = std::fs::read_to_string(root.join("alloc/data/order")).unwrap();
    let at = |word: &str| order.lines().position(|line| line == word).unwrap_or_else(|| panic!("{word}: {order}"));
    assert!(at("init") < at("main") && at("proxy") < at("main") && at("main") < at("clean"), "{order}");
    assert_eq!(order.lines().count(), 4, "each once: {order}");
    let said = async || (bed.log(1, "main").await == "Hello main\nsecret\nblue web.g[0]\n").then_some(());
    let said = wait_until(SOON, "what the main task said", said).await;
    assert!(said.is_ok(), "{:?} {:#?}", bed.log(1, "main").await, view.status.tasks["main"]);
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(root.join("main/local/mine")).unwrap().uid();
    assert!(owner > 65_535, "on disk it is nobody's of the host: {owner}");
    let hidden = bed.allocations.fs_stat(&alloc_id(1), "main/secrets/key").await.unwrap_err();
    assert_eq!(hidden.kind, ErrorKind::Denied);
    bed.allocations.forget(&alloc_id(1)).await.unwrap();
    assert!(!root.exists(), "its mounts and files are gone");

    // A service that is stopped: its sidecar after it, the poststop task last.
    let tasks = vec![
        hook(says("proxy", "exec sleep 1000"), Hook::Prestart, true),
        // It says that it is there once it listens.
        sh(
            "main",
            "trap 'echo asked >> /alloc/data/order; exit 0' TERM; echo main >> /alloc/data/order; \
             while :; do sleep 0.1; done",
        ),
        hook(says("clean", "true"), Hook::Poststop, false),
    ];
    let service = job(JobType::Service, group(tasks));
    let wanted = assignment(2, &service);
    bed.allocations.assign(wanted.clone()).await.unwrap();
    let order = dir.path().join("alloc").join(alloc_id(2).as_str()).join("alloc/data/order");
    let began = async || std::fs::read_to_string(&order).ok().filter(|text| text.contains("main"));
    wait_until(SOON, "the main task wrote its line", began).await.unwrap();
    // One that is stopped while it starts is killed.
    bed.when(2, "it is known to run", |view| view.status.tasks["main"].phase == TaskPhase::Running).await;
    bed.allocations.assign(stopped(&wanted, false)).await.unwrap();
    bed.until(2, ClientStatus::Complete).await;
    let order = std::fs::read_to_string(&order).unwrap();
    assert_eq!(order.lines().collect::<Vec<_>>(), ["proxy", "main", "asked", "clean"]);
    bed.allocations.forget(&alloc_id(2)).await.unwrap();
    bed.close().await;
}

/// J08: checks inside a container, by the agent; and a program that fails them is started again.
#[tokio::test(flavor = "multi_thread")]
async fn j08_checks_of_a_container_and_of_the_host() {
    let dir = bed_dir();
    let Some(registry) = registry(dir.path()) else {
        moat_testkit::not_run("J08", "the container driver needs root and its kernel");
        return;
    };
    let bed = Bed::open(dir.path(), registry, crate::networks::tests::off(), false).await;
    let check = |name: &str, kind: CheckKind| Check {
        name: name.to_owned(),
        kind,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        port: None,
        restart: None,
        ignored_on_update: false,
    };
    let script = |script: &str| CheckKind::Script {
        command: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
    };
    let mut main = sh("main", "exec sleep 1000");
    main.services = vec![ServiceSpec {
        name: "s".to_owned(),
        port: None,
        task: None,
        tags: Vec::new(),
        canary_tags: Vec::new(),
        meta: BTreeMap::new(),
        checks: vec![
            check("good", script("echo fine; test -d /alloc")),
            check("long", script("head -c 10000 /dev/zero | tr '\\0' x; exit 1")),
            Check { port: Some("1".to_owned()), ..check("refused", CheckKind::Tcp) },
        ],
    }];
    let service = job(JobType::Service, group(vec![main]));
    bed.allocations.assign(assignment(1, &service)).await.unwrap();
    let view = bed
        .when(1, "each check was tried", |view| {
            view.status.checks.len() == 3 && view.status.checks.values().all(|check| check.status != "pending")
        })
        .await;
    let status = |name: &str| view.status.checks[name].status.as_str();
    assert_eq!([status("s/good"), status("s/long"), status("s/refused")], ["success", "failure", "failure"]);
    assert_eq!(view.status.checks["s/good"].output, "fine\n");
    assert!(view.status.checks["s/long"].output.len() <= 3 << 10);
    bed.allocations.stop(&alloc_id(1), true).await.unwrap();
    bed.until(1, ClientStatus::Complete).await;

    // HTTP, to a program of the host: 200, 302 and 404 of this test's own server.
    let port = serve().await;
    let http = |path: &str| CheckKind::Http {
        tls: false,
        tls_skip_verify: false,
        path: path.to_owned(),
        method: "GET".to_owned(),
        headers: BTreeMap::new(),
        body: None,
    };
    let mut main = raw(sh("main", "exec sleep 1000"));
    let restart = Some(CheckRestart { limit: 2, grace: Duration::ZERO });
    main.services = vec![ServiceSpec {
        name: "s".to_owned(),
        port: Some(port.to_string()),
        task: None,
        tags: Vec::new(),
        canary_tags: Vec::new(),
        meta: BTreeMap::new(),
        checks: vec![
            check("200", http("/200")),
            check("302", http("/302")),
            check("404", http("/404")),
            check("tcp", CheckKind::Tcp),
            Check { timeout: Duration::from_secs(1), restart, ..check("hangs", http("/hangs")) },
        ],
    }];
    let service = job(JobType::Service, group(vec![main]));
    bed.allocations.assign(assignment(2, &service)).await.unwrap();
    let view = bed
        .when(2, "the one that hangs restarted its task", |view| {
            view.status.tasks.get("main").is_some_and(|task| task.restarts > 0)
        })
        .await;
    assert!(view.status.tasks["main"].events.iter().any(|event| event.kind == "Restart Signaled"));
    let tried = |view: &AllocView| {
        let is = |name: &str, status: &str| view.status.checks.get(name).is_some_and(|check| check.status == status);
        is("s/200", "success") && is("s/302", "success") && is("s/404", "failure") && is("s/tcp", "success")
    };
    bed.when(2, "the others went as they should", tried).await;
    bed.allocations.stop(&alloc_id(2), true).await.unwrap();
    bed.when(2, "it is over", |view| view.status.client.is_terminal()).await;
    bed.close().await;
}

/// Answers with the status its path names; `/hangs` with nothing.
async fn serve() -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut head = vec![0u8; 1024];
                let Ok(len) = stream.read(&mut head).await else { return };
                let head = String::from_utf8_lossy(&head[..len]).into_owned();
                let status =
                    head.split(['/', ' ']).find(|word| word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit()));
                match status {
                    Some(status) => {
                        let body = "y".repeat(10_000);
                        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    None => std::future::pending().await,
                }
            });
        }
    });
    port
}

/// The host's own processes: signals, restarts, a daemon that dies and one that finds them again.
#[tokio::test(flavor = "multi_thread")]
async fn raw_exec_runs_on_the_host_and_is_found_again() {
    let dir = bed_dir();
    let Some(drivers) = registry(dir.path()) else {
        moat_testkit::not_run("J03-raw", "the drivers need root");
        return;
    };
    let bed = Bed::open(dir.path(), drivers, crate::networks::tests::off(), false).await;
    let script = "echo $NOMAD_TASK_DIR; trap 'echo usr1; exit 3' USR1; echo ready > $NOMAD_ALLOC_DIR/data/ready; \
                  while :; do sleep 0.1; done";
    let service = job(JobType::Service, group(vec![raw(sh("main", script))]));
    bed.allocations.assign(assignment(1, &service)).await.unwrap();
    let root: PathBuf = dir.path().join("alloc").join(alloc_id(1).as_str());
    let ready = async || root.join("alloc/data/ready").exists().then_some(());
    wait_until(SOON, "its program is ready", ready).await.unwrap();
    let before = bed.until(1, ClientStatus::Running).await;
    assert!(bed.allocations.stats(&alloc_id(1)).await.unwrap().contains_key("main"));
    bed.close().await;

    let bed = Bed::open(dir.path(), registry(dir.path()).unwrap(), crate::networks::tests::off(), false).await;
    let after = bed.until(1, ClientStatus::Running).await;
    assert_eq!(after.status.tasks["main"].sandbox, before.status.tasks["main"].sandbox);
    bed.allocations.signal(&alloc_id(1), Some("main"), Signal::parse("USR1").unwrap()).await.unwrap();
    let again = bed.when(1, "it was started again", |view| view.status.tasks["main"].restarts == 1).await;
    assert_eq!(again.status.tasks["main"].exit.unwrap().code, 3);
    bed.allocations.stop(&alloc_id(1), true).await.unwrap();
    bed.when(1, "it is over", |view| view.status.client.is_terminal()).await;
    let log = bed.log(1, "main").await;
    assert!(log.contains(&format!("{}\nusr1\n", root.join("main/local").display())), "{log}");
    assert!(bed.allocations.get(&alloc_id(1)).unwrap().status.tasks.values().all(|task| task.phase == TaskPhase::Dead));
    bed.close().await;
}
