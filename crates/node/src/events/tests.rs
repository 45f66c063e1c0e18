//! The outbox: kept, ordered, told once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use moat_api::nex::event::CloudEvent;
use moat_model::{NodeId, Timestamp};
use moat_testkit::{NatsServer, Release};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::jetstream::HistoryConfig;

const LONG: Duration = Duration::from_secs(30);

fn node() -> NodeId {
    NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap()
}

fn fact(n: i64) -> Fact {
    Fact::node_started(&node(), "0.1.0", BTreeMap::new(), Timestamp::from_millis(n))
}

fn heartbeat() -> Fact {
    Fact::heartbeat(
        &node(),
        "0.1.0",
        None,
        (Timestamp::from_millis(0), Timestamp::from_millis(9000)),
        BTreeMap::new(),
        2,
    )
}

async fn open(dir: &Path) -> Outbox {
    Outbox::open(dir, Subjects::default()).await.unwrap()
}

#[tokio::test]
async fn facts_are_kept_in_order_and_once_and_heartbeats_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path()).await;
    for n in [1, 2, 1, 3, 2] {
        outbox.emit(fact(n)).await.unwrap();
    }
    outbox.emit(heartbeat()).await.unwrap();
    assert_eq!(outbox.depth(), 3);
    drop(outbox);
    let outbox = open(dir.path()).await;
    assert_eq!(outbox.depth(), 3);
    outbox.emit(fact(3)).await.unwrap();
    assert_eq!(outbox.depth(), 3, "what waits is recognised after a restart");
    assert!(!outbox.flush(Duration::from_millis(10)).await, "nobody tells them");
}

#[test]
fn a_full_spool_loses_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 2).unwrap();
    for n in 0..3 {
        spool.push(Spooled { subject: "s".to_owned(), id: format!("{n}"), body: b"{}".to_vec() }).unwrap();
    }
    let (number, oldest) = spool.oldest().unwrap();
    assert_eq!((spool.len(), oldest.id.as_str()), (2, "1"));
    spool.remove(number).unwrap();
    assert_eq!(spool.oldest().unwrap().1.id, "2");
}

/// The server is away while facts come, and the daemon is restarted: each is in the history once, in order.
async fn told_once(release: Release) {
    let Some(mut server) = NatsServer::start(release).await.unwrap() else { return };
    let dir = tempfile::tempdir().unwrap();
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(server.url()).await.unwrap();
    server.kill();
    let outbox = open(dir.path()).await;
    for n in 0..50 {
        outbox.emit(fact(n)).await.unwrap();
    }
    let first = CancellationToken::new();
    let sender = tokio::spawn(run(outbox.clone(), client.clone(), HistoryConfig::default(), first.clone()));
    server.restart().await.unwrap();
    assert!(outbox.flush(LONG).await);
    first.cancel();
    sender.await.unwrap();
    // The daemon died before it could remove them: it tells everything again.
    drop(outbox);
    let outbox = open(dir.path()).await;
    for n in 0..60 {
        outbox.emit(fact(n)).await.unwrap();
    }
    let second = CancellationToken::new();
    let sender = tokio::spawn(run(outbox.clone(), client.clone(), HistoryConfig::default(), second.clone()));
    assert!(outbox.flush(LONG).await);
    second.cancel();
    sender.await.unwrap();

    let stream = async_nats::jetstream::new(client).get_stream("MOAT_EVENTS").await.unwrap();
    let state = stream.get_info().await.unwrap().state;
    assert_eq!(state.messages, 60);
    let mut last = String::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let event: CloudEvent = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(message.subject.as_str(), "$NEX.events.system.node_started");
        let time = event.time.unwrap();
        let padded =
            if time.len() == 20 { time.replace('Z', ".000Z") } else { format!("{:0<23}Z", time.trim_end_matches('Z')) };
        assert!(padded > last, "{padded} after {last}");
        last = padded;
    }
}

#[tokio::test]
async fn facts_are_told_once_2_15() {
    told_once(Release::Current).await;
}

#[tokio::test]
async fn facts_are_told_once_2_9() {
    told_once(Release::Debian).await;
}

#[tokio::test]
async fn heartbeats_pass_without_a_trace_on_disk() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path()).await;
    let client = server.client().await.unwrap();
    let mut heard = client.subscribe("$NEX.events.system.heartbeat").await.unwrap();
    client.flush().await.unwrap();
    let cancel = CancellationToken::new();
    let sender = tokio::spawn(run(
        outbox.clone(),
        client,
        HistoryConfig { enabled: false, ..HistoryConfig::default() },
        cancel.clone(),
    ));
    outbox.emit(heartbeat()).await.unwrap();
    let message = tokio::time::timeout(LONG, heard.next()).await.unwrap().unwrap();
    let event: CloudEvent = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(event.data["uptime"], "9s");
    cancel.cancel();
    sender.await.unwrap();
}
