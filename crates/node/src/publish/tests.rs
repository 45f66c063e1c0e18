//! Publishing against real servers: nothing lost, nothing doubled, nobody stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::StreamName::{self, Stderr, Stdout};
use moat_api::nex::LogLine;
use moat_engine::Outlet;
use moat_model::{Namespace, NodeId, SandboxId, Timestamp, WorkloadId, WorkloadName};
use moat_testkit::{NatsServer, Release};
use tokio::time::Instant;

use super::*;
use crate::logfile::{Rotation, WorkloadRef};
use crate::outlet::OutletConfig;

const LONG: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Anonymous(String);

#[async_trait]
impl Dial for Anonymous {
    async fn dial(&self) -> crate::Result<Client> {
        let options = async_nats::ConnectOptions::new().max_reconnects(1);
        let failed = |e| crate::Error::caused_by(moat_model::ErrorKind::Unavailable, "connect", e);
        options.connect(&self.0).await.map_err(failed)
    }
}

fn workload(n: u8) -> WorkloadRef {
    WorkloadRef {
        namespace: Namespace::default_namespace(),
        name: WorkloadName::parse(&format!("app{n}")).unwrap(),
        id: WorkloadId::parse(&format!("cq1v8k3q7d2c73f0a9g{n}")).unwrap(),
        node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
    }
}

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(i64::from(n)), [n; 10])
}

fn subject(n: u8) -> String {
    let w = workload(n);
    format!("$NEX.logs.default.{}.{}.{}", w.node, w.name, w.id)
}

/// Listens, and returns when the server knows it.
async fn listen(server: &NatsServer, subject: String) -> async_nats::Subscriber {
    let client = server.client().await.unwrap();
    let subscriber = client.subscribe(subject).await.unwrap();
    crate::events::barrier(&client).await.unwrap();
    subscriber
}

/// A daemon's output side: killed by dropping it, started again on the same directories.
struct Daemon {
    outlet: NodeOutlet,
    publisher: Publisher,
    cancel: CancellationToken,
}

struct Dirs {
    _root: tempfile::TempDir,
    logs: PathBuf,
    run: PathBuf,
}

impl Dirs {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self { logs: root.path().join("logs"), run: root.path().join("run"), _root: root }
    }
}

impl Daemon {
    async fn start(dirs: &Dirs, url: &str, rotation: Rotation, history: HistoryConfig) -> Self {
        let outbox = Outbox::open(&dirs.run.join("outbox"), Subjects::default()).await.unwrap();
        let config = OutletConfig { rotation, ..OutletConfig::new(&dirs.logs, dirs.run.join("bindings")) };
        let outlet = NodeOutlet::open(config, outbox.clone()).await.unwrap();
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url).await.unwrap();
        let dial = Arc::new(Anonymous(url.to_owned()));
        let cancel = CancellationToken::new();
        let config = PublisherConfig { client, dial, subjects: Subjects::default(), history };
        let publisher = Publisher::spawn(config, outlet.clone(), outbox, cancel.clone());
        Self { outlet, publisher, cancel }
    }

    /// As a SIGKILL would: no task gets to another line.
    fn kill(self) {
        for task in &self.publisher.tasks {
            task.abort();
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.publisher.join().await;
    }
}

/// A program's output, as the engine hands it over.
struct Program {
    sandbox: SandboxId,
    stream: StreamName,
    offset: u64,
}

impl Program {
    fn new(n: u8, stream: StreamName) -> Self {
        Self { sandbox: sandbox(n), stream, offset: 0 }
    }

    async fn write(&mut self, outlet: &NodeOutlet, text: impl Into<Bytes>) {
        let bytes = text.into();
        let len = bytes.len() as u64;
        outlet.append(&self.sandbox, self.stream, self.offset, bytes).await.unwrap();
        self.offset += len;
    }
}

/// Every message the history has of a workload, oldest first.
async fn history(server: &NatsServer, n: u8) -> Vec<LogLine> {
    use futures::StreamExt;
    let context = jetstream::new(server.client().await.unwrap());
    let stream = context.get_stream("MOAT_LOGS").await.unwrap();
    let config = jetstream::consumer::pull::OrderedConfig { filter_subject: subject(n), ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut left = consumer.cached_info().num_pending;
    let mut lines = Vec::new();
    let mut messages = consumer.messages().await.unwrap();
    while left > 0 {
        let message = tokio::time::timeout(LONG, messages.next()).await.unwrap().unwrap().unwrap();
        lines.push(serde_json::from_slice(&message.payload).unwrap());
        left -= 1;
    }
    lines
}

fn seconds(name: &str, default: u64) -> Duration {
    Duration::from_secs(std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default))
}

fn assert_numbered(lines: &[LogLine], prefix: &str, count: u64) {
    let of_stream: Vec<&str> = lines.iter().map(|l| l.text.as_str()).filter(|t| t.starts_with(prefix)).collect();
    for (n, text) in of_stream.iter().enumerate() {
        assert_eq!(*text, format!("{prefix}{n}"), "line {n} of {}", of_stream.len());
    }
    assert_eq!(of_stream.len() as u64, count);
}

async fn lines_arrive_as_documented(release: Release) {
    use futures::StreamExt;
    let Some(server) = NatsServer::start(release).await.unwrap() else { return };
    let dirs = Dirs::new();
    let mut live = listen(&server, "$NEX.logs.>".to_owned()).await;
    let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), HistoryConfig::default()).await;
    daemon.outlet.bind(sandbox(1), workload(1)).await.unwrap();
    let mut out = Program::new(1, Stdout);
    let mut err = Program::new(1, Stderr);
    out.write(&daemon.outlet, "listening on 8080\nprompt> ").await;
    err.write(&daemon.outlet, "oh \u{1f600}\n").await;
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let message = tokio::time::timeout(LONG, live.next()).await.unwrap().unwrap();
        assert_eq!(message.subject.as_str(), subject(1));
        let cursor = message.headers.as_ref().unwrap().get("Moat-Cursor").unwrap().to_string();
        assert!(message.headers.unwrap().get("Nats-Msg-Id").is_some());
        heard.push((String::from_utf8(message.payload.to_vec()).unwrap(), cursor));
    }
    let texts: Vec<&str> = heard.iter().map(|(text, _)| text.as_str()).collect();
    assert!(texts.contains(&r#"{"text":"listening on 8080","level":"INFO","id":"cq1v8k3q7d2c73f0a9g1"}"#), "{texts:?}");
    assert!(texts.contains(&r#"{"text":"oh 😀","level":"ERROR","id":"cq1v8k3q7d2c73f0a9g1"}"#), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("prompt> ")), "an unfinished line comes when nothing follows");
    assert_eq!(heard[2].1, "26,8");
    daemon.outlet.unbind(&sandbox(1)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn lines_arrive_as_documented_2_15() {
    lines_arrive_as_documented(Release::Current).await;
}

#[tokio::test]
async fn lines_arrive_as_documented_2_9() {
    lines_arrive_as_documented(Release::Debian).await;
}

/// Must hold 6: the server is away while a workload logs 1,000 lines a second.
async fn outage(release: Release) {
    let away = seconds("MOAT_TEST_OUTAGE_SECONDS", 5);
    let Some(mut server) = NatsServer::start(release).await.unwrap() else { return };
    let dirs = Dirs::new();
    let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), HistoryConfig::default()).await;
    daemon.outlet.bind(sandbox(1), workload(1)).await.unwrap();
    let (done, stop) = (CancellationToken::new(), CancellationToken::new());
    let producer = tokio::spawn({
        let (outlet, stop, done) = (daemon.outlet.clone(), stop.clone(), done.clone());
        async move {
            let (mut out, mut err, mut n) = (Program::new(1, Stdout), Program::new(1, Stderr), 0_u64);
            let mut longest = Duration::ZERO;
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            while !stop.is_cancelled() {
                tick.tick().await;
                let began = Instant::now();
                let text: String = (n..n + 5).map(|n| format!("out {n}\n")).collect();
                out.write(&outlet, text).await;
                let text: String = (n..n + 5).map(|n| format!("err {n}\n")).collect();
                err.write(&outlet, text).await;
                longest = longest.max(began.elapsed());
                n += 5;
            }
            done.cancel();
            (n, longest)
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.kill();
    tokio::time::sleep(away).await;
    server.restart().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Once more, at a moment when the publisher is catching up or has just done so.
    server.restart().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    let (lines, longest) = producer.await.unwrap();
    assert!(longest < Duration::from_secs(2), "the workload waited {longest:?}");
    daemon.outlet.unbind(&sandbox(1)).await.unwrap();
    assert!(daemon.publisher.drain(LONG).await, "it comes back by itself");
    let kept = history(&server, 1).await;
    assert_numbered(&kept, "out ", lines);
    assert_numbered(&kept, "err ", lines);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m06_no_line_is_lost_or_doubled_while_nats_is_away_2_15() {
    outage(Release::Current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m06_no_line_is_lost_or_doubled_while_nats_is_away_2_9() {
    outage(Release::Debian).await;
}

/// The daemon is killed again and again in the middle of its batches.
async fn replay(release: Release) {
    const LINES: u64 = 20_000;
    let Some(server) = NatsServer::start(release).await.unwrap() else { return };
    let dirs = Dirs::new();
    let text = |range: std::ops::Range<u64>| -> String { range.map(|n| format!("out {n}\n")).collect() };
    let mut out = Program::new(1, Stdout);
    let mut written = 0;
    for life in 0..8_u64 {
        let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), HistoryConfig::default()).await;
        if life == 0 {
            daemon.outlet.bind(sandbox(1), workload(1)).await.unwrap();
        }
        assert_eq!(daemon.outlet.position(&sandbox(1)).await.unwrap().stdout, out.offset);
        out.write(&daemon.outlet, text(written..written + LINES / 8)).await;
        written += LINES / 8;
        let log = daemon.outlet.log(&workload(1).id).await.unwrap().unwrap();
        // Killed when some, but not all, of what it wrote is confirmed.
        let before = log.published().stdout;
        let some = async {
            while log.published().stdout <= before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, some).await.unwrap();
        daemon.kill();
    }
    let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), HistoryConfig::default()).await;
    daemon.outlet.unbind(&sandbox(1)).await.unwrap();
    assert!(daemon.publisher.drain(LONG).await);
    assert_numbered(&history(&server, 1).await, "out ", LINES);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_goes_on_exactly_where_it_was_2_15() {
    replay(Release::Current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_goes_on_exactly_where_it_was_2_9() {
    replay(Release::Debian).await;
}

/// NATS is away for longer than the files hold: the oldest lines go, one line says how many bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_files_could_not_hold_is_said_in_one_line() {
    let Some(mut server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let dirs = Dirs::new();
    server.kill();
    let rotation = Rotation { files_max: 3, file_bytes_max: 10_000 };
    let daemon = Daemon::start(&dirs, &server.url(), rotation, HistoryConfig::default()).await;
    daemon.outlet.bind(sandbox(1), workload(1)).await.unwrap();
    let mut out = Program::new(1, Stdout);
    for n in 0..10_000 {
        out.write(&daemon.outlet, format!("out {n:05}\n")).await;
    }
    let begin = daemon.outlet.log(&workload(1).id).await.unwrap().unwrap().begin().stdout;
    server.restart().await.unwrap();
    daemon.outlet.unbind(&sandbox(1)).await.unwrap();
    assert!(daemon.publisher.drain(LONG).await);
    let kept = history(&server, 1).await;
    assert!(kept[0].text.contains(&format!("{begin} bytes of stdout are missing")), "{}", kept[0].text);
    assert_eq!(kept.len() as u64 - 1, (out.offset - begin) / 10);
    assert_eq!(kept.last().unwrap().text, "out 09999");
    daemon.stop().await;
}

/// Resident memory of this process that is not file-backed.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

/// Must hold 7: one workload floods, memory stays flat, and another's lines keep flowing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m07_a_flood_costs_no_memory_and_stops_nobody() {
    use futures::StreamExt;
    let total = std::env::var("MOAT_TEST_FLOOD_BYTES").ok().and_then(|t| t.parse().ok()).unwrap_or(64_u64 << 20);
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let dirs = Dirs::new();
    let history = HistoryConfig { logs_bytes_max: 64 << 20, ..HistoryConfig::default() };
    let daemon = Daemon::start(&dirs, &server.url(), Rotation { files_max: 3, file_bytes_max: 4 << 20 }, history).await;
    for n in [1, 2] {
        daemon.outlet.bind(sandbox(n), workload(n)).await.unwrap();
    }
    let mut quiet_lines = listen(&server, subject(2)).await;
    let mut quiet = Program::new(2, Stdout);
    quiet.write(&daemon.outlet, "tick 0\n").await;
    tokio::time::timeout(LONG, quiet_lines.next()).await.unwrap().unwrap();
    let before = anonymous_bytes();
    let flood = tokio::spawn({
        let outlet = daemon.outlet.clone();
        async move {
            let line = [&[b'x'; 119][..], b"\n"].concat();
            let chunk = Bytes::from(line.repeat(546));
            let mut out = Program::new(1, Stdout);
            while out.offset < total {
                out.write(&outlet, chunk.clone()).await;
            }
        }
    });
    let (mut ticks, mut slowest, mut highest) = (0_u32, Duration::ZERO, before);
    while !flood.is_finished() {
        ticks += 1;
        let began = Instant::now();
        quiet.write(&daemon.outlet, format!("tick {ticks}\n")).await;
        let heard = tokio::time::timeout(LONG, quiet_lines.next()).await.unwrap().unwrap();
        let line: LogLine = serde_json::from_slice(&heard.payload).unwrap();
        assert_eq!(line.text, format!("tick {ticks}"));
        slowest = slowest.max(began.elapsed());
        highest = highest.max(anonymous_bytes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    flood.await.unwrap();
    println!(
        "flood of {total} bytes: {ticks} other lines, slowest {slowest:?}, memory {} kB more",
        (highest - before) / 1024
    );
    assert!(ticks > 10, "the flood lasted long enough to tell");
    assert!(slowest < Duration::from_secs(2), "another workload waited {slowest:?}");
    assert!(highest - before < 24 << 20, "{} bytes more", highest - before);
    daemon.stop().await;
}

/// A server without JetStream: lines still flow, and a restart goes on from the cursor file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_history_lines_flow_and_the_cursor_is_kept_here() {
    use futures::StreamExt;
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let dirs = Dirs::new();
    let mut live = listen(&server, subject(1)).await;
    let plain = HistoryConfig { enabled: false, ..HistoryConfig::default() };
    let mut out = Program::new(1, Stdout);
    for life in 0..3 {
        let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), plain).await;
        if life == 0 {
            daemon.outlet.bind(sandbox(1), workload(1)).await.unwrap();
        }
        out.write(&daemon.outlet, format!("life {life}\n")).await;
        let message = tokio::time::timeout(LONG, live.next()).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&message.payload).contains(&format!("life {life}")));
        assert!(daemon.publisher.drain(LONG).await);
        daemon.stop().await;
    }
    assert!(list(&dirs.logs.join(workload(1).id.as_str())).contains(&".published".to_owned()));
}

fn list(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// A rough look at the rate, beside the same bytes published straight into the same history; nothing but completeness is
/// asserted. `cargo xtask bench` measures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_beside_a_bare_publish() {
    let lines = std::env::var("MOAT_TEST_RATE_LINES").ok().and_then(|t| t.parse().ok()).unwrap_or(3000_u64);
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let dirs = Dirs::new();
    let daemon = Daemon::start(&dirs, &server.url(), Rotation::default(), HistoryConfig::default()).await;
    let text: String = (0..lines).map(|n| format!("out {n:095}\n")).collect();
    let context = jetstream::new(server.client().await.unwrap());
    let client = server.client().await.unwrap();
    for round in 1..4_u8 {
        daemon.outlet.bind(sandbox(round), workload(round)).await.unwrap();
        let mut out = Program::new(round, Stdout);
        let began = Instant::now();
        for chunk in text.as_bytes().chunks(64 << 10) {
            out.write(&daemon.outlet, Bytes::copy_from_slice(chunk)).await;
        }
        assert!(daemon.publisher.drain(LONG).await);
        let ours = began.elapsed();

        let stream = context.get_stream("MOAT_LOGS").await.unwrap();
        let before = stream.get_info().await.unwrap().state.last_sequence;
        let payload =
            Bytes::from(format!(r#"{{"text":"{}","level":"INFO","id":"{}"}}"#, "x".repeat(99), workload(1).id));
        let began = Instant::now();
        for _ in 0..lines {
            client.publish(subject(9), payload.clone()).await.unwrap();
        }
        client.flush().await.unwrap();
        while stream.get_info().await.unwrap().state.last_sequence < before + lines {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let bare = began.elapsed();
        println!("round {round}: ours {ours:?}, bare {bare:?}, ratio {:.2}", bare.as_secs_f64() / ours.as_secs_f64());
    }
    daemon.stop().await;
}
