//! The client against a real nats-server, with a node made of a few lines on the other side.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures::StreamExt;
use moat_api::WireError;
use moat_api::client::{Client, Deploy, Exec, ExecOutput, Options, Placement, Timeouts};
use moat_api::nex::envelope::{ReplyType, encode, encode_error};
use moat_api::nex::{AuctionRequest, DeployRequest, Extension, Location, StopRequest};
use moat_api::sandbox::{ExecResponse, InspectRequest, SandboxRequest};
use moat_api::stream::frame::{ExecExit, headers, read_headers};
use moat_api::stream::{CHUNK_LEN_MAX, InFrame, OutFrame, ReceiveCredit, SendCredit, Sequence, StreamId};
use moat_api::subjects::Subjects;
use moat_model::claims::decode_and_verify;
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, Exit, NodeId, ProcessSpec, Timestamp, WorkloadId, WorkloadName, seal};
use moat_testkit::{NatsServer, Release};
use nkeys::{KeyPair, XKey};
use serde_json::json;

const WORKLOAD: &str = "cq1v8k3q7d2c73f0a9g0";

fn node_id() -> NodeId {
    NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap()
}

fn name() -> WorkloadName {
    WorkloadName::parse("web").unwrap()
}

async fn client(server: &NatsServer) -> Client {
    let timeouts = Timeouts { deploy: Duration::from_secs(5), ..Timeouts::default() };
    Client::new(server.client().await.unwrap(), Options { timeouts, ..Options::default() })
}

fn ping() -> serde_json::Value {
    json!({"node_id": node_id(), "version": "0.2.7", "uptime": "1s", "target_xkey": "", "running_machines": 1})
}

/// Returns when the server has read everything sent before on this connection.
async fn barrier(nats: &async_nats::Client) {
    let inbox = nats.new_inbox();
    let mut echo = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish(inbox, Bytes::new()).await.unwrap();
    echo.next().await.unwrap();
}

/// Answers every message on `subject`.
async fn serve(server: &NatsServer, subject: String, answer: impl Fn(&Message) -> Option<Vec<u8>> + Send + 'static) {
    let nats = server.client().await.unwrap();
    let mut messages = nats.subscribe(subject).await.unwrap();
    barrier(&nats).await;
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            if let (Some(bytes), Some(reply)) = (answer(&message), message.reply) {
                nats.publish(reply, bytes.into()).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn nobody_there_is_known_at_once() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let client = client(&server).await;
    let before = std::time::Instant::now();
    assert!(client.ping().await.unwrap().is_empty());
    assert!(client.auction(&AuctionRequest::default()).await.unwrap().is_empty());
    assert!(client.wping(None).await.unwrap().is_empty());
    assert_eq!(client.info(&node_id()).await.unwrap_err().kind, ErrorKind::Unavailable);
    let placed = client.place(&Placement::Auction(AuctionRequest::default())).await;
    assert_eq!(placed.unwrap_err().kind, ErrorKind::Exhausted);
    assert!(before.elapsed() < Duration::from_secs(2), "no timeout was waited out: {:?}", before.elapsed());
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_a_deadline() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let client = client(&server).await;
    serve(&server, Subjects::default().info_any(&node_id()), |_| None).await;
    let silent = client.info(&node_id()).await.unwrap_err();
    assert_eq!(silent.kind, ErrorKind::Deadline, "{}", silent.chain());
}

#[tokio::test]
async fn a_deploy_is_sealed_and_signed_for_its_node() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let (client, subjects) = (client(&server).await, Subjects::default());
    let (issuer, sender, node_xkey) = (KeyPair::new_account(), XKey::new(), XKey::new());
    let public = node_xkey.public_key();
    serve(&server, subjects.info_any(&node_id()), move |_| {
        Some(encode(ReplyType::Info, &json!({"public_xkey": public, "machines": null})))
    })
    .await;
    let (seen_tx, mut seen) = tokio::sync::mpsc::channel(8);
    serve(&server, subjects.deploy_any(&node_id()), move |message| {
        let request = DeployRequest::decode(&message.payload).unwrap();
        seen_tx.try_send(request).unwrap();
        Some(encode(ReplyType::Run, &json!({"started": true, "id": WORKLOAD, "issuer": "A", "name": "web"})))
    })
    .await;
    let (stop_tx, mut stops) = tokio::sync::mpsc::channel(8);
    serve(&server, subjects.stop_any(&node_id()), move |message| {
        stop_tx.try_send(serde_json::from_slice::<StopRequest>(&message.payload).unwrap()).unwrap();
        Some(encode_error(ReplyType::Stop, &WireError::new(ErrorKind::NotFound, "No such workload")))
    })
    .await;

    let mut deploy = Deploy {
        name: name(),
        location: Location::parse("nats://B/web").unwrap(),
        workload_type: "native".to_owned(),
        argv: vec!["-x".to_owned()],
        environment: BTreeMap::from([("A".to_owned(), "secret".to_owned())]),
        description: String::new(),
        essential: true,
        sha256: Some("ab".repeat(32)),
        extension: None,
    };
    let deployed = client.deploy(&node_id(), &deploy, &issuer, &sender).await.unwrap();
    assert_eq!(deployed.id, WORKLOAD);
    let request = seen.recv().await.unwrap();
    let opened = seal::open(&request.environment, &node_xkey, &request.sender_public_key).unwrap();
    assert_eq!(opened, deploy.environment);
    let far = Timestamp::from_millis(4_000_000_000_000);
    let start = decode_and_verify(&request.workload_jwt, far).unwrap();
    assert_eq!((start.subject, start.issuer), (name(), issuer.public_key()));
    assert_eq!(start.hash, deploy.sha256);

    let refused = client.stop(&node_id(), WORKLOAD, &name(), &issuer).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
    let stop = decode_and_verify(&stops.recv().await.unwrap().workload_jwt, far).unwrap();
    assert_ne!((stop.issued_at, stop.id), (start.issued_at, start.id), "a stop must not look like its start");

    deploy.extension = Some(Extension { nats: true, ..Extension::default() });
    let ignored = client.deploy(&node_id(), &deploy, &issuer, &sender).await.unwrap_err();
    assert_eq!(ignored.kind, ErrorKind::Unsupported, "a node that knows nothing of limits is not asked to keep them");
}

#[tokio::test]
async fn workloads_are_listed_from_nodes_of_both_kinds() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let (client, subjects) = (client(&server).await, Subjects::default());
    serve(&server, subjects.ping(), |_| Some(encode(ReplyType::Ping, &ping()))).await;
    serve(&server, subjects.ping(), |_| Some(b"nonsense".to_vec())).await;
    serve(&server, subjects.wping_any(), |_| {
        let mut found = ping();
        found["running_machines"] = json!([{"id": "opaque", "namespace": "default", "name": "web", "type": "native"}]);
        Some(encode(ReplyType::Ping, &found))
    })
    .await;
    let directory = client.list(&InspectRequest::default()).await.unwrap();
    assert_eq!(directory.workloads.len(), 1);
    assert_eq!(directory.workloads[0].view, None);
    assert_eq!(client.find("web").await.unwrap().id, "opaque");
    assert_eq!(client.find("db").await.unwrap_err().kind, ErrorKind::NotFound);
}

async fn upload(release: Release) {
    let Some(server) = NatsServer::start(release).await.unwrap() else { return };
    let client = client(&server).await;
    let program: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let location = Location::parse("nats://FILES/dir/app").unwrap();
    let mut told = Vec::new();
    for _ in 0..2 {
        let uploaded =
            client.upload(&location, &mut &program[..], 10 << 20, &mut |sent| told.push(sent)).await.unwrap();
        assert_eq!(uploaded.bytes, 3_000_000);
        assert_eq!(uploaded.sha256, hex(&program));
    }
    assert_eq!(told.iter().filter(|sent| **sent == 3_000_000).count(), 2, "progress ends at the end");
    let store = async_nats::jetstream::new(server.client().await.unwrap()).get_object_store("FILES").await.unwrap();
    let mut object = store.get("dir/app").await.unwrap();
    let mut read = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut object, &mut read).await.unwrap();
    assert!(read == program);

    let big = vec![7_u8; 12 << 20];
    let full = client.upload(&Location::parse("nats://FILES/big").unwrap(), &mut &big[..], 1, &mut |_| ()).await;
    assert_eq!(full.unwrap_err().kind, ErrorKind::Exhausted);
}

fn hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}

#[tokio::test]
async fn programs_are_uploaded() {
    upload(Release::Current).await;
}

#[tokio::test]
async fn programs_are_uploaded_to_an_old_server() {
    upload(Release::Debian).await;
}

/// How the process of [`exec_node`] behaves.
#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    /// Writes back what it reads, ends at the end of it.
    Echo,
    /// Says something, and one frame gets lost.
    Lossy,
}

/// A node with one process, on the frames of a stream.
async fn exec_node(server: &NatsServer, behaviour: Behaviour) -> tokio::sync::mpsc::Receiver<&'static str> {
    let nats = server.client().await.unwrap();
    let subjects = Subjects::default();
    let mut requests = nats.subscribe(subjects.sandbox_any(&node_id())).await.unwrap();
    barrier(&nats).await;
    let (ended, end) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let request = requests.next().await.unwrap();
        let SandboxRequest::Exec(exec) = SandboxRequest::decode(&request.payload).unwrap() else { panic!("no exec") };
        decode_and_verify(&exec.claims, Timestamp::from_millis(0)).unwrap();
        let mut frames = nats.subscribe(subjects.stream_in(&exec.stream)).await.unwrap();
        nats.flush().await.unwrap();
        let reply = encode(ReplyType::Sandbox, &ExecResponse { pid: 7, stream: exec.stream.clone() });
        nats.publish(request.reply.unwrap(), reply.into()).await.unwrap();
        let how = match behaviour {
            Behaviour::Echo => echo(&nats, &subjects, &exec.stream, &mut frames).await,
            Behaviour::Lossy => {
                let mut sent = Sequence::default();
                let out = subjects.stream_out(&exec.stream);
                for number in 0..3 {
                    let (kind, payload) = OutFrame::Stdout(Bytes::from_static(b"x")).encode();
                    let headers = headers(kind, sent.next());
                    if number != 1 {
                        nats.publish_with_headers(out.clone(), headers, payload).await.unwrap();
                    }
                }
                until_hangup(&mut frames).await
            }
        };
        ended.send(how).await.unwrap();
    });
    end
}

async fn until_hangup(frames: &mut async_nats::Subscriber) -> &'static str {
    while let Some(message) = frames.next().await {
        let (kind, _) = read_headers(message.headers.as_ref()).unwrap();
        if kind == "hangup" {
            return "hangup";
        }
    }
    "closed"
}

async fn echo(
    nats: &async_nats::Client,
    subjects: &Subjects,
    stream: &StreamId,
    frames: &mut async_nats::Subscriber,
) -> &'static str {
    let out = subjects.stream_out(stream);
    let (mut sent, mut seen) = (Sequence::default(), Sequence::default());
    let (mut credit, mut window) = (SendCredit::default(), ReceiveCredit::default());
    let mut queue = std::collections::VecDeque::new();
    let mut eof = false;
    let mut send = async |frame: OutFrame| {
        let (kind, payload) = frame.encode();
        nats.publish_with_headers(out.clone(), headers(kind, sent.next()), payload).await.unwrap();
    };
    loop {
        while let Some(mut bytes) = queue.pop_front() {
            let bytes: &mut Bytes = &mut bytes;
            let taken = credit.take(bytes.len().min(CHUNK_LEN_MAX));
            if taken == 0 {
                queue.push_front(bytes.clone());
                break;
            }
            send(OutFrame::Stdout(bytes.split_to(taken))).await;
            if !bytes.is_empty() {
                queue.push_front(bytes.clone());
            }
            if let Some(grant) = window.consumed(taken) {
                send(OutFrame::Credit(grant)).await;
            }
        }
        if eof && queue.is_empty() {
            send(OutFrame::Exit(ExecExit { exit: Exit::code(3), timed_out: false })).await;
            return until_hangup(frames).await;
        }
        let Some(message) = frames.next().await else { return "closed" };
        let (kind, number) = read_headers(message.headers.as_ref()).unwrap();
        seen.arrived(number).unwrap();
        match InFrame::decode(kind, message.payload.clone()).unwrap() {
            InFrame::Stdin(bytes) => {
                window.received(bytes.len()).unwrap();
                queue.push_back(bytes);
            }
            InFrame::Eof => eof = true,
            InFrame::Credit(bytes) => credit.grant(bytes),
            InFrame::Hangup => return "hangup",
            InFrame::Ping | InFrame::Resize(_) | InFrame::Signal(_) => {}
        }
    }
}

async fn start_exec(client: &Client) -> moat_api::client::ExecSession {
    let (issuer, workload) = (KeyPair::new_account(), WorkloadId::parse(WORKLOAD).unwrap());
    let process =
        ProcessSpec { command: "cat".to_owned(), args: Vec::new(), env: BTreeMap::new(), cwd: None, user: None };
    let spec = ExecSpec { process, pty: None, stdin: true, timeout: None };
    client.exec(Exec { node: &node_id(), workload: &workload, name: &name(), issuer: &issuer, spec }).await.unwrap()
}

/// Far more than the window, both ways at once, with a reader that lags.
#[tokio::test]
async fn an_exec_carries_any_amount_both_ways() {
    const TOTAL: usize = 8 << 20;
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut end = exec_node(&server, Behaviour::Echo).await;
    let mut session = start_exec(&client(&server).await).await;
    assert_eq!(session.pid, 7);
    let stdin = session.stdin.clone();
    drop(std::mem::replace(&mut session.stdin, tokio::sync::mpsc::channel(1).0));
    tokio::spawn(async move {
        for piece in 0..TOTAL / 1000 + 1 {
            let bytes = vec![(piece % 251) as u8; 1000.min(TOTAL - piece * 1000)];
            stdin.send(bytes.into()).await.unwrap();
        }
    });
    let mut received = 0;
    let exit = loop {
        match session.output.recv().await.expect("an exit comes last").unwrap() {
            ExecOutput::Stdout(bytes) => {
                for byte in &bytes {
                    assert_eq!(*byte, (received / 1000 % 251) as u8, "at {received}");
                    received += 1;
                }
            }
            ExecOutput::Stderr(_) => panic!("nothing was written there"),
            ExecOutput::Exited(exit) => break exit,
        }
    };
    assert_eq!((received, exit.exit.code), (TOTAL, 3));
    assert!(session.output.recv().await.is_none());
    assert_eq!(end.recv().await, Some("hangup"));
}

#[tokio::test]
async fn an_exec_that_is_dropped_is_hung_up() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut end = exec_node(&server, Behaviour::Echo).await;
    let session = start_exec(&client(&server).await).await;
    drop(session);
    assert_eq!(end.recv().await, Some("hangup"));
}

#[tokio::test]
async fn a_lost_frame_ends_an_exec() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut end = exec_node(&server, Behaviour::Lossy).await;
    let mut session = start_exec(&client(&server).await).await;
    assert_eq!(session.output.recv().await.unwrap().unwrap(), ExecOutput::Stdout(Bytes::from_static(b"x")));
    let lost = session.output.recv().await.unwrap().unwrap_err();
    assert_eq!(lost.kind, ErrorKind::Unavailable);
    assert!(lost.chain().contains("lost"), "{}", lost.chain());
    assert_eq!(end.recv().await, Some("hangup"));
}
