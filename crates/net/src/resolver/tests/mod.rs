//! The resolver over real sockets: askers are addresses of the loopback link, the outside is a server of the test's own.

mod outside;
mod stage;
mod strain;

use std::net::Ipv4Addr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use moat_model::network::{Action, Destination, Domain, EgressPolicy, EgressRule, NetworkMode, PortRange, Reason};

use super::testing::label;
use super::*;
use outside::Outside;
use stage::{Stage, addresses, attached};
use std::time::Duration;

const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

fn allow(name: &str) -> EgressRule {
    rule(Action::Allow, Destination::Domain(Domain::parse(name).unwrap()))
}

fn rule(action: Action, to: Destination) -> EgressRule {
    EgressRule { action, to, ports: Vec::new(), protocol: None }
}

fn closed_but(rules: Vec<EgressRule>) -> EgressPolicy {
    EgressPolicy { default: Action::Deny, rules }
}

#[tokio::test]
async fn names_are_answered_within_the_namespace_over_udp_and_tcp() {
    let (web, blue) =
        (attached(1, "red", Some("web"), NetworkMode::Internal), attached(2, "blue", None, NetworkMode::Internal));
    let db = label(attached(3, "red", None, NetworkMode::Internal), "tier", "db");
    let db2 = label(attached(4, "red", None, NetworkMode::Internal), "tier", "db");
    let stage = Stage::new(&[&web, &blue, &db, &db2]).await;
    let id = format!("{}.moat.internal.", db.attachment.id);
    for (name, from, found) in [
        ("Web.Moat.Internal.", &db, vec![&web]),
        ("web.", &db, vec![&web]),
        ("web.", &blue, vec![]),
        (id.as_str(), &web, vec![&db]),
        (id.as_str(), &blue, vec![]),
        ("db.tier.label.moat.internal.", &web, vec![&db, &db2]),
        ("nobody.moat.internal.", &web, vec![]),
    ] {
        let expected: Vec<_> = found.iter().map(|one| one.lease.address).collect();
        let code = if found.is_empty() { ResponseCode::NXDomain } else { ResponseCode::NoError };
        for answer in [stage.ask(from, name, RecordType::A).await, stage.ask_tcp(from, name, RecordType::A).await] {
            let mut got = addresses(&answer);
            got.sort();
            assert_eq!((answer.metadata.response_code, got), (code, expected.clone()), "{name}");
            assert!(answer.answers.iter().all(|r| r.ttl == 5 && r.name.to_ascii() == name), "{name}");
        }
    }
    let first = |answer| addresses(&answer)[0];
    let one = first(stage.ask(&web, "db.tier.label.moat.internal.", RecordType::A).await);
    let next = first(stage.ask(&web, "db.tier.label.moat.internal.", RecordType::A).await);
    assert_ne!(one, next, "they take turns");
    for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB, RecordType::TXT] {
        let answer = stage.ask(&db, "web.moat.internal.", kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
        let answer = stage.ask(&db, "nobody.moat.internal.", kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{kind}");
    }
}

#[tokio::test]
async fn a_stranger_hears_nothing() {
    let web = attached(1, "red", Some("web"), NetworkMode::Internal);
    let mut pooled = attached(2, "red", None, NetworkMode::Internal);
    pooled.attachment.pooled = true;
    let stage = Stage::new(&[&web, &pooled]).await;
    let stranger = stage.socket(Ipv4Addr::new(127, 77, 0, 99)).await;
    let member = stage.socket(pooled.lease.address).await;
    for socket in [&stranger, &member] {
        socket.send(&stage::question("web.moat.internal.", RecordType::A)).await.unwrap();
    }
    // Datagrams are answered in order: what comes after has been answered, so these were not.
    stage.ask(&web, "web.", RecordType::A).await;
    for socket in [&stranger, &member] {
        assert_eq!(socket.try_recv(&mut [0; 512]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    assert!(stage.connect_from(Ipv4Addr::new(127, 77, 0, 99), b"\0\x0c").await.is_empty(), "closed without a word");
}

#[tokio::test]
async fn without_a_way_out_nothing_is_asked_outside() {
    let outside = Outside::answering(&[PUBLIC]).await;
    let internal = attached(1, "red", None, NetworkMode::Internal);
    let mut closed = attached(2, "red", None, NetworkMode::Internet);
    closed.attachment.spec.egress = closed_but(vec![allow("good.test")]);
    let mut picky = attached(3, "red", None, NetworkMode::Internet);
    let evil = Destination::DomainSuffix(Domain::parse("evil.test").unwrap());
    picky.attachment.spec.egress.rules = vec![rule(Action::Deny, evil)];
    let stage = Stage::with(&[&internal, &closed, &picky], &[outside.address()]).await;
    for (from, name) in [
        (&internal, "secret.good.test."),
        (&closed, "secret.good.test."),
        (&closed, "other.test."),
        (&picky, "x.evil.test."),
        (&picky, "single."),
        (&picky, "printer.local."),
        (&picky, "1.0.0.10.in-addr.arpa."),
        (&picky, "*.test."),
    ] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::PTR] {
            let answer = stage.ask(from, name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name} {kind}");
        }
    }
    for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB, RecordType::NULL, RecordType::ANY] {
        let answer = stage.ask(&picky, "good.test.", kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert_eq!(outside.asked(), 0);
    let asked = stage.ask(&closed, "good.test.", RecordType::A);
    let (answer, ()) = tokio::join!(asked, async { stage.pins.next().await.release(true) });
    assert_eq!(addresses(&answer), [PUBLIC]);
    assert_eq!(addresses(&stage.ask(&picky, "good.test.", RecordType::A).await), [PUBLIC]);
    assert_eq!(outside.asked(), 1, "the second is remembered");
}

#[tokio::test]
async fn addresses_are_pinned_before_they_are_said() {
    let outside = Outside::answering(&[PUBLIC]).await;
    let mut asker = attached(1, "red", None, NetworkMode::Internet);
    let any = rule(Action::Deny, Destination::Any);
    asker.attachment.spec.egress = closed_but(vec![allow("a.test"), any, allow("good.test"), allow("GOOD.test.")]);
    let stage = Stage::with(&[&asker], &[outside.address()]).await;
    // A rule before it denies everything, so nothing is asked.
    assert_eq!(stage.ask(&asker, "good.test.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
    asker.attachment.spec.egress.rules.swap_remove(1);
    stage.put(&asker);
    let socket = stage.socket(asker.lease.address).await;
    socket.send(&stage::question("good.test.", RecordType::A)).await.unwrap();
    let held = stage.pins.next().await;
    assert_eq!(held.pinned(), (1, vec![1, 2], vec![PUBLIC], Duration::from_secs(300 + 30)));
    assert_eq!(socket.try_recv(&mut [0; 512]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    held.release(true);
    let answer = stage::receive(&socket).await;
    assert_eq!((addresses(&answer), answer.answers[0].ttl), (vec![PUBLIC], 300));
    let names = stage.resolver.names_of(&asker, PUBLIC);
    assert_eq!(names, [Domain::parse("good.test").unwrap()]);

    // What is remembered is pinned again; what cannot be pinned is not said.
    socket.send(&stage::question("good.test.", RecordType::A)).await.unwrap();
    stage.pins.next().await.release(false);
    let answer = stage::receive(&socket).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
    assert_eq!(outside.asked(), 1);
}

#[tokio::test]
async fn names_of_sandboxes_are_pinned_too() {
    let web = attached(1, "red", Some("web"), NetworkMode::Internal);
    let mut asker = attached(2, "red", None, NetworkMode::Internal);
    asker.attachment.spec.egress = closed_but(vec![allow("web.moat.internal")]);
    let stage = Stage::new(&[&web, &asker]).await;
    for name in ["web.", "web.moat.internal."] {
        let socket = stage.socket(asker.lease.address).await;
        socket.send(&stage::question(name, RecordType::A)).await.unwrap();
        let held = stage.pins.next().await;
        assert_eq!(held.pinned(), (2, vec![0], vec![web.lease.address], Duration::from_secs(5 + 30)));
        held.release(true);
        assert_eq!(addresses(&stage::receive(&socket).await), [web.lease.address]);
    }
}

#[tokio::test]
async fn an_answer_under_other_rules_is_not_said() {
    let outside = Outside::holding(&[PUBLIC]).await;
    let mut asker = attached(1, "red", None, NetworkMode::Internet);
    let stage = Stage::with(&[&asker], &[outside.address()]).await;
    let socket = stage.socket(asker.lease.address).await;
    socket.send(&stage::question("good.test.", RecordType::A)).await.unwrap();
    outside.wait_for(1).await;
    asker.attachment.spec.egress.default = Action::Deny;
    stage.put(&asker);
    outside.release();
    let answer = stage::receive(&socket).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0));
}

#[tokio::test]
async fn names_of_the_outside_do_not_lead_inside() {
    let gateway = NetConfig::new("/nowhere").gateway;
    let peer = attached(2, "red", Some("web"), NetworkMode::Internet);
    let inside = ["127.0.0.1", "0.0.0.0", "10.1.2.3", "169.254.169.254", "100.100.100.200", "192.168.1.1", "224.0.0.1"];
    let mut all: Vec<Ipv4Addr> = inside.iter().map(|a| a.parse().unwrap()).collect();
    all.extend([gateway, peer.lease.address, Ipv4Addr::new(10, 100, 3, 3), PUBLIC]);
    let outside = Outside::answering(&all).await;
    let asker = attached(1, "red", None, NetworkMode::Internet);
    let stage = Stage::with(&[&asker, &peer], &[outside.address()]).await;
    assert_eq!(addresses(&stage.ask(&asker, "rebind.test.", RecordType::A).await), [PUBLIC]);
    let looked = stage.resolver.lookup(&asker, &Domain::parse("rebind.test").unwrap()).await;
    let Outcome::Addresses { told, withheld } = looked.outcome else { panic!("{looked:?}") };
    assert_eq!((told, withheld.len()), (vec![PUBLIC], all.len() - 1));
}

#[tokio::test]
async fn a_dry_run_says_what_a_question_would() {
    let outside = Outside::answering(&[PUBLIC]).await;
    let web = attached(1, "red", Some("web"), NetworkMode::Internal);
    let mut asker = attached(2, "red", None, NetworkMode::Internet);
    let some = EgressRule { ports: vec![PortRange::new(443, 443).unwrap()], ..allow("good.test") };
    asker.attachment.spec.egress = closed_but(vec![some]);
    let stage = Stage::with(&[&web, &asker], &[outside.address()]).await;
    let lookup = async |asker: &Attached, name: &str| {
        let looked = stage.resolver.lookup(asker, &Domain::parse(name).unwrap()).await;
        (looked.name.to_string(), looked.outcome)
    };
    let told = |address| Outcome::Addresses { told: vec![address], withheld: vec![] };
    assert_eq!(lookup(&asker, "web").await, ("web.moat.internal".to_owned(), told(web.lease.address)));
    assert_eq!(lookup(&asker, "good.test").await, ("good.test".to_owned(), told(PUBLIC)));
    assert_eq!(lookup(&asker, "bad.test").await.1, Outcome::Refused(Reason::Default));
    assert_eq!(lookup(&web, "good.test").await.1, Outcome::Refused(Reason::Mode));
    assert_eq!(lookup(&asker, "nobody").await.1, Outcome::Nobody);
    assert!(stage.pins.none(), "a dry run changes no rules");
}
