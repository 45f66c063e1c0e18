//! The whole cluster, and what is read of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moat_testkit::netns::Switch;
use moat_testkit::static_bin;
use serde_json::Value;
use tempfile::TempDir;

use super::member::{LOOK, Member, PROGRAMS, SOON};
use super::prober::Probers;

/// Machines.
pub const MACHINES: usize = 3;
/// An instance that answered nothing for so long does not count as answering.
const LATELY: Duration = Duration::from_secs(3);
/// Longest one look at documents may take.
const READ_WITHIN: Duration = Duration::from_secs(8);

/// What a job file of the tests says.
pub struct JobFile<'a> {
    pub name: &'a str,
    pub driver: &'a str,
    pub count: usize,
    /// More lines of the group.
    pub group: &'a str,
    /// More variables.
    pub env: &'a str,
}

/// See the module.
pub struct Cluster {
    pub switch: Arc<Switch>,
    pub members: Vec<Member>,
    /// Names of nodes by id.
    nodes: BTreeMap<String, String>,
    programs: std::path::PathBuf,
    dir: TempDir,
}

/// Documents of the buckets, at one look.
#[derive(Debug, Default)]
pub struct Documents(BTreeMap<String, Value>);

impl Cluster {
    /// All machines run and know each other. An error: this host gives no network namespaces.
    pub fn start() -> anyhow::Result<Self> {
        let switch = Arc::new(Switch::new(u8::try_from(MACHINES)?)?);
        let program = static_bin("echo-service").unwrap();
        let dir = tempfile::Builder::new().prefix("moat-cluster-").tempdir().unwrap();
        let own = dir.path().join("programs");
        std::fs::create_dir(&own).unwrap();
        std::fs::copy(program, own.join("echo-service")).unwrap();
        let mut members: Vec<Member> = (0..MACHINES).map(|i| Member::new(i, MACHINES, dir.path(), &own)).collect();
        for member in &mut members {
            member.start_server(&switch);
        }
        for member in &mut members {
            member.start_daemon(&switch);
        }
        let mut cluster = Self { switch, members, nodes: BTreeMap::new(), programs: own, dir };
        cluster.until("all nodes are there", |cluster| {
            let nodes = cluster.facts();
            (nodes.len() == MACHINES).then_some(nodes)
        });
        cluster.nodes = cluster.facts();
        cluster.until_whole("at first");
        Ok(cluster)
    }

    /// Waits for something; fails with everybody's last words.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + SOON;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if Instant::now() > end {
                self.fail(&format!("{what}: not within {SOON:?}"));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    pub fn fail(&self, why: &str) -> ! {
        let words: String = self.members.iter().map(Member::last_words).collect();
        panic!("{why}\n{}\n{words}", self.documents().map_or(String::new(), |d| format!("{:#?}", d.0)));
    }

    /// Runs a job, on whatever machine takes it.
    pub fn submit(&self, file: &JobFile<'_>) {
        let JobFile { name, driver, count, group, env } = file;
        let servers: Vec<String> =
            (0..MACHINES).map(|i| format!("nats://{}:4222", moat_testkit::netns::address(i))).collect();
        let program = if *driver == "exec" { Path::new(PROGRAMS) } else { &self.programs }.join("echo-service");
        let text = format!(
            "job \"{name}\" {{\n  type = \"service\"\n  group \"g\" {{\n    count = {count}\n    {group}\n    \
             restart {{\n      attempts = 60\n      interval = \"2m\"\n      delay = \"1s\"\n      mode = \"delay\"\n    }}\n    \
             task \"t\" {{\n      driver = \"{driver}\"\n      config {{\n        command = {program:?}\n      }}\n      \
             env {{\n        NATS_URL = \"{}\"\n        ECHO_NAME = \"{name}\"\n        \
             ECHO_SIGNATURE = \"${{NOMAD_ALLOC_ID}}\"\n        {env}\n      }}\n      \
             resources {{\n        cpu = 20\n        memory = 64\n      }}\n    }}\n  }}\n}}\n",
            servers.join(",")
        );
        let path = self.dir.path().join(format!("{name}.hcl"));
        std::fs::write(&path, text).unwrap();
        let mut last = String::new();
        let end = Instant::now() + SOON;
        while Instant::now() < end {
            for member in &self.members {
                let output = member.run(&self.switch, &["job", "run", "--detach", path.to_str().unwrap()]);
                if output.status.success() {
                    return;
                }
                last = String::from_utf8_lossy(&output.stderr).into_owned();
            }
            std::thread::park_timeout(LOOK);
        }
        self.fail(&format!("{name} is not taken: {last}"));
    }

    /// Everything in the buckets, as one of the machines reads it; nothing while it cannot.
    pub fn documents(&self) -> Option<Documents> {
        (0..MACHINES).find_map(|machine| {
            let end = self.switch.end(machine)?;
            end.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
                runtime.block_on(async { tokio::time::timeout(READ_WITHIN, read()).await.ok()?.ok() })
            })
            .ok()?
        })
    }

    fn facts(&self) -> BTreeMap<String, String> {
        let documents = self.documents().unwrap_or_default();
        let named = |(key, value): (&String, &Value)| {
            let id = key.strip_prefix("moat_nodes/facts.")?;
            Some((id.to_owned(), value["name"].as_str()?.to_owned()))
        };
        documents.0.iter().filter_map(named).collect()
    }

    /// Which machine this node is.
    pub fn machine_of(&self, node: &str) -> Option<usize> {
        let name = self.nodes.get(node)?;
        self.members.iter().position(|member| &member.name == name)
    }

    /// Waits until every node lives, every server has what the others have, and nobody is given up.
    pub fn until_whole(&self, when: &str) {
        let mut first: Option<BTreeMap<String, u64>> = None;
        self.until(&format!("{when}: all nodes live"), |cluster| {
            let documents = cluster.documents().filter(|_| cluster.replicas_are_current())?;
            let beats = documents.beats();
            let first = first.get_or_insert_with(|| beats.clone());
            let lives = |(node, beat): (&String, &u64)| beats.get(node).is_some_and(|now| now > beat);
            let whole = first.len() == MACHINES && first.iter().all(lives) && !documents.is_anybody_given_up();
            if first.len() < MACHINES || beats.iter().any(|(node, beat)| first.get(node).is_none_or(|b| b > beat)) {
                *first = beats;
            }
            whole.then_some(())
        });
    }

    fn replicas_are_current(&self) -> bool {
        let read = |machine: usize| {
            let end = self.switch.end(machine)?;
            end.enter(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
                runtime.block_on(async { tokio::time::timeout(READ_WITHIN, are_current()).await.ok()?.ok() })
            })
            .ok()?
        };
        (0..MACHINES).all(|machine| read(machine) == Some(true))
    }

    /// Waits until each job has as many instances as it should, documents and answers agreeing; none has more meanwhile.
    pub fn until_restored(&self, probers: &Probers, jobs: &[(&str, usize)], when: &str) {
        self.until(&format!("{when}: {jobs:?} are restored"), |cluster| {
            cluster.hold_true(probers, jobs, when);
            let documents = cluster.documents()?;
            let since = probers.now().saturating_sub(LATELY);
            let is_restored = |(job, count): &(&str, usize)| {
                let wanted = documents.wanted(job);
                let answering: BTreeSet<String> = probers.answering(job, since).into_iter().collect();
                let running = wanted.iter().filter(|wanted| documents.is_running(&wanted.id)).count();
                running == *count && answering == wanted.into_iter().map(|wanted| wanted.id).collect()
            };
            jobs.iter().all(is_restored).then_some(())
        });
    }

    /// Nothing is doubled, neither among answers nor in documents.
    pub fn hold_true(&self, probers: &Probers, jobs: &[(&str, usize)], when: &str) {
        let wrongs = probers.wrongs();
        if !wrongs.is_empty() {
            self.fail(&format!("{when}: {wrongs:#?}"));
        }
        let Some(documents) = self.documents() else { return };
        for (job, count) in jobs {
            let wanted = documents.wanted(job);
            let indices: BTreeSet<u64> = wanted.iter().map(|wanted| wanted.index).collect();
            if wanted.len() > *count || indices.len() != wanted.len() {
                self.fail(&format!("{when}: {job} is doubled: {wanted:#?}"));
            }
        }
    }
}

/// An instance that should run.
#[derive(Debug)]
pub struct Wanted {
    pub id: String,
    pub node: String,
    pub index: u64,
}

impl Documents {
    /// Instances of a job that should run.
    pub fn wanted(&self, job: &str) -> Vec<Wanted> {
        let Some(all) = self.0.get(&format!("moat_jobs/allocs.default.{job}")) else { return Vec::new() };
        let is_wanted = |allocation: &&Value| allocation["desired"] == "run" && allocation["lost"] == false;
        let has_ended = |id: &str| {
            let client = self.0.get(&format!("moat_status/{id}")).map(|status| status["client"].clone());
            client.is_some_and(|client| client == "failed" || client == "complete" || client == "lost")
        };
        let read = |allocation: &Value| Wanted {
            id: allocation["id"].as_str().unwrap_or_default().to_owned(),
            node: allocation["node"].as_str().unwrap_or_default().to_owned(),
            index: allocation["index"].as_u64().unwrap_or_default(),
        };
        let wanted = all["allocations"].as_array().into_iter().flatten().filter(is_wanted).map(read);
        wanted.filter(|wanted| !has_ended(&wanted.id)).collect()
    }

    pub fn is_running(&self, id: &str) -> bool {
        self.0.get(&format!("moat_status/{id}")).is_some_and(|status| status["client"] == "running")
    }

    /// The node that controls.
    pub fn holder(&self) -> Option<String> {
        self.0.get("moat_nodes/lease")?["holder"].as_str().map(str::to_owned)
    }

    fn beats(&self) -> BTreeMap<String, u64> {
        let beat = |(key, value): (&String, &Value)| {
            Some((key.strip_prefix("moat_nodes/beat.")?.to_owned(), value["count"].as_u64()?))
        };
        self.0.iter().filter_map(beat).collect()
    }

    fn is_anybody_given_up(&self) -> bool {
        let of_nodes = |key: &str| key.starts_with("moat_jobs/fence.") || key.starts_with("moat_nodes/beat.");
        self.0.iter().any(|(key, value)| of_nodes(key) && value["down"] == true)
    }
}

async fn client() -> anyhow::Result<async_nats::Client> {
    Ok(async_nats::ConnectOptions::new().connection_timeout(Duration::from_secs(2)).connect("127.0.0.1:4222").await?)
}

async fn read() -> anyhow::Result<Documents> {
    use futures::TryStreamExt;
    let context = async_nats::jetstream::new(client().await?);
    let mut all = BTreeMap::new();
    for bucket in ["moat_jobs", "moat_nodes", "moat_status"] {
        let store = context.get_key_value(bucket).await?;
        let keys: Vec<String> = store.keys().await?.try_collect().await?;
        for key in keys.into_iter().filter(|key| !key.starts_with("version.") && !key.starts_with("barrier.")) {
            if let Some(value) = store.get(&key).await? {
                all.insert(format!("{bucket}/{key}"), serde_json::from_slice(&value)?);
            }
        }
    }
    Ok(Documents(all))
}

async fn are_current() -> anyhow::Result<bool> {
    let context = async_nats::jetstream::new(client().await?);
    for bucket in ["moat_jobs", "moat_nodes", "moat_status"] {
        let mut stream = context.get_stream(format!("KV_{bucket}")).await?;
        let info = stream.info().await?;
        let Some(cluster) = &info.cluster else { return Ok(false) };
        if cluster.leader.is_none()
            || cluster.replicas.len() != MACHINES - 1
            || cluster.replicas.iter().any(|peer| !peer.current || peer.offline)
        {
            return Ok(false);
        }
    }
    Ok(true)
}
