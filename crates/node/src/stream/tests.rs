//! The verbs and sessions, through the real client and a real server, on sandboxes made of channels.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use moat_agent::protocol::{GuestProcess, StreamName};
use moat_api::client::{self, Exec, ExecOutput as Said};
use moat_api::nex::Template;
use moat_engine::driver::Usage;
use moat_engine::guest::{ExecInput, ExecOutput, ExecSession};
use moat_model::lifecycle::{SandboxView, Step};
use moat_model::spec::{ExecSpec, OnTimeout, Origin, PtySize, Resources, Signal};
use moat_model::workload::WorkloadKind;
use moat_model::{Exit, Isolation, ProcessSpec, Timestamp, WorkloadName};
use moat_testkit::{NatsServer, Release};
use nkeys::KeyPair;
use tokio::sync::mpsc;

use super::*;
use crate::events::Outbox;
use crate::logfile::WorkloadRef;
use crate::outlet::OutletConfig;
use crate::workloads::StartClaims;
use moat_engine::Outlet;

const LONG: Duration = Duration::from_secs(20);
const ID: &str = "cq1v8k3q7d2c73f0a9g0";

fn node() -> NodeId {
    NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap()
}

fn id() -> WorkloadId {
    WorkloadId::parse(ID).unwrap()
}

fn name() -> WorkloadName {
    WorkloadName::parse("app").unwrap()
}

fn sandbox() -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(7), [7; 10])
}

fn view(phase: PhaseName) -> WorkloadView {
    WorkloadView {
        id: id(),
        namespace: Namespace::default_namespace(),
        name: name(),
        description: String::new(),
        kind: WorkloadKind::Service,
        workload_type: "native".to_owned(),
        node: node(),
        isolation: Isolation::Container.into(),
        driver: "fake".to_owned(),
        template: Template::Host,
        phase,
        essential: false,
        attempt: 1,
        sandbox: Some(sandbox()),
        issuer: String::new(),
        hash: String::new(),
        argv: Vec::new(),
        created_at: Timestamp::from_millis(1),
        started_at: None,
        ended_at: None,
        exit: None,
        cause: None,
        restart_at: None,
    }
}

/// One workload, and what was done to its sandbox.
#[derive(Debug)]
struct World {
    issuer: String,
    phase: Mutex<PhaseName>,
    /// The sandbox's side of sessions.
    started: mpsc::Sender<(mpsc::Receiver<ExecInput>, mpsc::Sender<ExecOutput>)>,
}

impl WorkloadDirectory for World {
    fn list(&self) -> Vec<WorkloadView> {
        vec![view(*self.phase.lock().unwrap())]
    }

    fn find(&self, wanted: &WorkloadId) -> Option<Found> {
        let start = StartClaims { issuer: self.issuer.clone(), subject: name(), jti: "start".to_owned(), issued_at: 1 };
        (*wanted == id()).then(|| Found { view: view(*self.phase.lock().unwrap()), start, timeline: Vec::new() })
    }
}

impl World {
    fn turn(&self, phase: PhaseName) -> moat_engine::Result<SandboxView> {
        *self.phase.lock().unwrap() = phase;
        Ok(SandboxView {
            id: sandbox(),
            generation: 1,
            namespace: Namespace::default_namespace(),
            labels: BTreeMap::new(),
            phase,
            stowed: false,
            isolation: Isolation::Container,
            accelerator: None,
            driver: "fake".to_owned(),
            created_at: Timestamp::from_millis(1),
            started_at: None,
            ready_at: None,
            expires_at: None,
            remaining: None,
            idle_timeout: None,
            on_timeout: OnTimeout::Kill,
            resources: Resources::default(),
            origin: Origin::default(),
            address: None,
            ended_at: None,
            exit: None,
            cause: None,
        })
    }
}

#[async_trait]
impl Sandboxes for World {
    async fn exec(&self, _: &SandboxId, _: &ExecSpec) -> moat_engine::Result<ExecSession> {
        let ((input, input_there), (output_there, output)) = (mpsc::channel(4), mpsc::channel(4));
        self.started.send((input_there, output_there)).await.unwrap();
        Ok(ExecSession { pid: 42, input, output })
    }

    async fn pause(&self, _: &SandboxId) -> moat_engine::Result<SandboxView> {
        self.turn(PhaseName::Paused)
    }

    async fn resume(&self, _: &SandboxId) -> moat_engine::Result<SandboxView> {
        self.turn(PhaseName::Running)
    }

    async fn usage(&self, _: &SandboxId) -> moat_engine::Result<Usage> {
        Ok(Usage { memory_bytes: 4096, pids: 2, ..Usage::default() })
    }

    async fn processes(&self, _: &SandboxId) -> moat_engine::Result<Vec<GuestProcess>> {
        Ok(vec![GuestProcess { pid: 1, ppid: 0, uid: 0, command: "agent".to_owned(), rss_bytes: 1, cpu_usec: 1 }])
    }

    async fn explain(&self, _: &SandboxId) -> moat_engine::Result<Vec<Step>> {
        Ok(vec![Step { at: Timestamp::from_millis(1), what: "accepted".to_owned(), times: 1, last_at: None }])
    }
}

struct Bench {
    _server: NatsServer,
    _dir: tempfile::TempDir,
    nats: async_nats::Client,
    client: client::Client,
    issuer: KeyPair,
    outlet: NodeOutlet,
    stream: Listener,
    started: mpsc::Receiver<(mpsc::Receiver<ExecInput>, mpsc::Sender<ExecOutput>)>,
}

async fn bench() -> Option<Bench> {
    let server = NatsServer::start(Release::Current).await.unwrap()?;
    let dir = tempfile::tempdir().unwrap();
    let outlet = open_outlet(dir.path()).await;
    let (issuer, (started_there, started)) = (KeyPair::new_account(), mpsc::channel(4));
    let world =
        Arc::new(World { issuer: issuer.public_key(), phase: Mutex::new(PhaseName::Running), started: started_there });
    let config = StreamConfig { client: server.client().await.unwrap(), subjects: Subjects::default(), node: node() };
    let listening = config.client.clone();
    let stream = serve(config, Arc::clone(&world) as _, world, outlet.clone()).await.unwrap();
    crate::events::barrier(&listening).await.unwrap();
    let nats = server.client().await.unwrap();
    let client = client::Client::new(nats.clone(), client::Options::default());
    Some(Bench { _server: server, _dir: dir, nats, client, issuer, outlet, stream, started })
}

async fn open_outlet(dir: &Path) -> NodeOutlet {
    let outbox = Outbox::open(&dir.join("outbox"), Subjects::default()).await.unwrap();
    NodeOutlet::open(OutletConfig::new(dir.join("logs"), dir.join("bindings")), outbox).await.unwrap()
}

fn spec() -> ExecSpec {
    let process = ProcessSpec { command: "sh".to_owned(), args: vec![], env: BTreeMap::new(), cwd: None, user: None };
    ExecSpec { process, pty: None, stdin: true, timeout: None }
}

impl Bench {
    async fn exec(&mut self) -> (client::ExecSession, mpsc::Receiver<ExecInput>, mpsc::Sender<ExecOutput>) {
        let (node, workload, name) = (node(), id(), name());
        let exec = Exec { node: &node, workload: &workload, name: &name, issuer: &self.issuer, spec: spec() };
        let session = self.client.exec(exec).await.unwrap();
        let (input, output) = self.started.recv().await.unwrap();
        (session, input, output)
    }
}

/// Reads a process's side until `len` bytes of input have come.
async fn read_input(input: &mut mpsc::Receiver<ExecInput>, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        match tokio::time::timeout(LONG, input.recv()).await.unwrap() {
            Some(ExecInput::Stdin(piece)) => bytes.extend_from_slice(&piece),
            other => panic!("{other:?} after {} bytes", bytes.len()),
        }
    }
    bytes
}

#[tokio::test]
async fn an_exec_talks_both_ways_and_ends_with_its_exit() {
    let Some(mut bench) = bench().await else { return };
    let (mut session, mut input, output) = bench.exec().await;
    assert_eq!(session.pid, 42);
    session.stdin.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(read_input(&mut input, 5).await, b"hello");
    session.control.send(client::ExecControl::Resize(PtySize { rows: 2, cols: 3 })).await.unwrap();
    assert_eq!(input.recv().await, Some(ExecInput::Resize(PtySize { rows: 2, cols: 3 })));
    session.control.send(client::ExecControl::Signal(Signal::TERM)).await.unwrap();
    assert_eq!(input.recv().await, Some(ExecInput::Signal(Signal::TERM)));
    drop(session.stdin);
    assert_eq!(input.recv().await, Some(ExecInput::CloseStdin));
    output.send(ExecOutput::Data(StreamName::Stderr, Bytes::from_static(b"oh"))).await.unwrap();
    output.send(ExecOutput::Exited { exit: Exit::code(3), timed_out: false }).await.unwrap();
    assert_eq!(session.output.recv().await.unwrap().unwrap(), Said::Stderr(Bytes::from_static(b"oh")));
    match session.output.recv().await.unwrap().unwrap() {
        Said::Exited(ended) => assert_eq!(ended.exit, Exit::code(3)),
        other => panic!("{other:?}"),
    }
    bench.stream.close().await;
}

/// 8 MiB each way at once through a window of 256 KiB, and a reader that stands still meanwhile.
#[tokio::test]
async fn much_flows_both_ways_and_a_slow_reader_stops_the_writer() {
    const LEN: usize = 8 << 20;
    let Some(mut bench) = bench().await else { return };
    let (mut session, mut input, output) = bench.exec().await;
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let feed = tokio::spawn({
        let (piece, stdin) = (piece.clone(), session.stdin.clone());
        async move {
            for _ in 0..LEN / piece.len() {
                stdin.send(piece.clone()).await.unwrap();
            }
        }
    });
    let talk = tokio::spawn({
        let output = output.clone();
        async move {
            let mut sent = 0;
            while sent < LEN && output.send(ExecOutput::Data(StreamName::Stdout, piece.clone())).await.is_ok() {
                sent += piece.len();
            }
        }
    });
    // Nobody reads the output: the process can write a window and some channels more, and then waits.
    assert_eq!(read_input(&mut input, LEN).await.len(), LEN);
    feed.await.unwrap();
    assert!(!talk.is_finished(), "the writer is held up");
    let mut got = 0;
    while got < LEN {
        match tokio::time::timeout(LONG, session.output.recv()).await.unwrap().unwrap().unwrap() {
            Said::Stdout(bytes) => got += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    talk.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_process() {
    let Some(mut bench) = bench().await else { return };
    let (session, mut input, output) = bench.exec().await;
    drop(session);
    assert_eq!(tokio::time::timeout(LONG, input.recv()).await.unwrap(), None, "hung up");
    tokio::time::timeout(LONG, output.closed()).await.unwrap();
}

#[tokio::test]
async fn an_end_without_an_exit_is_an_error() {
    let Some(mut bench) = bench().await else { return };
    let (mut session, _input, output) = bench.exec().await;
    drop(output);
    let error = tokio::time::timeout(LONG, session.output.recv()).await.unwrap().unwrap().unwrap_err();
    assert!(error.chain().contains("agent was lost"), "{}", error.chain());
}

#[tokio::test]
async fn a_client_that_does_not_count_is_hung_up() {
    use moat_api::stream::{StreamId, frame};
    let Some(mut bench) = bench().await else { return };
    let stream = StreamId::from_random([9; 16]);
    let claims = {
        let now = clock::now();
        let mut spec = moat_model::claims::ClaimsSpec::new(name(), now);
        spec.expires = Some(now.as_secs() + 30);
        moat_model::claims::sign(&bench.issuer, &spec).unwrap()
    };
    let request = SandboxRequest::Exec(ExecRequest { workload: id(), claims, stream: stream.clone(), spec: spec() });
    let subjects = Subjects::default();
    let mut out = bench.nats.subscribe(subjects.stream_out(&stream)).await.unwrap();
    let subject = subjects.sandbox(&Namespace::default_namespace(), &node());
    let payload = serde_json::to_vec(&request).unwrap();
    let reply = bench.nats.request(subject.clone(), payload.clone().into()).await.unwrap();
    assert!(envelope::decode::<ExecResponse>(&reply.payload).is_ok());
    let replayed = bench.nats.request(subject, payload.into()).await.unwrap();
    let error = envelope::decode::<ExecResponse>(&replayed.payload).unwrap_err();
    assert!(error.message.contains("used before"), "{}", error.message);

    // The process takes nothing, and the client sends twice what it may.
    let (_input, _output) = bench.started.recv().await.unwrap();
    let chunk = Bytes::from(vec![0; CHUNK_LEN]);
    for n in 0..20 {
        let headers = frame::headers("stdin", n);
        bench.nats.publish_with_headers(subjects.stream_in(&stream), headers, chunk.clone()).await.unwrap();
    }
    let ended = async {
        loop {
            let message = out.next().await.unwrap();
            let (kind, _) = frame::read_headers(message.headers.as_ref()).unwrap();
            if kind == "error" {
                return String::from_utf8_lossy(&message.payload).into_owned();
            }
        }
    };
    let error = tokio::time::timeout(LONG, ended).await.unwrap();
    assert!(error.contains("more than it had credit for"), "{error}");
}

const CHUNK_LEN: usize = moat_api::stream::CHUNK_LEN_MAX;

#[tokio::test]
async fn workloads_are_listed_held_up_and_measured_in_their_namespace_only() {
    let Some(bench) = bench().await else { return };
    let found = bench.client.inspect(&node(), &InspectRequest::default()).await.unwrap();
    assert_eq!((found.workloads.len(), found.truncated), (1, false));
    assert_eq!(bench.client.stats(&node(), &id()).await.unwrap().processes.len(), 1);
    let paused = bench.client.pause(&node(), &id(), &name(), &bench.issuer).await.unwrap();
    assert_eq!(paused.phase, PhaseName::Paused);
    assert!(bench.client.stats(&node(), &id()).await.unwrap().processes.is_empty());
    let explained = bench.client.explain(&node(), &id()).await.unwrap();
    assert_eq!(explained.details["steps"][0]["what"], "accepted");
    let resumed = bench.client.resume(&node(), &id(), &name(), &bench.issuer).await.unwrap();
    assert_eq!(resumed.phase, PhaseName::Running);
    let stranger = bench.client.pause(&node(), &id(), &name(), &KeyPair::new_account()).await.unwrap_err();
    assert_eq!(stranger.kind, ErrorKind::Denied);

    let elsewhere = client::Options { namespace: Namespace::parse("other").unwrap(), ..client::Options::default() };
    let elsewhere = client::Client::new(bench.nats.clone(), elsewhere);
    assert!(elsewhere.inspect(&node(), &InspectRequest::default()).await.unwrap().workloads.is_empty());
    for error in [
        elsewhere.stats(&node(), &id()).await.unwrap_err(),
        elsewhere.log_history(&node(), &id(), None, None).await.unwrap_err(),
        elsewhere.pause(&node(), &id(), &name(), &bench.issuer).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn history_comes_in_pieces_that_join() {
    let Some(bench) = bench().await else { return };
    let workload = WorkloadRef { namespace: Namespace::default_namespace(), name: name(), id: id(), node: node() };
    bench.outlet.bind(sandbox(), workload).await.unwrap();
    let text: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
    let mut offset = 0;
    for chunk in text.as_bytes().chunks(64 << 10) {
        bench.outlet.append(&sandbox(), StreamName::Stdout, offset, Bytes::copy_from_slice(chunk)).await.unwrap();
        offset += chunk.len() as u64;
    }
    bench.outlet.append(&sandbox(), StreamName::Stderr, 0, Bytes::from_static(b"\x01\x02oops")).await.unwrap();
    let (mut after, mut lines, mut pieces) = (None, Vec::new(), 0);
    loop {
        let piece = bench.client.log_history(&node(), &id(), None, after).await.unwrap();
        lines.extend(piece.lines.into_iter().map(|line| (line.level, line.text)));
        pieces += 1;
        after = Some(piece.cursor);
        if !piece.more {
            break;
        }
    }
    assert!(pieces > 2, "{pieces}");
    let (errors, output): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|(level, _)| *level == moat_api::nex::Level::ERROR);
    assert_eq!(errors, [(moat_api::nex::Level::ERROR, "\u{1}\u{2}oops".to_owned())]);
    assert_eq!(output.len(), 60_000);
    assert!(output.iter().enumerate().all(|(n, (_, text))| *text == format!("line {n}")));
    let tail = bench.client.log_history(&node(), &id(), Some(2), None).await.unwrap();
    let texts: Vec<&str> = tail.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts, ["line 59998", "line 59999", "\u{1}\u{2}oops"]);
}
