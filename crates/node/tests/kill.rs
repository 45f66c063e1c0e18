//! The real container driver and a daemon process: killed with SIGKILL under load, and cycled.
//!
//! `MOAT_KILL_ROUNDS` (3), `MOAT_KILL_WORKLOADS` (12) and `MOAT_CYCLES` (25) set how long it goes on.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/child.rs"]
mod child;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use moat_node::config::{NatsConfig, NodeConfig};
use moat_testkit::{LeakAudit, NatsServer, Release, exclusive, is_root, not_run, static_bin, wait_until};
use nkeys::{KeyPair, XKey};
use serde_json::{Value, json};
use support::{BUCKET, Deploy, now_secs, token};

/// A restarted daemon is to answer within this even on a loaded machine.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// The host is as before within this after the last workload was stopped.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A daemon process and everything around it.
struct Host {
    _nats: NatsServer,
    client: async_nats::Client,
    dir: tempfile::TempDir,
    cgroup: String,
    config: PathBuf,
    daemon: Option<Child>,
    issuer: KeyPair,
    sender: XKey,
    id: String,
    xkey: String,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        // The parent cgroup was made for this test alone.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(&self.cgroup));
            let _ = std::fs::remove_dir(hierarchy.path().join(format!("{}.slice", self.cgroup)));
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.cgroup));
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(format!("{}.slice", self.cgroup)));
    }
}

impl Host {
    async fn start(id: &str, cgroup: &str) -> Option<Self> {
        let probe_config = NodeConfig { nats: NatsConfig::default(), ..NodeConfig::default() };
        if !is_root() {
            not_run(id, "needs root");
            return None;
        }
        if let Err(error) = moat_node::daemon::drivers(&probe_config) {
            not_run(id, &error.chain());
            return None;
        }
        let nats = NatsServer::start(Release::Current).await.unwrap()?;
        let client = nats.client().await.unwrap();
        // A tmpfs, as /run is.
        let dir = tempfile::Builder::new().prefix("moat-kill-").tempdir_in("/dev/shm").unwrap();
        let config = dir.path().join("moat.toml");
        let text = format!(
            "run_dir = {:?}\ndata_dir = {:?}\n[nats]\nservers = [{:?}]\n[container]\ncgroup_parent = {cgroup:?}\n[network]\nenabled = false\n[restart]\ndelay_initial = '100ms'\n",
            dir.path().join("run"),
            dir.path().join("data"),
            nats.url(),
        );
        std::fs::write(&config, text).unwrap();
        let js = async_nats::jetstream::new(client.clone());
        let bucket = async_nats::jetstream::object_store::Config { bucket: BUCKET.to_owned(), ..Default::default() };
        let store = js.create_object_store(bucket).await.unwrap();
        let program = std::fs::read(static_bin("probe").unwrap()).unwrap();
        store.put("probe", &mut program.as_slice()).await.unwrap();
        let mut host = Self {
            _nats: nats,
            client,
            dir,
            cgroup: cgroup.to_owned(),
            config,
            daemon: None,
            issuer: KeyPair::new_account(),
            sender: XKey::new(),
            id: String::new(),
            xkey: String::new(),
        };
        host.up().await;
        Some(host)
    }

    /// The host with the daemon on it and nothing running; the parent cgroup of all sandboxes is there and stays.
    async fn audit(&self) -> LeakAudit {
        self.run("warm-up", &["hold"]).await.expect("an answer");
        self.stop_everything().await;
        LeakAudit::of_cgroup(&self.cgroup)
    }

    async fn up(&mut self) -> Duration {
        let began = Instant::now();
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        let child = Command::new(child::example())
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        let ping =
            wait_until(BACK_WITHIN, "the daemon answers", async || self.ask("$NEX.PING", &json!({})).await).await;
        let ping = ping.unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        self.id = ping["data"]["node_id"].as_str().unwrap().to_owned();
        self.xkey = ping["data"]["target_xkey"].as_str().unwrap().to_owned();
        began.elapsed()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    async fn ask(&self, subject: &str, body: &Value) -> Option<Value> {
        let request = self.client.request(subject.to_owned(), serde_json::to_vec(body).unwrap().into());
        let reply = tokio::time::timeout(Duration::from_secs(20), request).await.ok()?.ok()?;
        serde_json::from_slice(&reply.payload).ok()
    }

    fn deploy(&self, name: &str, argv: &[&str], members: Value) -> Value {
        let mut deploy = Deploy {
            name: name.to_owned(),
            key: "probe".to_owned(),
            issuer: self.issuer.seed().unwrap(),
            issued_at: now_secs() - 60,
            expires: None,
            hash: None,
            environment: BTreeMap::new(),
            node_xkey: self.xkey.clone(),
            sender: self.sender.seed().unwrap(),
            members,
        };
        deploy.members["argv"] = json!(argv);
        deploy.body(&self.id)
    }

    async fn run(&self, name: &str, argv: &[&str]) -> Option<String> {
        let members =
            json!({"moat": {"template": "scratch", "resources": {"memory_bytes": 16 << 20, "disk_bytes": 1 << 20}}});
        let reply = self.ask(&format!("$NEX.DEPLOY.default.{}", self.id), &self.deploy(name, argv, members)).await?;
        if let Some(error) = reply["error"].as_str() {
            panic!("{name}: {error}\n{}", self.log());
        }
        Some(reply["data"]["id"].as_str()?.to_owned())
    }

    async fn stop(&self, id: &str, name: &str) -> Option<Value> {
        let token = token(&self.issuer, name, now_secs());
        let body = json!({"workload_id": id, "workload_jwt": token, "target_node": self.id});
        self.ask(&format!("$NEX.STOP.default.{}", self.id), &body).await
    }

    /// Every workload the node knows, ended ones too, by id.
    async fn inspect(&self) -> BTreeMap<String, Value> {
        let subject = format!("$NEX.SANDBOX.default.{}", self.id);
        let reply = wait_until(BACK_WITHIN, "inspect", async || {
            let reply = self.ask(&subject, &json!({"op": "inspect", "ended": true})).await?;
            reply["data"]["workloads"].as_array().cloned()
        });
        let list = reply.await.unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        list.into_iter().map(|w| (w["id"].as_str().unwrap().to_owned(), w)).collect()
    }

    async fn stop_everything(&self) {
        for (id, view) in self.inspect().await {
            if is_live(&view) {
                self.stop(&id, view["name"].as_str().unwrap()).await;
            }
        }
        wait_until(CLEAN_WITHIN, "everything has ended", async || {
            (!self.inspect().await.values().any(is_live)).then_some(())
        })
        .await
        .unwrap_or_else(|e| panic!("{e}: {}", self.log()));
    }

    /// The numbers on the lines the history holds of a workload, in their order.
    async fn history(&self, name: &str, id: &str) -> Vec<u64> {
        let js = async_nats::jetstream::new(self.client.clone());
        let stream = js.get_stream("MOAT_LOGS").await.unwrap();
        let filter_subject = format!("$NEX.logs.default.{}.{name}.{id}", self.id);
        let config = async_nats::jetstream::consumer::pull::OrderedConfig { filter_subject, ..Default::default() };
        let mut consumer = stream.create_consumer(config).await.unwrap();
        let pending = consumer.info().await.unwrap().num_pending;
        let mut messages = consumer.messages().await.unwrap().take(usize::try_from(pending).unwrap());
        let mut numbers = Vec::new();
        while let Some(message) = messages.next().await {
            let line: Value = serde_json::from_slice(&message.unwrap().payload).unwrap();
            let text = line["text"].as_str().unwrap();
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            numbers.push(digits.parse().unwrap_or_else(|_| panic!("{text}")));
        }
        numbers
    }
}

fn is_live(view: &Value) -> bool {
    !matches!(view["phase"].as_str(), Some("stopped" | "failed")) || view.get("restart_at").is_some()
}

/// What a workload was asked to do, and whether its deploy was answered.
struct Started {
    id: String,
    name: String,
    /// It ends by itself with this.
    code: Option<i64>,
    stopped: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_nothing_is_lost_and_nothing_is_left() {
    let _alone = exclusive().unwrap();
    let cgroup = format!("moat-kill-{}", std::process::id());
    let Some(mut host) = Host::start("must-hold-5", &cgroup).await else { return };
    let audit = host.audit().await;
    let (rounds, load) = (number("MOAT_KILL_ROUNDS", 3), number("MOAT_KILL_WORKLOADS", 12));
    let mut started: Vec<Started> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        // The load goes on while the daemon dies: what is not answered is not expected of it.
        let moment = Duration::from_millis(100 + (round * 7919 + u64::from(std::process::id())) % 1500);
        let live = started.iter().filter(|s| !s.stopped && s.code.is_none()).count();
        let work = async {
            let mut fresh = Vec::new();
            for n in 0..load.saturating_sub(u64::try_from(live).unwrap()) {
                let name = format!("w{round}-{n}");
                let (argv, code): (&[&str], _) =
                    if n % 3 == 2 { (&["exit", "7", "1500"], Some(7)) } else { (&["lines", "0", "20"], None) };
                if let Some(id) = host.run(&name, argv).await {
                    fresh.push(Started { id, name, code, stopped: false });
                }
            }
            fresh
        };
        // Stops of some of the older ones, beside the deploys.
        let doomed: Vec<usize> = (0..started.len()).filter(|i| i % 4 == 0 && !started[*i].stopped).collect();
        let stops = async {
            let mut done = Vec::new();
            for i in doomed {
                let reply = host.stop(&started[i].id, &started[i].name).await;
                done.push((i, reply.is_some_and(|r| r["data"]["stopped"] == true)));
            }
            done
        };
        let pid = host.daemon.as_ref().unwrap().id();
        let killer = async {
            tokio::time::sleep(moment).await;
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        // A request to a dead daemon is answered by the server at once: nobody listens.
        let (fresh, stopped, ()) = tokio::join!(work, stops, killer);
        started.extend(fresh);
        for (i, answered) in stopped {
            // One that was not answered may have been taken all the same.
            started[i].stopped = true;
            let _ = answered;
        }
        host.kill();
        slowest = slowest.max(host.up().await);
        let views = host.inspect().await;
        for workload in &started {
            let Some(view) = views.get(&workload.id) else {
                panic!("round {round}: {} is forgotten\n{}", workload.name, host.log())
            };
            if !is_live(view) {
                let code = view["exit"]["code"].as_i64();
                assert!(
                    workload.stopped || (workload.code.is_some() && workload.code == code),
                    "round {round}: {} ended with {view}\n{}",
                    workload.name,
                    host.log()
                );
            }
        }
    }
    host.stop_everything().await;
    // An orderly end tells what is still to be told.
    let pid = rustix::process::Pid::from_child(host.daemon.as_ref().unwrap());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    host.daemon.take().unwrap().wait().unwrap();
    let mut lines = 0;
    for workload in started.iter().filter(|s| s.code.is_none()) {
        let numbers = host.history(&workload.name, &workload.id).await;
        let gap = numbers.windows(2).find(|w| w[1] != w[0] + 1);
        assert!(gap.is_none(), "{}: {gap:?} of {} lines", workload.name, numbers.len());
        assert!(numbers.first().is_none_or(|n| *n <= 1), "{}: begins with {:?}", workload.name, numbers.first());
        lines += numbers.len();
    }
    audit.assert_same(CLEAN_WITHIN).await.unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    println!("{rounds} kills, {} workloads, {lines} lines without a gap, slowest restart {slowest:?}", started.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cycles_leave_the_host_as_it_was() {
    let _alone = exclusive().unwrap();
    let cgroup = format!("moat-cycle-{}", std::process::id());
    let Some(host) = Host::start("must-hold-8", &cgroup).await else { return };
    let audit = host.audit().await;
    let cycles = number("MOAT_CYCLES", 25);
    let began = Instant::now();
    for n in 0..cycles {
        let name = format!("c{n}");
        let id = host.run(&name, &["hold"]).await.expect("an answer");
        let reply = host.stop(&id, &name).await.expect("an answer");
        assert_eq!(reply["data"]["stopped"], true, "{reply}\n{}", host.log());
    }
    let took = began.elapsed();
    host.stop_everything().await;
    audit.assert_same(CLEAN_WITHIN).await.unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    let sandboxes = std::fs::read_dir(host.dir.path().join("run/sandboxes")).map(Iterator::count).unwrap_or(0);
    assert_eq!(sandboxes, 0, "sandbox records are left");
    println!("{cycles} cycles in {took:?}");
}
