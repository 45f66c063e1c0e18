//! A node on the fake driver and a real nats-server, and a client that speaks as the `nex` command line does.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_engine::Registry;
use moat_engine::fake::{FakeConfig, FakeWorld};
use moat_model::claims::{self, ClaimsSpec};
use moat_model::{Timestamp, WorkloadName, seal};
use moat_node::config::{ApiConfig, NatsConfig, NodeConfig};
use moat_node::daemon::Node;
use moat_testkit::{NatsServer, Release};
use nkeys::{KeyPair, XKey};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for anything: a loaded machine is slow.
pub const SOON: Duration = Duration::from_secs(20);

/// Bucket of the tests.
pub const BUCKET: &str = "ARTIFACTS";

pub struct Rig {
    pub nats: NatsServer,
    pub dir: TempDir,
    pub world: FakeWorld,
    pub client: async_nats::Client,
    pub issuer: KeyPair,
    pub sender: XKey,
    pub config: NodeConfig,
    pub node: Option<Node>,
    pub id: String,
    pub xkey: String,
}

impl Rig {
    /// A node with this fake world; `None` if there is no server to run against.
    pub async fn start(release: Release, fake: FakeConfig, configure: impl FnOnce(&mut NodeConfig)) -> Option<Self> {
        let nats = NatsServer::start(release).await.unwrap()?;
        let dir = tempfile::tempdir().unwrap();
        let client = nats.client().await.unwrap();
        let mut config = NodeConfig {
            run_dir: dir.path().join("run"),
            data_dir: dir.path().join("data"),
            nats: NatsConfig { servers: vec![nats.url()], ..NatsConfig::default() },
            api: ApiConfig::off(),
            ..NodeConfig::default()
        };
        configure(&mut config);
        let world = FakeWorld::new(fake);
        let js = async_nats::jetstream::new(client.clone());
        js.create_object_store(async_nats::jetstream::object_store::Config {
            bucket: BUCKET.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
        let mut rig = Self {
            nats,
            dir,
            world,
            client,
            issuer: KeyPair::new_account(),
            sender: XKey::new(),
            config,
            node: None,
            id: String::new(),
            xkey: String::new(),
        };
        rig.up().await;
        Some(rig)
    }

    pub async fn up(&mut self) {
        let node = Node::start(self.config.clone(), Registry::new(vec![self.world.driver()])).await.unwrap();
        node.connection().up().await.unwrap();
        self.id = node.id().to_string();
        self.xkey = node.xkey();
        self.node = Some(node);
        // The subscriptions are behind the connection: ask until one answers.
        let subject = format!("$NEX.PING.{}", self.id);
        moat_testkit::wait_until(SOON, "the node answers", async || self.ask(&subject, &[]).await).await.unwrap();
    }

    pub async fn down(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown().await;
        }
    }

    pub fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// Puts bytes into the object store.
    pub async fn upload(&self, key: &str, bytes: &[u8]) {
        let js = async_nats::jetstream::new(self.client.clone());
        let store = js.get_object_store(BUCKET).await.unwrap();
        let mut bytes = bytes;
        store.put(key, &mut bytes).await.unwrap();
    }

    /// One request; `None` if nobody answers in two seconds, as long as the `nex` command line waits.
    pub async fn ask(&self, subject: &str, body: &[u8]) -> Option<Value> {
        let request = self.client.request(subject.to_owned(), body.to_vec().into());
        let reply = tokio::time::timeout(Duration::from_secs(2), request).await.ok()?.ok()?;
        Some(serde_json::from_slice(&reply.payload).unwrap())
    }

    pub async fn ask_json(&self, subject: &str, body: &Value) -> Value {
        self.ask(subject, &serde_json::to_vec(body).unwrap()).await.expect("an answer within two seconds")
    }

    pub fn deploy(&self, name: &str) -> Deploy {
        Deploy {
            name: name.to_owned(),
            key: name.to_owned(),
            issuer: self.issuer.seed().unwrap(),
            issued_at: now_secs() - 10,
            expires: None,
            hash: Some("abc12345TODOmakethisreal".to_owned()),
            environment: BTreeMap::from([("nats_url".to_owned(), "nats://192.0.2.10:4222".to_owned())]),
            node_xkey: self.xkey.clone(),
            sender: self.sender.seed().unwrap(),
            members: json!({}),
        }
    }

    /// Deploys and returns the reply.
    pub async fn send(&self, deploy: &Deploy) -> Value {
        self.ask_json(&format!("$NEX.DEPLOY.default.{}", self.id), &deploy.body(&self.id)).await
    }

    /// Uploads a program and deploys it; returns the workload's id.
    pub async fn run(&self, deploy: &Deploy) -> String {
        self.upload(&deploy.key, &program()).await;
        let reply = self.send(deploy).await;
        reply["data"]["id"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    }

    pub fn stop_body(&self, id: &str, token: &str) -> Value {
        json!({"workload_id": id, "workload_jwt": token, "target_node": self.id})
    }

    pub fn token(&self, name: &str, issued_at: i64) -> String {
        token(&self.issuer, name, issued_at)
    }

    pub async fn stop(&self, id: &str, name: &str) -> Value {
        let token = self.token(name, now_secs());
        self.ask_json(&format!("$NEX.STOP.default.{}", self.id), &self.stop_body(id, &token)).await
    }

    /// Files below the run directory's workload records and the artifact store, and sandboxes in the world.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for dir in ["run/workloads", "run/sandboxes", "data/artifacts"] {
            if let Ok(entries) = std::fs::read_dir(self.dir.path().join(dir)) {
                found.extend(entries.map(|e| e.unwrap().path()));
            }
        }
        found
    }
}

pub fn now_secs() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

pub fn token(issuer: &KeyPair, name: &str, issued_at: i64) -> String {
    let subject = WorkloadName::parse(name).unwrap();
    // A nonce, so that even a token of the same second has an id of its own.
    let nonce = Some("stop".to_owned());
    claims::sign(issuer, &ClaimsSpec { issued_at, nonce, ..ClaimsSpec::new(subject, Timestamp::default()) }).unwrap()
}

/// A deploy request as the `nex` command line would send it, with room to be wrong.
#[derive(Clone)]
pub struct Deploy {
    pub name: String,
    pub key: String,
    pub issuer: String,
    pub issued_at: i64,
    pub expires: Option<i64>,
    pub hash: Option<String>,
    pub environment: BTreeMap<String, String>,
    pub node_xkey: String,
    pub sender: String,
    /// Members added or replaced.
    pub members: Value,
}

impl Deploy {
    pub fn with(mut self, members: Value) -> Self {
        self.members = members;
        self
    }

    pub fn script(self, script: &str) -> Self {
        self.with(json!({"argv": ["-c", script]}))
    }

    pub fn body(&self, node: &str) -> Value {
        let issuer = KeyPair::from_seed(&self.issuer).unwrap();
        let spec = ClaimsSpec {
            issued_at: self.issued_at,
            expires: self.expires,
            hash: self.hash.clone(),
            ..ClaimsSpec::new(WorkloadName::parse(&self.name).unwrap(), Timestamp::default())
        };
        let sender = XKey::from_seed(&self.sender).unwrap();
        let mut body = json!({
            "description": "",
            "type": "native",
            "location": {"Scheme": "nats", "Opaque": "", "User": null, "Host": BUCKET, "Path": format!("/{}", self.key),
                "RawPath": "", "OmitHost": false, "ForceQuery": false, "RawQuery": "", "Fragment": "", "RawFragment": ""},
            "essential": false,
            "workload_jwt": claims::sign(&issuer, &spec).unwrap(),
            "environment": seal::seal(&self.environment, &sender, &self.node_xkey, [7; 24]).unwrap(),
            "jsdomain": "",
            "sender_public_key": sender.public_key(),
            "target_node": node,
        });
        for (name, value) in self.members.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }
}

/// The smallest static program of this machine: a header and one segment.
pub fn program() -> Vec<u8> {
    elf(machine(), &[(1, 0, 120)])
}

fn machine() -> u16 {
    if cfg!(target_arch = "x86_64") { 62 } else { 183 }
}

/// The same for another machine.
pub fn foreign_program() -> Vec<u8> {
    elf(if machine() == 62 { 183 } else { 62 }, &[(1, 0, 120)])
}

/// The same, but it asks for a loader.
pub fn dynamic_program() -> Vec<u8> {
    let mut bytes = elf(machine(), &[(1, 0, 120), (3, 64 + 112, 28)]);
    bytes.extend(b"/lib64/ld-linux-x86-64.so.2\0");
    bytes
}

fn elf(machine: u16, segments: &[(u32, u64, u64)]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [0x40_0000u64, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [64, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, offset, size) in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
        for word in [*offset, 0x40_0000, 0x40_0000, *size, *size, 0x1000] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}

/// A driver that is registered under the fake's name, for a node started by hand.
pub fn registry(world: &FakeWorld) -> Registry {
    Registry::new(vec![world.driver() as Arc<dyn moat_engine::Driver>])
}
