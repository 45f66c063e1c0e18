//! Agents that break the protocol in every way they can. None may cost more than its own session.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::{self, FORWARDS_MAX, Mode, Stream};
use moat_agent::protocol::stream::{FrameReader, write_frame, write_header};
use moat_agent::protocol::{GuestRequest, Hello, MainState, Offsets, PROTOCOL_VERSION, Reply, Request, StreamName};
use moat_model::file::{FileRequest, Transfer};
use moat_model::spec::{ExecSpec, Forward, Signal};
use moat_model::{ErrorKind, Exit, ProcessSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{AgentGuest, Endpoint};
use crate::guest::{Channel, ExecOutput, Guest};

const DEADLINE: Duration = Duration::from_secs(20);

/// A scripted agent. Each connection is served anew; they are counted.
#[derive(Debug, Default)]
struct Villain {
    connections: AtomicU32,
    hello_protocol: Option<u32>,
    /// Streams it opens on its own when asked to shut down, each asking for this port.
    port: u16,
}

#[async_trait]
impl Endpoint for Villain {
    async fn connect(&self) -> io::Result<Box<dyn Channel>> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let protocol = self.hello_protocol.unwrap_or(PROTOCOL_VERSION);
        let port = self.port;
        tokio::spawn(async move {
            let (opens, mut opens_rx) = mpsc::channel(16);
            let inbound = |stream| drop(tokio::spawn(misbehave(stream, protocol, port, opens.clone())));
            mux::drive(ours, Mode::Server, &mut opens_rx, inbound).await
        });
        Ok(Box::new(theirs))
    }

    async fn gone(&self) -> String {
        std::future::pending().await
    }
}

fn hello(protocol: u32) -> Reply {
    Reply::Hello(Hello {
        protocol,
        version: "0".to_owned(),
        capabilities: vec![],
        main: MainState::Idle,
        awaits_setup: false,
    })
}

async fn misbehave(mut stream: Stream, protocol: u32, port: u16, opens: mpsc::Sender<mux::OpenReply>) {
    let request: Request = FrameReader::<_, DaemonFrame>::new(&mut stream).header().await.unwrap();
    let data = |offset| AgentFrame::Data { stream: StreamName::Stdout, offset, bytes: Bytes::from("x") };
    match request {
        Request::Hello => write_header::<AgentFrame>(&mut stream, &hello(protocol)).await.unwrap(),
        // A reply that does not belong to the question.
        Request::Processes | Request::Leash { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Done).await.unwrap()
        }
        // A frame of four gigabytes.
        Request::Stats => stream.write_all(&[0xff, 0xff, 0xff, 0xff, 0x01]).await.unwrap(),
        // Nothing at all.
        Request::Start { .. } => {}
        // A refusal that goes on and on.
        Request::Signal { .. } => {
            let message = "é".repeat(500_000);
            write_header::<AgentFrame>(&mut stream, &Reply::Failed { kind: ErrorKind::Denied, message }).await.unwrap();
        }
        Request::Output { from } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Output).await.unwrap();
            write_frame(&mut stream, &data(from.stdout)).await.unwrap();
            // The same again, as if it had not been sent.
            write_frame(&mut stream, &data(from.stdout)).await.unwrap();
        }
        Request::Exec { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Started { pid: 1 }).await.unwrap();
            write_frame(&mut stream, &data(0)).await.unwrap();
            write_frame(&mut stream, &data(7)).await.unwrap();
        }
        // An answer to something else, a short success, and events that are none.
        Request::File { .. } => write_header::<AgentFrame>(&mut stream, &Reply::Content).await.unwrap(),
        Request::Pull { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Content).await.unwrap();
            write_frame(&mut stream, &AgentFrame::Content(Bytes::from("half"))).await.unwrap();
            write_frame(&mut stream, &AgentFrame::Done { bytes: 8, entries: 1 }).await.unwrap();
        }
        Request::Push { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Content).await.unwrap();
            write_frame(&mut stream, &AgentFrame::Done { bytes: 0, entries: 0 }).await.unwrap();
        }
        Request::Watch { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Watching).await.unwrap();
            write_frame(&mut stream, &data(0)).await.unwrap();
        }
        Request::Spawn { .. } | Request::Spawned | Request::Attach { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Watching).await.unwrap();
        }
        // More than it says.
        Request::Connect { port: 1 } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Connected).await.unwrap();
            write_frame(&mut stream, &AgentFrame::Content(Bytes::from("half"))).await.unwrap();
            write_frame(&mut stream, &AgentFrame::Done { bytes: 8, entries: 0 }).await.unwrap();
        }
        // Something that is no content.
        Request::Connect { port: 2 } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Connected).await.unwrap();
            write_frame(&mut stream, &data(0)).await.unwrap();
        }
        // A connection that is cut.
        Request::Connect { .. } => {
            write_header::<AgentFrame>(&mut stream, &Reply::Connected).await.unwrap();
            return write_frame(&mut stream, &AgentFrame::Content(Bytes::from("half"))).await.unwrap();
        }
        // A renewal without its proof, and the like.
        Request::Setup { .. } | Request::Quiesce | Request::Renew { .. } | Request::Proceed | Request::Changes => {
            write_header::<AgentFrame>(&mut stream, &Reply::Watching).await.unwrap();
        }
        Request::Wait => write_header::<AgentFrame>(&mut stream, &Reply::Exited(Exit::code(3))).await.unwrap(),
        Request::Shutdown => {
            let answers = ask_for_forwards(port, &opens).await;
            write_header::<AgentFrame>(&mut stream, &Reply::Failed { kind: ErrorKind::Guest, message: answers })
                .await
                .unwrap();
        }
    }
    // Held until the daemon has had enough.
    let _ = stream.read(&mut [0; 1]).await;
}

/// Opens more streams than it may, and tells what came of them.
async fn ask_for_forwards(port: u16, opens: &mpsc::Sender<mux::OpenReply>) -> String {
    let (mut connected, mut refused) = (0, 0);
    let mut held = Vec::new();
    for _ in 0..FORWARDS_MAX + 10 {
        let (reply, stream) = tokio::sync::oneshot::channel();
        opens.send(reply).await.unwrap();
        let mut stream = stream.await.unwrap();
        let _ = write_header::<AgentFrame>(&mut stream, &GuestRequest::Forward { port }).await;
        match stream.read_u8().await {
            Ok(1) => {
                connected += 1;
                held.push(stream);
            }
            Ok(_) | Err(_) => refused += 1,
        }
    }
    format!("{connected} connected, {refused} refused")
}

fn spec() -> ProcessSpec {
    ProcessSpec { command: "x".to_owned(), args: vec![], env: [].into(), cwd: None, user: None }
}

async fn guest(villain: Villain, forwards: Vec<Forward>) -> (Arc<Villain>, Arc<AgentGuest>) {
    let villain = Arc::new(villain);
    let guest = AgentGuest::connect(villain.clone(), forwards).await.unwrap();
    (villain, guest)
}

#[tokio::test]
async fn protocol_errors_end_the_session_and_nothing_else() {
    let (villain, guest) = guest(Villain::default(), vec![]).await;
    let again = async |sessions: u32| {
        timeout(DEADLINE, guest.hello()).await.unwrap().unwrap();
        assert_eq!(villain.connections.load(Ordering::SeqCst), sessions);
    };
    again(1).await;

    assert_eq!(guest.processes().await.unwrap_err().kind, ErrorKind::Internal);
    again(2).await;

    assert_eq!(guest.stats().await.unwrap_err().kind, ErrorKind::Internal);
    again(3).await;

    let mut output = guest.output(Offsets { stdout: 5, stderr: 0 }).await.unwrap();
    assert_eq!(output.next().await.unwrap().unwrap().offset, 5);
    assert_eq!(output.next().await.unwrap_err().kind, ErrorKind::Internal, "the same offset twice");
    again(4).await;

    let exec = ExecSpec { process: spec(), pty: None, stdin: true, timeout: None };
    let mut session = guest.exec(&exec).await.unwrap();
    assert!(matches!(session.output.recv().await, Some(ExecOutput::Data(StreamName::Stdout, _))));
    assert_eq!(timeout(DEADLINE, session.output.recv()).await.unwrap(), None, "no exit is made up");
    again(5).await;

    let error = guest.signal_main(Signal::TERM).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().len() < 2000, "{} bytes of message", error.chain().len());
    again(5).await;

    assert_eq!(timeout(DEADLINE, guest.wait_main()).await.unwrap().unwrap(), Exit::code(3));
}

#[tokio::test]
async fn files_from_an_agent_that_lies() {
    let (villain, guest) = guest(Villain::default(), vec![]).await;
    let again = async |sessions: u32| {
        timeout(DEADLINE, guest.hello()).await.unwrap().unwrap();
        assert_eq!(villain.connections.load(Ordering::SeqCst), sessions);
    };
    let path = "/x".to_owned();
    let stat = FileRequest::Stat { path: path.clone() };
    assert_eq!(guest.file(None, &stat).await.unwrap_err().kind, ErrorKind::Internal);
    again(2).await;

    let read = Transfer::Read { path: path.clone(), offset: 0, length: None };
    let mut pieces = guest.pull(None, &read).await.unwrap();
    assert_eq!(pieces.recv().await.unwrap().unwrap(), Bytes::from("half"));
    assert_eq!(pieces.recv().await.unwrap().unwrap_err().kind, ErrorKind::Internal, "more was promised");
    again(3).await;

    let mut sink = guest.push(None, &Transfer::Write { path: path.clone(), mode: None }).await.unwrap();
    let pushed = async {
        loop {
            sink.send(Bytes::from("x")).await?;
        }
    };
    let error: crate::error::Error = match timeout(DEADLINE, pushed).await.unwrap() {
        Err(error) => error,
        Ok(()) => unreachable!(),
    };
    assert_eq!(error.kind, ErrorKind::Internal, "done before it was finished");
    again(4).await;

    let mut events = guest.watch(None, &path, true).await.unwrap();
    assert_eq!(timeout(DEADLINE, events.recv()).await.unwrap(), None);
    again(5).await;
}

#[tokio::test]
async fn connections_of_an_agent_that_lies() {
    let (villain, guest) = guest(Villain::default(), vec![]).await;
    for (port, sessions, what) in
        [(1, 2, io::ErrorKind::InvalidData), (2, 3, io::ErrorKind::InvalidData), (3, 3, io::ErrorKind::ConnectionReset)]
    {
        let mut channel = guest.connect_port(port).await.unwrap();
        let mut read = Vec::new();
        let error = timeout(DEADLINE, channel.read_to_end(&mut read)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), what, "port {port}: {error}");
        assert_eq!(read, if port == 2 { "" } else { "half" }.as_bytes());
        timeout(DEADLINE, guest.hello()).await.unwrap().unwrap();
        assert_eq!(villain.connections.load(Ordering::SeqCst), sessions, "port {port}");
    }
}

#[tokio::test]
async fn another_version_is_refused() {
    let villain = Arc::new(Villain { hello_protocol: Some(PROTOCOL_VERSION + 1), ..Villain::default() });
    let error = AgentGuest::connect(villain, vec![]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[tokio::test]
async fn an_agent_reaches_configured_targets_only_and_not_too_many() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    let forwards = || vec![Forward { listen_port: 4222, target: target.clone() }];
    let answers = async |port| {
        let (_, guest) = guest(Villain { port, ..Villain::default() }, forwards()).await;
        let error = timeout(DEADLINE, guest.shutdown()).await.unwrap().unwrap_err();
        timeout(DEADLINE, guest.hello()).await.unwrap().unwrap();
        error.chain()
    };
    assert!(answers(4222).await.contains(&format!("{FORWARDS_MAX} connected, 10 refused")));
    assert!(answers(22).await.contains(&format!("0 connected, {} refused", FORWARDS_MAX + 10)));
}
