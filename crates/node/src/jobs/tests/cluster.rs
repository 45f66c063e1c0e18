//! Three nodes: what runs once never answers twice, whoever is cut off, killed or stalled, and whenever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moat_model::job::cluster::Capacity;
use moat_model::job::{ClientStatus, Constraint, Job, NodeFacts, Operator};
use moat_model::{AllocId, JobId};
use moat_testkit::{NatsServer, Release};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cut::Wire;
use super::pretend::Pretend;
use super::{default_namespace, job, node};
use crate::jobs::keys::STATUS;
use crate::jobs::{Bounds, DrainRequest, Jobs, LastBeat, Parts, StopOptions, SubmitOptions, serve};

pub const SOON: Duration = Duration::from_secs(90);
pub const LOOK: Duration = Duration::from_millis(20);

/// A node: its daemon, which may be killed, and its hands, which live on.
pub struct Member {
    pub letter: char,
    pub hands: Pretend,
    pub jobs: Jobs,
    url: String,
    daemon: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Member {
    pub async fn new(letter: char, url: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut member = Self { letter, hands: Pretend::default(), jobs: Jobs::default(), url, daemon: None, dir };
        member.start().await;
        member
    }

    pub async fn start(&mut self) {
        self.jobs = Jobs::default();
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .ping_interval(Duration::from_secs(1))
            .connection_timeout(Duration::from_secs(2))
            .connect(self.url.clone())
            .await
            .unwrap();
        let beat = self.dir.path().join("beat.json");
        let fenced = !LastBeat::read(&beat).is_some_and(LastBeat::is_young);
        self.hands.open(fenced);
        let parts = Parts {
            me: node(self.letter),
            client,
            facts: facts(self.letter),
            hands: Arc::new(self.hands.clone()),
            fenced,
            beat,
            replicas: None,
            bounds: Bounds::default(),
        };
        let jobs = self.jobs.clone();
        self.daemon = Some(tokio::spawn(serve(jobs, parts, CancellationToken::new())));
    }

    /// As SIGKILL: at whatever await it is.
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.abort();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn facts(letter: char) -> NodeFacts {
    NodeFacts {
        id: node(letter),
        name: letter.to_string(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        class: String::new(),
        pool: "default".to_owned(),
        attributes: BTreeMap::from([("driver.exec".to_owned(), "1".to_owned())]),
        meta: BTreeMap::new(),
        capacity: Capacity { cpu_mhz: 10_000, cores: 4, memory_mb: 10_000, disk_mb: 100_000 },
        host_volumes: BTreeMap::new(),
        reserved_ports: Vec::new(),
        version: "test".to_owned(),
        http: None,
    }
}

pub fn answering(members: &[Member]) -> Vec<(char, AllocId)> {
    members.iter().flat_map(|m| m.hands.answering().into_iter().map(|id| (m.letter, id))).collect()
}

/// Waits until so many answer and holds at every look that no more do.
pub async fn until(members: &[Member], what: &str, done: impl Fn(&[(char, AllocId)]) -> bool) -> Vec<(char, AllocId)> {
    let end = Instant::now() + SOON;
    loop {
        let now = answering(members);
        assert!(now.len() <= 1, "{what}: two answer at once: {now:?}");
        if done(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: not within {SOON:?}; answering: {now:?}");
        tokio::time::sleep(LOOK).await;
    }
}

pub async fn submit(members: &[Member], name: &str, count: u32) {
    declare(members, job(name, count)).await;
}

async fn declare(members: &[Member], job: Job) {
    let end = Instant::now() + SOON;
    loop {
        let mut last = None;
        for member in members {
            match member.jobs.submit(&default_namespace(), job.clone(), SubmitOptions::default()).await {
                Ok(_) => return,
                Err(error) => last = Some(error.chain()),
            }
        }
        assert!(Instant::now() < end, "{last:?}");
        tokio::time::sleep(LOOK).await;
    }
}

pub fn rounds() -> u32 {
    std::env::var("MOAT_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_once_never_answers_twice() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let (mut members, mut wires) = (Vec::new(), Vec::new());
    for letter in ['A', 'B', 'C'] {
        let wire = Wire::to(server.port()).await;
        members.push(Member::new(letter, wire.url()).await);
        wires.push(wire);
    }
    submit(&members, "once", 1).await;
    let mut now = until(&members, "first", |now| now.len() == 1).await;
    for round in 0..rounds() {
        let (letter, alloc) = now[0].clone();
        let at = members.iter().position(|member| member.letter == letter).unwrap();
        // Cut off; all of it killed; or only its daemon, whose hands live on with nobody to tell them anything.
        let (cut, all) = (rand::random_bool(0.4), rand::random_bool(0.4));
        let began = Instant::now();
        if cut {
            wires[at].cut();
        } else {
            members[at].kill();
            if all {
                members[at].hands.die();
            }
        }
        let fault = if cut {
            "cut off"
        } else if all {
            "killed"
        } else {
            "without its daemon"
        };
        let what = format!("round {round}: {letter} {fault}");
        let moved = |now: &[(char, AllocId)]| now.len() == 1 && now[0].0 != letter && now[0].1 != alloc;
        until(&members, &what, moved).await;
        println!("{what}: elsewhere after {:?}", began.elapsed());
        // Another controller may be killed while the first node comes back.
        let other = (at + 1) % members.len();
        if rand::random_bool(0.3) {
            members[other].kill();
            members[other].start().await;
        }
        if cut {
            wires[at].mend();
        } else {
            members[at].start().await;
        }
        comes_back(&members, letter, &what).await;
        now = until(&members, &format!("{what}, back"), |now| now.len() == 1).await;
    }
}

/// A newer version is declared just when the daemon has died that was to stop the older one: that one lives on for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_version_does_not_answer_beside_an_older_one() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut members = Vec::new();
    for letter in ['A', 'B', 'C'] {
        members.push(Member::new(letter, server.url()).await);
    }
    submit(&members, "once", 1).await;
    let mut now = until(&members, "first", |now| now.len() == 1).await;
    for round in 0..rounds() {
        let (letter, alloc) = now[0].clone();
        let at = members.iter().position(|member| member.letter == letter).unwrap();
        members[at].kill();
        let mut newer = job("once", 1);
        let (attribute, value) = ("${node.unique.name}".to_owned(), letter.to_string());
        newer.constraints.push(Constraint { attribute, operator: Operator::NotEqual, value });
        declare(&members, newer).await;
        let what = format!("round {round}: {letter} without its daemon");
        let replaced = |now: &[(char, AllocId)]| now.len() == 1 && now[0].1 != alloc;
        // Soon enough for half of it that its node is never given up.
        let back = Duration::from_secs(if rand::random_bool(0.5) { 2 } else { 14 });
        let late = Instant::now() + back;
        until(&members, &what, |now| replaced(now) || Instant::now() >= late).await;
        members[at].start().await;
        now = until(&members, &format!("{what}, back after {back:?}"), replaced).await;
        comes_back(&members, letter, &what).await;
    }
}

/// Waits until a node is ready again; nothing answers twice meanwhile.
pub async fn comes_back(members: &[Member], letter: char, what: &str) {
    let end = Instant::now() + SOON;
    while !node_is_ready(members, letter).await {
        let answers = answering(members);
        assert!(answers.len() <= 1, "{what}: two answer at once when it is back: {answers:?}");
        assert!(Instant::now() < end, "{what}: it does not come back");
        tokio::time::sleep(LOOK).await;
    }
}

async fn node_is_ready(members: &[Member], letter: char) -> bool {
    for member in members {
        if let Ok(view) = member.jobs.node(node(letter).as_str()).await {
            return view.state == moat_model::job::NodeState::Ready;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_are_killed_in_the_middle_and_nothing_is_doubled() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut members = Vec::new();
    for letter in ['A', 'B', 'C'] {
        members.push(Member::new(letter, server.url()).await);
    }
    let names: Vec<String> = (0..5 * rounds()).map(|n| format!("job.{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        submit(&members, name, 3).await;
        let at = n % members.len();
        // Just when it plans, or just before, or just after.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..40))).await;
        members[at].kill();
        members[at].start().await;
    }
    let end = Instant::now() + SOON;
    loop {
        let counts: Vec<usize> = futures::future::join_all(names.iter().map(|name| running(&members[0], name))).await;
        assert!(counts.iter().all(|count| *count <= 3), "doubled: {counts:?}");
        if counts.iter().all(|count| *count == 3) {
            break;
        }
        assert!(Instant::now() < end, "not all run: {counts:?}");
        tokio::time::sleep(LOOK).await;
    }
    // A node that was started again lets its instances go on when it knows that they were not replaced.
    while answering(&members).len() != 3 * names.len() {
        assert!(Instant::now() < end, "some stand still: {:?}", answering(&members));
        tokio::time::sleep(LOOK).await;
    }
    let id = JobId::parse(&names[0]).unwrap();
    let stopped = members[0].jobs.stop(&default_namespace(), &id, StopOptions::default()).await.unwrap();
    let end = Instant::now() + SOON;
    while running(&members[0], &names[0]).await > 0 {
        assert!(Instant::now() < end, "it does not stop");
        tokio::time::sleep(LOOK).await;
    }
    let all = members[0].jobs.evaluations(&default_namespace(), &id).await.unwrap();
    assert!(all.iter().any(|view| Some(&view.id) == stopped.evaluation.as_ref()), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_is_empty_and_something_answers_all_the_while() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut members = Vec::new();
    for letter in ['A', 'B', 'C'] {
        members.push(Member::new(letter, server.url()).await);
    }
    submit(&members, "two", 2).await;
    let end = Instant::now() + SOON;
    while answering(&members).len() < 2 {
        assert!(Instant::now() < end, "they do not run");
        tokio::time::sleep(LOOK).await;
    }
    let letter = answering(&members)[0].0;
    let request = DrainRequest { deadline: None, ignore_system: false, message: String::new() };
    members[0].jobs.drain(&node(letter), request).await.unwrap();
    loop {
        let now = answering(&members);
        assert!(!now.is_empty(), "nothing answers");
        let view = members[0].jobs.node(node(letter).as_str()).await;
        let drained = view.is_ok_and(|view| view.drain.is_none());
        if drained && now.len() == 2 && now.iter().all(|(on, _)| *on != letter) {
            break;
        }
        assert!(Instant::now() < end, "it is not empty: {now:?}");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_and_is_gone_is_told_again() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let members = [Member::new('A', server.url()).await];
    submit(&members, "told", 3).await;
    let end = Instant::now() + SOON;
    let all_run = async |what: &str| {
        while running(&members[0], "told").await < 3 {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(LOOK).await;
        }
    };
    all_run("they do not run").await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let statuses = async_nats::jetstream::new(client).get_key_value(STATUS).await.unwrap();
    for (_, id) in answering(&members) {
        statuses.purge(id.as_str()).await.unwrap();
    }
    while running(&members[0], "told").await > 0 {
        assert!(Instant::now() < end, "it is not seen that it is gone");
        tokio::time::sleep(LOOK).await;
    }
    all_run("it is not told again").await;
}

async fn running(member: &Member, name: &str) -> usize {
    let id = JobId::parse(name).unwrap();
    let all = member.jobs.allocations(Some(&default_namespace()), Some(&id)).await.unwrap_or_default();
    all.iter().filter(|view| view.client == ClientStatus::Running).count()
}
