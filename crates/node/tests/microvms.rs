//! Virtual machines through a whole daemon: from the image that containers are made from too, while daemons and machines die.
//!
//! `MOAT_TEST_MACHINES` (10) is how many live at once.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/child.rs"]
mod child;
#[path = "support/image_host.rs"]
mod image_host;
#[path = "support/rest.rs"]
mod rest;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use image_host::Host;
use moat_testkit::{LeakAudit, Machines, machines, small_bin, wait_until};
use nkeys::{KeyPair, XKey};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{BUCKET, Deploy, now_secs};

/// Bound of every wait. An emulated machine starts in seconds alone, and in minutes among others on few processors.
const SOON: Duration = Duration::from_secs(300);
/// Memory of a machine: what a kernel, the agent and a shell need, with room.
const MEMORY_MB: u64 = 128;
/// Machines made at the same time. More would not be faster where each takes a processor to itself.
const AT_ONCE: usize = 2;

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A daemon that makes machines beside containers.
async fn start(id: &str, stands_on: &Machines, more: &str) -> Option<Host> {
    let top = "drivers = [\"container\", \"qemu\"]\nagent_start_timeout = '240s'\n";
    let (qemu, guest) = (&stands_on.qemu, &stands_on.guest);
    // Translated everywhere: what is proven does not depend on whether this host's KVM is a real one.
    let machines = format!("[qemu]\nprogram = {qemu:?}\naccelerator = 'tcg'\n[guest]\ndir = {guest:?}\n{more}");
    Host::start_with(id, top, &machines).await
}

async fn machine(host: &Host) -> Value {
    let asked = json!({
        "template": "tools", "isolation": "microvm", "resources": {"memory_mb": MEMORY_MB, "vcpu": 1.0, "disk_mb": 64},
    });
    let reply = host.client().post("sandboxes", &asked).await;
    assert_eq!(reply.status, 201, "{}\n{}", String::from_utf8_lossy(&reply.bytes), host.log());
    reply.json()
}

fn id_of(sandbox: &Value) -> String {
    sandbox["id"].as_str().unwrap().to_owned()
}

/// Which boot of a kernel it is: another kernel, or the same started again, has another.
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

/// The process that is the machine: what the driver wrote down of it.
fn vmm_of(host: &Host, id: &str) -> Option<i32> {
    fn find(dir: &Path, id: &str) -> Option<std::path::PathBuf> {
        std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
            let path = entry.path();
            let ours = path.ends_with("vmm.json") && path.to_string_lossy().contains(id);
            if ours { Some(path) } else { entry.file_type().ok()?.is_dir().then(|| find(&path, id))? }
        })
    }
    let text = std::fs::read(find(host.run_dir.path(), id)?).ok()?;
    i32::try_from(serde_json::from_slice::<Value>(&text).ok()?["process"]["pid"].as_i64()?).ok()
}

/// Waits until each of them answers as before; the daemon may just have come back.
async fn answers(host: &Host, known: &BTreeMap<String, String>) {
    for (id, boot) in known {
        let same = wait_until(SOON, "the machine answers", async || {
            let view = host.client().get(&format!("sandboxes/{id}")).await.expect(200);
            assert!(view["ended_at"].is_null(), "{view}\n{}", host.log());
            (view["state"] == "running").then_some(())
        });
        same.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
        assert_eq!(host.sh(id, BOOT).await.trim(), boot, "{id} is another machine now");
        assert_eq!(host.sh(id, "cat /data/name").await.trim(), id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_outlive_the_daemon_and_their_own_death_is_told() {
    let Some(stands_on) = machines("microvms-kill").unwrap() else { return };
    let Some(mut host) = start("microvms-kill", &stands_on, "").await else { return };
    host.warm_up("tools").await;
    // The same template, as it is, in a container: and what is made once for all is there when the audit begins.
    let container = host.create(json!({"template": "tools"})).await;
    let kernel = host.sh(&container, BOOT).await;
    let motd = host.sh(&container, "echo $GREETING; id -u; pwd").await;
    let first = id_of(&machine(&host).await);
    assert_eq!(host.sh(&first, "echo $GREETING; id -u; pwd").await, motd, "the template is the same");
    for id in [&container, &first] {
        host.client().delete(&format!("sandboxes/{id}")).await.expect(204);
    }
    let audit = LeakAudit::of_cgroup(&host.cgroup).and_dir(host.run_dir.path());
    let audit = audit.while_running_in(host.run_dir.path());

    let made: Vec<Value> = stream::iter(0..number("MOAT_TEST_MACHINES", 10))
        .map(|_| machine(&host))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut known = BTreeMap::new();
    for one in &made {
        let isolation = one["isolation"].as_str().unwrap();
        assert_eq!(isolation, "microvm/tcg", "{one}");
        assert_eq!((&one["isolation_asked"], &one["driver"]), (&json!("microvm"), &json!("qemu")));
        let id = id_of(one);
        host.sh(&id, &format!("echo {id} > /data/name")).await;
        known.insert(id.clone(), host.sh(&id, BOOT).await.trim().to_owned());
    }
    let boots: BTreeSet<&String> = known.values().collect();
    assert_eq!(boots.len(), made.len(), "each has a kernel of its own");
    assert!(!boots.contains(&kernel.trim().to_owned()));

    host.kill();
    host.up().await;
    answers(&host, &known).await;

    let (dead, _) = known.pop_first().unwrap();
    let vmm = vmm_of(&host, &dead).expect("the driver wrote down which process it is");
    kill_process(Pid::from_raw(vmm).unwrap(), Signal::KILL).unwrap();
    let ended = wait_until(SOON, "the end of the machine that was killed", async || {
        let view = host.client().get(&format!("sandboxes/{dead}")).await.expect(200);
        (!view["ended_at"].is_null()).then_some(view)
    });
    let ended = ended.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
    assert_eq!((&ended["state"], &ended["cause"]), (&json!("failed"), &json!("agent_lost")), "{ended}");
    let message = ended["message"].as_str().unwrap_or_default();
    assert!(message.contains(&format!("monitor, process {vmm},")), "the cause is told: {ended}");
    answers(&host, &known).await;

    for id in known.keys() {
        host.client().delete(&format!("sandboxes/{id}")).await.expect(204);
    }
    audit.assert_same(SOON).await.unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
}

/// Somebody who deploys over NATS as a Nex user does.
struct User {
    client: async_nats::Client,
    issuer: KeyPair,
    sender: XKey,
    node: String,
    xkey: String,
}

impl User {
    async fn of(host: &Host) -> Self {
        let client = host.nats().await;
        let js = async_nats::jetstream::new(client.clone());
        let bucket = async_nats::jetstream::object_store::Config { bucket: BUCKET.to_owned(), ..Default::default() };
        let store = js.create_object_store(bucket).await.unwrap();
        let program = std::fs::read(small_bin("probe").unwrap()).unwrap();
        store.put("probe", &mut program.as_slice()).await.unwrap();
        let mut user = Self {
            client,
            issuer: KeyPair::new_account(),
            sender: XKey::new(),
            node: String::new(),
            xkey: String::new(),
        };
        let ping = wait_until(SOON, "the node answers", async || user.ask("$NEX.PING", &json!({})).await.ok()).await;
        let ping = ping.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
        user.node = ping["data"]["node_id"].as_str().unwrap().to_owned();
        user.xkey = ping["data"]["target_xkey"].as_str().unwrap().to_owned();
        user
    }

    async fn ask(&self, subject: &str, body: &Value) -> Result<Value, String> {
        // The client's own limit is ten seconds, in which a machine under emulation does not boot on a loaded host.
        let request = async_nats::Request::new().payload(serde_json::to_vec(body).unwrap().into()).timeout(Some(SOON));
        let reply = self.client.send_request(subject.to_owned(), request).await.map_err(|e| e.to_string())?;
        serde_json::from_slice(&reply.payload).map_err(|e| e.to_string())
    }

    /// Deploys the program with these arguments; its workload's id.
    async fn deploy(&self, name: &str, kind: &str, argv: &[&str]) -> Result<String, String> {
        let deploy = Deploy {
            name: name.to_owned(),
            key: "probe".to_owned(),
            issuer: self.issuer.seed().unwrap(),
            issued_at: now_secs() - 60,
            expires: None,
            hash: None,
            environment: BTreeMap::from([("WHO".to_owned(), name.to_owned())]),
            node_xkey: self.xkey.clone(),
            sender: self.sender.seed().unwrap(),
            members: json!({
                "argv": argv,
                "moat": {"kind": kind, "isolation": "microvm", "template": "scratch"},
            }),
        };
        let reply = self.ask(&format!("$NEX.DEPLOY.default.{}", self.node), &deploy.body(&self.node)).await?;
        let id = reply["data"]["id"].as_str().ok_or_else(|| format!("{name}: {reply}"))?;
        Ok(id.to_owned())
    }

    async fn stop(&self, name: &str, id: &str) -> Value {
        let token = support::token(&self.issuer, name, now_secs());
        let body = json!({"workload_id": id, "workload_jwt": token, "target_node": self.node});
        self.ask(&format!("$NEX.STOP.default.{}", self.node), &body).await.unwrap()
    }

    /// Every workload the node knows, ended ones too, by id.
    async fn workloads(&self) -> BTreeMap<String, Value> {
        let subject = format!("$NEX.SANDBOX.default.{}", self.node);
        let reply = self.ask(&subject, &json!({"op": "inspect", "ended": true})).await.unwrap();
        let list = reply["data"]["workloads"].as_array().unwrap().clone();
        list.into_iter().map(|w| (w["id"].as_str().unwrap().to_owned(), w)).collect()
    }

    /// What the history has of a workload's output.
    async fn logs(&self, name: &str, id: &str) -> Vec<String> {
        let js = async_nats::jetstream::new(self.client.clone());
        let stream = js.get_stream("MOAT_LOGS").await.unwrap();
        let filter_subject = format!("$NEX.logs.default.{}.{name}.{id}", self.node);
        let config = async_nats::jetstream::consumer::pull::OrderedConfig { filter_subject, ..Default::default() };
        let mut consumer = stream.create_consumer(config).await.unwrap();
        let pending = usize::try_from(consumer.info().await.unwrap().num_pending).unwrap();
        let messages: Vec<_> = consumer.messages().await.unwrap().take(pending).try_collect().await.unwrap();
        let lines = messages.iter().map(|m| serde_json::from_slice::<Value>(&m.payload).unwrap());
        lines.map(|line| line["text"].as_str().unwrap().trim_end().to_owned()).collect()
    }
}

/// Waits until this many machines stand ready.
async fn ready(host: &Host, wanted: u64) {
    let stand = wait_until(SOON, "machines stand ready", async || {
        let stats = host.client().get("stats").await.expect(200);
        (stats["pool_ready"].as_u64()? == wanted).then_some(())
    });
    stand.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_from_nats_run_in_machines_and_are_not_mixed_up() {
    let Some(stands_on) = machines("microvms-deploy").unwrap() else { return };
    // Two stand ready: one that booted, and one made from it.
    let more = format!("memory = '{MEMORY_MB}MiB'\ndisk = '64MiB'\n[pool]\nworkloads = 2\n");
    let Some(host) = start("microvms-deploy", &stands_on, &more).await else { return };
    let user = User::of(&host).await;
    ready(&host, 2).await;

    // Jobs that each end with a code of their own after a word of their own, beside a service that goes on.
    let wanted: Vec<(String, i64)> = (0..4).map(|n| (format!("job-{n}"), 20 + n)).collect();
    let service = user.deploy("service", "service", &["lines", "0", "5"]).await;
    let service = service.unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    let jobs: BTreeMap<String, (String, i64)> = stream::iter(wanted)
        .map(async |(name, code)| {
            let said = user.deploy(&name, "job", &["say", &code.to_string(), "it is", &name]).await;
            (said.unwrap_or_else(|e| panic!("{e}\n{}", host.log())), (name, code))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert_eq!(jobs.len(), 4, "each has an id of its own");

    let ended = wait_until(SOON, "all jobs have ended", async || {
        let now = user.workloads().await;
        let all = jobs.keys().all(|id| now.get(id).is_some_and(|w| !w["exit"].is_null()));
        all.then_some(now)
    });
    let now = ended.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
    for (id, (name, code)) in &jobs {
        let one = &now[id];
        assert_eq!((&one["name"], &one["exit"]["code"]), (&json!(name), &json!(code)), "{one}");
        assert!(one["isolation"].as_str().is_some_and(|i| i.starts_with("microvm")), "{one}");
    }
    for (id, (name, _)) in &jobs {
        let told = wait_until(SOON, "the job's line", async || {
            let lines = user.logs(name, id).await;
            (!lines.is_empty()).then_some(lines)
        });
        assert_eq!(told.await.unwrap(), [format!("it is {name}")]);
    }
    let going_on = wait_until(SOON, "the service's lines", async || {
        let lines = user.logs("service", &service).await;
        (lines.len() >= 3).then_some(lines)
    });
    assert!(going_on.await.unwrap().iter().all(|line| !line.contains("it is")));
    assert_eq!(now[&service]["phase"], "running", "{}", now[&service]);
    // Those that were there first went to the first two, each to one; the others were booted or came from the refilled pool.
    let sandboxes: BTreeSet<&str> = now.values().filter_map(|one| one["sandbox"].as_str()).collect();
    assert_eq!(sandboxes.len(), now.len(), "no machine served twice: {now:?}");
    ready(&host, 2).await;
    let stats = host.client().get("stats").await.expect(200);
    assert!(stats["pool_hits"].as_u64().unwrap() >= 2, "{stats}");
    assert_eq!(user.stop("service", &service).await["data"]["stopped"], true);
}
