//! What a hostile or merely odd asker does to it.

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use moat_model::network::NetworkMode;
use tokio::io::AsyncWriteExt;

use super::super::Resolver;
use super::super::upstream::Patience;
use super::PUBLIC;
use super::outside::Outside;
use super::stage::{self, Stage, addresses, attached};

#[tokio::test]
async fn one_sandbox_that_waits_does_not_keep_another_waiting() {
    let outside = Outside::holding(&[PUBLIC]).await;
    let greedy = attached(1, "red", None, NetworkMode::Internet);
    let other = attached(2, "red", Some("web"), NetworkMode::Internet);
    let stage = Stage::with(&[&greedy, &other], &[outside.address()]).await;
    let socket = stage.socket(greedy.lease.address).await;
    for n in 0..64 {
        socket.send(&stage::question(&format!("n{n}.test."), RecordType::A)).await.unwrap();
    }
    outside.wait_for(64).await;
    // Its places are taken: more is refused at once, over either protocol, and what needs nobody is answered still.
    let refused = stage.ask(&greedy, "one-more.test.", RecordType::A).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let refused = stage.ask_tcp(&greedy, "one-more.test.", RecordType::A).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&stage.ask(&greedy, "web.", RecordType::A).await), [other.lease.address]);
    // The other one's question goes out while those still wait.
    let theirs = stage.socket(other.lease.address).await;
    theirs.send(&stage::question("theirs.test.", RecordType::A)).await.unwrap();
    outside.wait_for(65).await;
    outside.release();
    assert_eq!(addresses(&stage::receive(&theirs).await), [PUBLIC]);
    assert_eq!(addresses(&stage::receive(&socket).await), [PUBLIC]);
}

#[tokio::test]
async fn both_families_are_asked_on_one_socket() {
    let outside = Outside::answering(&[PUBLIC]).await;
    let asker = attached(1, "red", None, NetworkMode::Internet);
    let stage = Stage::with(&[&asker], &[outside.address()]).await;
    let socket = stage.socket(asker.lease.address).await;
    for kind in [RecordType::A, RecordType::AAAA] {
        socket.send(&stage::question("good.test.", kind)).await.unwrap();
    }
    let both = [stage::receive(&socket).await, stage::receive(&socket).await];
    for answer in both {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        let expected = if answer.queries[0].query_type == RecordType::A { vec![PUBLIC] } else { vec![] };
        assert_eq!(addresses(&answer), expected);
    }
    // Go asks the same over one connection if it is told to; both come back in order.
    let first = stage.ask_tcp(&asker, "good.test.", RecordType::A).await;
    assert_eq!(addresses(&first), [PUBLIC]);
}

/// Bytes that look random and are the same in every run.
fn noise(seed: &mut u64) -> Vec<u8> {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    };
    let length = usize::try_from(next() % 300).unwrap();
    (0..length).map(|_| next().to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn garbage_is_survived_over_udp_and_tcp() {
    let asker = attached(1, "red", Some("web"), NetworkMode::Internet);
    let stage = Stage::new(&[&asker]).await;
    let (mut seed, good) = (0x9e37_79b9_7f4a_7c15, stage::question("web.", RecordType::A));
    let mut all: Vec<Vec<u8>> = (0..500).map(|_| noise(&mut seed)).collect();
    all.extend((0..good.len()).map(|end| good[..end].to_vec()));
    all.extend((0..good.len()).map(|at| {
        let mut changed = good.clone();
        changed[at] ^= 0xff;
        changed
    }));
    // A few at a time, for the kernel keeps no more for a socket that is not read.
    for some in all.chunks(50) {
        for bytes in some {
            let socket = stage.socket(asker.lease.address).await;
            socket.send(bytes).await.unwrap();
        }
        assert_eq!(addresses(&stage.ask(&asker, "web.", RecordType::A).await), [asker.lease.address]);
    }
    for bytes in all.iter().step_by(10) {
        stage.connect_from(asker.lease.address, bytes).await;
    }
    assert_eq!(addresses(&stage.ask_tcp(&asker, "web.", RecordType::A).await), [asker.lease.address]);
}

#[tokio::test]
async fn connections_of_one_sandbox_are_counted() {
    let asker = attached(1, "red", Some("web"), NetworkMode::Internal);
    let other = attached(2, "red", None, NetworkMode::Internal);
    let stage = Stage::new(&[&asker, &other]).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(stage.connect(asker.lease.address).await);
    }
    assert!(stage.connect_from(asker.lease.address, b"").await.is_empty(), "the ninth is closed");
    assert_eq!(addresses(&stage.ask_tcp(&other, "web.", RecordType::A).await), [asker.lease.address]);
    // Half a question is no answer, and what follows it on another connection is not kept waiting.
    held[0].write_all(&[0, 40, 1]).await.unwrap();
    assert_eq!(addresses(&stage.ask_tcp(&other, "web.", RecordType::A).await), [asker.lease.address]);
}

#[tokio::test]
async fn it_starts_again_at_the_same_address_with_connections_left_behind() {
    let asker = attached(1, "red", Some("web"), NetworkMode::Internal);
    let stage = Stage::new(&[&asker]).await;
    stage.ask_tcp(&asker, "web.", RecordType::A).await;
    let held = stage.connect(asker.lease.address).await;
    let at = stage.resolver.address();
    let second = Resolver::start_at(at, Patience::default(), &stage.config, stage.table(), stage.pinner());
    let refused = second.unwrap_err().chain();
    assert!(refused.contains("network.gateway"), "two at one address: {refused}");
    let stage = stage.restarted(at).await;
    drop(held);
    assert_eq!(addresses(&stage.ask(&asker, "web.", RecordType::A).await), [asker.lease.address]);
}

#[tokio::test]
async fn it_listens_at_an_address_that_is_not_there_yet() {
    let asker = attached(1, "red", None, NetworkMode::Internal);
    let stage = Stage::new(&[&asker]).await;
    let at = (Ipv4Addr::new(169, 254, 77, 77), 0).into();
    let early = Resolver::start_at(at, Patience::default(), &stage.config, stage.table(), stage.pinner());
    assert_eq!(early.unwrap().address().ip(), at.ip());
}
