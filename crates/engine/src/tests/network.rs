//! Places in the network: taken, attached, changed, detached and given back in that order, whatever happens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use moat_model::lifecycle::{PauseTo, PhaseName, SandboxView};
use moat_model::network::{Action, EgressPolicy, HostLabel, NetworkLimits, NetworkMode, NetworkSpec};
use moat_model::spec::{ClaimSpec, Owner};
use moat_model::{Cause, ErrorKind, Isolation, Namespace, Resource, SandboxId, SandboxSpec};
use tokio::time::{Instant, sleep};

use super::limits::Dice;
use super::{bench, claim, config, open};
use crate::Engine;
use crate::fabric::Attachment;
use crate::fake::{FakeConfig, FakeStep, FakeWorld};
use crate::pool::{Pool, PoolConfig, Shape};
use crate::record::{FileStore, Store};
use crate::supervisor::Registry;
use crate::testing::{self, id, spec};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The same with a network.
pub fn wired(spec: SandboxSpec) -> SandboxSpec {
    SandboxSpec { network: NetworkSpec::new(NetworkMode::Internal), ..spec }
}

/// Another network than that of [`wired`] ones.
pub fn stricter() -> NetworkSpec {
    let egress = EgressPolicy { default: Action::Deny, rules: Vec::new() };
    NetworkSpec { egress, ..NetworkSpec::new(NetworkMode::Internet) }
}

fn named(name: &str, spec: NetworkSpec) -> NetworkSpec {
    NetworkSpec { name: Some(HostLabel::parse(name).unwrap()), ..spec }
}

/// A claim that brings this network.
pub fn claim_with(memory: Option<u64>, network: NetworkSpec) -> ClaimSpec {
    ClaimSpec { network: Some(network), ..claim::claim(memory) }
}

async fn ended(engine: &Engine, id: &SandboxId) -> SandboxView {
    let mut views = engine.watch(id).unwrap();
    views.wait_for(|view| view.phase.is_terminal()).await.unwrap().clone()
}

/// What the engine says of its network is what is in force.
fn assert_agrees(engine: &Engine, world: &FakeWorld, id: &SandboxId) {
    let spec = engine.spec(id).unwrap();
    assert_eq!(world.rules(id).unwrap(), Attachment::of(&testing::place(id), Isolation::Container, &spec));
}

#[tokio::test(start_paused = true)]
async fn a_network_is_there_before_the_sandbox_and_goes_after_it() {
    let b = bench(FakeConfig { detach_failures: 2, ..FakeConfig::default() }).await;
    let view = b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    let [(lease, rules)] = &b.world.attached()[..] else { panic!("{:?}", b.world.attached()) };
    assert_eq!(view.address, Some(lease.address));
    assert_eq!(*rules, Attachment::of(&testing::place(&id(1)), Isolation::Container, &wired(spec("app", &[]))));
    let record = FileStore::open(b.dir.path().join("run/sandboxes")).unwrap().load_one(&id(1)).unwrap();
    let leases: Vec<&Resource> = record.state.leases.iter().map(|lease| &lease.resource).collect();
    assert!(matches!(leases[..], [Resource::UidRange { .. }, Resource::Network(_), Resource::Directory { .. }, ..]));
    assert_eq!(record.place.network.map(|place| place.address), view.address);

    let end = b.engine.stop(&id(1), None).await.unwrap();
    assert_eq!(end.address, view.address, "known after its end");
    let told = b.engine.explain(&id(1)).await.unwrap();
    assert!(told.iter().any(|step| step.what.contains("detach: busy") && step.times == 2), "{told:?}");
    b.assert_clean();
    // The record of the ended one must not give back what is another's by now.
    let next = b.engine.create(id(2), SandboxSpec { network: fixed(lease.address), ..spec("app", &[]) }).await.unwrap();
    assert_eq!(next.address, view.address);
    b.engine.clone().detach().await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!([1, 2].map(|n| engine.get(&id(n)).unwrap().address), [view.address; 2]);
    engine.delete(&id(1)).await.unwrap();
    assert_eq!(b.world.places().len(), 1);
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}

fn fixed(address: std::net::Ipv4Addr) -> NetworkSpec {
    NetworkSpec { address: Some(address), ..NetworkSpec::new(NetworkMode::Internal) }
}

#[tokio::test(start_paused = true)]
async fn without_a_network_none_is_made() {
    let b = bench(FakeConfig::default()).await;
    let view = b.engine.create(id(1), spec("app", &[])).await.unwrap();
    assert_eq!((view.address, b.world.attached(), b.world.places()), (None, vec![], vec![]));
    let error = b.engine.rewire(&id(1), stricter()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.to_string().starts_with("network.mode: isolated cannot become internet"), "{error}");
    b.engine.rewire(&id(1), NetworkSpec::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_is_refused_before_anything_is_taken() {
    let b = bench(FakeConfig::default()).await;
    let none = NetworkLimits { connections_max: Some(0), ..NetworkLimits::default() };
    let mut asked = wired(spec("app", &[]));
    asked.network.limits = none;
    for error in [b.engine.validate(&asked).unwrap_err(), b.engine.create(id(1), asked).await.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::InvalidSpec);
        assert!(error.to_string().starts_with("network.limits.connections_max"), "{error}");
    }
    let address = b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap().address.unwrap();
    let again = SandboxSpec { network: fixed(address), ..spec("app", &[]) };
    let error = b.engine.create(id(2), again).await.unwrap_err();
    assert!(error.to_string().starts_with("network.address"), "{error}");
    assert_eq!((error.kind, b.engine.uids_taken(), b.engine.list().len()), (ErrorKind::Conflict, 1, 1));

    // A daemon without networks, and a driver without any of its own.
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new(vec![b.world.driver()]);
    let (engine, _) = Engine::open(config(dir.path()), registry, Arc::new(b.outlet.clone())).await.unwrap();
    let error = engine.create(id(3), wired(spec("app", &[]))).await.unwrap_err();
    assert_eq!((error.kind, engine.uids_taken()), (ErrorKind::Unsupported, 0));
    assert!(error.to_string().starts_with("network:"), "{error}");
    let bare = bench(FakeConfig { isolation: Isolation::Process, ..FakeConfig::default() }).await;
    let asked = SandboxSpec { isolation: Isolation::Process, ..wired(spec("app", &[])) };
    let error = bare.engine.create(id(1), asked).await.unwrap_err();
    assert!(error.to_string().starts_with("network.mode"), "{error}");
    assert_eq!(bare.world.places(), []);
}

#[tokio::test(start_paused = true)]
async fn places_outlive_the_daemon_whatever_became_of_the_driver() {
    let b = bench(FakeConfig::default()).await;
    let first = b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    b.engine.rewire(&id(1), stricter()).await.unwrap();
    b.engine.clone().detach().await;

    // Its driver is gone: its place is not.
    let registry = Registry::new(vec![]).with_fabric(b.world.fabric());
    let (engine, _) = Engine::open(config(b.dir.path()), registry, Arc::new(b.outlet.clone())).await.unwrap();
    sleep(secs(60)).await;
    assert_eq!(b.world.places().iter().map(|lease| lease.address).collect::<Vec<_>>(), [first.address.unwrap()]);
    assert_agrees(&engine, &b.world, &id(1));
    engine.detach().await;

    // A network that cannot be put in order: nobody is touched.
    b.world.configure(|fake| fake.restore_error = Some("no such table".into()));
    let registry = Registry::new(vec![b.world.driver()]).with_fabric(b.world.fabric());
    let opened = Engine::open(config(b.dir.path()), registry, Arc::new(b.outlet.clone())).await;
    let error = opened.unwrap_err().chain();
    assert!(error.starts_with("put the networks of recorded sandboxes in order") && error.contains("no such table"));
    b.world.configure(|fake| fake.restore_error = None);

    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let second = engine.create(id(2), wired(spec("app", &[]))).await.unwrap();
    assert_ne!(second.address, first.address);
    for n in [1, 2] {
        engine.delete(&id(n)).await.unwrap();
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_network_without_a_readable_record_is_gone() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    b.engine.create(id(2), wired(spec("app", &[]))).await.unwrap();
    b.engine.clone().detach().await;
    std::fs::write(b.dir.path().join(format!("run/sandboxes/{}.json", id(1))), b"scribble").unwrap();
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(b.world.attached().len(), 1);
    assert!(b.world.rules(&id(2)).is_some());
    // The sweep, which runs beside it, ends what is left of the other.
    sleep(secs(1)).await;
    assert_eq!(b.world.alive(), [id(2)]);
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_live_sandbox_gets_another_network() {
    let b = bench(FakeConfig::default()).await;
    let before = b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    let view = b.engine.rewire(&id(1), named("web", stricter())).await.unwrap();
    assert!(view.generation > before.generation);
    assert_eq!((view.address, view.phase), (before.address, PhaseName::Running));
    assert_eq!(b.engine.spec(&id(1)).unwrap().network, named("web", stricter()));
    assert_agrees(&b.engine, &b.world, &id(1));
    let points = b.world.points();
    b.engine.rewire(&id(1), named("web", stricter())).await.unwrap();
    assert_eq!(b.world.points(), points, "already so");

    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    let view = b.engine.rewire(&id(1), stricter()).await.unwrap();
    assert_eq!(view.phase, PhaseName::Paused);
    assert_agrees(&b.engine, &b.world, &id(1));

    for (wanted, field) in [
        (NetworkSpec::default(), "network.mode: internet cannot become isolated"),
        (fixed([10, 9, 9, 9].into()), "network.address: it stays"),
    ] {
        let error = b.engine.rewire(&id(1), wanted).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidSpec);
        assert!(error.to_string().starts_with(field), "{error}");
    }
    let mut refused = stricter();
    refused.limits.connections_max = Some(0);
    assert_eq!(b.engine.rewire(&id(1), refused).await.unwrap_err().kind, ErrorKind::InvalidSpec);
    assert_eq!(b.engine.rewire(&id(9), stricter()).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(b.engine.spec(&id(1)).unwrap().network, stricter());
    b.engine.kill(&id(1)).await.unwrap();
    let error = b.engine.rewire(&id(1), named("web", stricter())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");

    b.engine.create(id(2), wired(claim::member())).await.unwrap();
    let error = b.engine.rewire(&id(2), stricter()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.to_string().contains("claim it first"), "{error}");
    b.engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_leaves_what_was() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), SandboxSpec { network: named("web", stricter()), ..spec("app", &[]) }).await.unwrap();
    b.engine.create(id(2), wired(spec("app", &[]))).await.unwrap();
    let old = b.world.rules(&id(2));
    let error = b.engine.rewire(&id(2), named("web", stricter())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.to_string().starts_with("network.name"), "{error}");
    assert_eq!(b.world.rules(&id(2)), old);
    assert_agrees(&b.engine, &b.world, &id(2));

    // One that is in force, and not known to be: what was is asked for again.
    b.world.configure(|fake| fake.change_hangs = 1);
    let error = b.engine.rewire(&id(2), stricter()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
    assert_eq!(b.world.rules(&id(2)), old);
    assert_agrees(&b.engine, &b.world, &id(2));
    assert_eq!(b.engine.get(&id(2)).unwrap().phase, PhaseName::Running);
    b.engine.rewire(&id(2), stricter()).await.unwrap();

    // Nor can that be made sure of: rules nobody knows are worse than no sandbox.
    b.world.configure(|fake| fake.change_error = Some("broken".into()));
    let error = b.engine.rewire(&id(2), NetworkSpec::new(NetworkMode::Internet)).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.to_string().contains("broken"), "{error}");
    let view = ended(&b.engine, &id(2)).await;
    assert!(matches!(&view.cause, Some(Cause::Lost { detail }) if detail.contains("network rules")), "{view:?}");
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn one_change_at_a_time_and_none_holds_up_an_end() {
    let b = bench(FakeConfig { change_takes: secs(3), ..FakeConfig::default() }).await;
    b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    let changes = (0..10).map(|n| {
        let (engine, name) = (b.engine.clone(), format!("n{n}"));
        tokio::spawn(async move { engine.rewire(&id(1), named(&name, stricter())).await })
    });
    let answers = futures::future::join_all(changes).await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 9));
    for error in refused.into_iter().filter_map(Result::err) {
        assert!(error.kind == ErrorKind::Conflict && error.to_string().contains("just being changed"), "{error}");
    }
    assert_agrees(&b.engine, &b.world, &id(1));

    b.world.configure(|fake| fake.hang_at = Some(FakeStep::Change));
    let engine = b.engine.clone();
    let changing = tokio::spawn(async move { engine.rewire(&id(1), stricter()).await });
    sleep(secs(1)).await;
    // Under the old rules it lives on meanwhile.
    b.engine.processes(&id(1)).await.unwrap();
    let begun = Instant::now();
    b.engine.delete(&id(1)).await.unwrap();
    assert!(begun.elapsed() < secs(1), "{:?}", begun.elapsed());
    let error = changing.await.unwrap().unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.to_string().contains("given up"), "{error}");
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_member_is_closed_until_its_claim_opens_it() {
    let b = bench(FakeConfig::default()).await;
    for (n, network) in [(1, Some(named("web", stricter()))), (2, None)] {
        let made = b.engine.create(id(n), wired(claim::member())).await.unwrap();
        assert!(b.world.rules(&id(n)).unwrap().pooled);
        let wanted = ClaimSpec { network: network.clone(), ..claim::claim(Some(1 << 28)) };
        let view = b.engine.claim(&id(n), wanted).await.unwrap();
        assert_eq!((view.address, view.origin.owner), (made.address, Owner::Api));
        assert!(view.ready_at.is_some());
        let rules = b.world.rules(&id(n)).unwrap();
        assert_eq!(rules.spec, network.unwrap_or(NetworkSpec::new(NetworkMode::Internal)));
        assert_eq!((rules.pooled, rules.namespace.as_str()), (false, "team"));
        assert_eq!(rules.labels.get("job").map(String::as_str), Some("7"));
        assert_agrees(&b.engine, &b.world, &id(n));
    }
    // What does not fit a member is refused before it is spent.
    b.engine.create(id(3), wired(claim::member())).await.unwrap();
    b.engine.create(id(4), claim::member()).await.unwrap();
    for (n, network, field) in [
        (3, NetworkSpec::default(), "network.mode"),
        (3, fixed([10, 9, 9, 9].into()), "network.address"),
        (4, stricter(), "network.mode"),
    ] {
        let error = b.engine.claim(&id(n), claim_with(None, network)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidSpec);
        assert!(error.to_string().starts_with(field), "{error}");
        assert_eq!(b.engine.get(&id(n)).unwrap().origin.owner, Owner::Pool);
    }
    b.engine.claim(&id(4), claim_with(None, NetworkSpec::default())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_network_cannot_be_given_ends_the_sandbox() {
    let oops = || Some("oops".to_owned());
    for (fake, kind) in [
        (FakeConfig { change_error: oops(), ..FakeConfig::default() }, ErrorKind::Unavailable),
        (FakeConfig { change_hangs: 9, ..FakeConfig::default() }, ErrorKind::Deadline),
        (FakeConfig { hang_at: Some(FakeStep::Change), ..FakeConfig::default() }, ErrorKind::Deadline),
        (FakeConfig { tune_error: oops(), ..FakeConfig::default() }, ErrorKind::Unavailable),
    ] {
        let b = bench(fake.clone()).await;
        b.engine.create(id(1), wired(claim::member())).await.unwrap();
        let engine = b.engine.clone();
        let claiming = tokio::spawn(async move { engine.claim(&id(1), claim_with(Some(1), stricter())).await });
        sleep(Duration::from_millis(1)).await;
        if claiming.is_finished() {
            // It has failed at once.
        } else {
            let error = b.engine.processes(&id(1)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Conflict, "under {fake:?}");
        }
        let error = claiming.await.unwrap().unwrap_err();
        assert_eq!(error.kind, kind, "{error} under {fake:?}");
        let view = ended(&b.engine, &id(1)).await;
        assert!(matches!(view.cause, Some(Cause::StartFailed { .. })), "{view:?} under {fake:?}");
        let opened = b.world.rules_seen(&id(1)).into_iter().any(|rules| !rules.pooled);
        assert_eq!(opened, fake.change_hangs > 0, "under {fake:?}");
        b.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_claims_the_network_is_the_winners() {
    for round in 0..8_u8 {
        let b =
            bench(FakeConfig { change_takes: Duration::from_millis(u64::from(round)), ..FakeConfig::default() }).await;
        b.engine.create(id(1), wired(claim::member())).await.unwrap();
        let claims = (0..12).map(|n| {
            let engine = b.engine.clone();
            let wanted = ClaimSpec {
                namespace: Namespace::parse(&format!("team{n}")).unwrap(),
                ..claim_with((n % 3 == 0).then_some(1 << 28), named(&format!("n{n}"), stricter()))
            };
            tokio::spawn(async move { engine.claim(&id(1), wanted).await })
        });
        let answers = futures::future::join_all(claims).await;
        let won: Vec<SandboxView> = answers.into_iter().filter_map(|answer| answer.unwrap().ok()).collect();
        let [winner] = &won[..] else { panic!("{won:?}") };
        let number = winner.namespace.as_str().trim_start_matches("team");
        let rules = b.world.rules(&id(1)).unwrap();
        assert_eq!(rules.spec, named(&format!("n{number}"), stricter()));
        assert_agrees(&b.engine, &b.world, &id(1));
        let opened: Vec<_> = b.world.rules_seen(&id(1)).into_iter().filter(|rules| !rules.pooled).collect();
        assert_eq!(opened, [rules], "nobody else's were ever in force");
        b.engine.delete(&id(1)).await.unwrap();
        b.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_in_a_change_lets_nothing_pass_and_asks_for_the_new_again() {
    // Not begun, and in force already.
    for fake in [
        FakeConfig { hang_at: Some(FakeStep::Change), ..FakeConfig::default() },
        FakeConfig { change_hangs: 1, ..FakeConfig::default() },
    ] {
        let b = bench(fake.clone()).await;
        b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
        let before = b.world.rules(&id(1)).unwrap();
        let engine = b.engine.clone();
        let changing = tokio::spawn(async move { engine.rewire(&id(1), stricter()).await });
        sleep(secs(1)).await;
        b.engine.clone().detach().await;
        assert_eq!(changing.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
        let seen = b.world.rules_seen(&id(1)).len();
        b.world.configure(|fake| (fake.hang_at, fake.change_hangs) = (None, 0));
        let engine = open(&b.world, &b.outlet, b.dir.path()).await;
        let spec = engine.spec(&id(1)).unwrap();
        sleep(secs(1)).await;
        assert_eq!(engine.spec(&id(1)).unwrap().network, stricter(), "{spec:?}");
        assert_agrees(&engine, &b.world, &id(1));
        let [closed, new] = &b.world.rules_seen(&id(1))[seen..] else { panic!("{:?}", b.world.rules_seen(&id(1))) };
        assert_eq!(*closed, Attachment { pooled: true, ..before });
        assert_eq!(new.spec, stricter());
        engine.delete(&id(1)).await.unwrap();
        b.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_after_the_daemon_died_leaves_what_was() {
    let b = bench(FakeConfig { hang_at: Some(FakeStep::Change), ..FakeConfig::default() }).await;
    b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    let before = b.world.rules(&id(1)).unwrap();
    let engine = b.engine.clone();
    let changing = tokio::spawn(async move { engine.rewire(&id(1), named("web", stricter())).await });
    sleep(secs(1)).await;
    // Another is faster.
    let faster = SandboxSpec { network: named("web", stricter()), ..spec("app", &[]) };
    b.engine.create(id(2), faster).await.unwrap();
    b.engine.clone().detach().await;
    changing.await.unwrap().unwrap_err();
    b.world.configure(|fake| fake.hang_at = None);
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    sleep(secs(1)).await;
    assert_eq!(b.world.rules(&id(1)).unwrap(), before);
    assert_agrees(&engine, &b.world, &id(1));
    for n in [1, 2] {
        engine.delete(&id(n)).await.unwrap();
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn members_of_a_pool_have_networks_like_others() {
    let b = bench(FakeConfig::default()).await;
    let pool = Pool::open(b.engine.clone(), PoolConfig::default());
    let member = wired(SandboxSpec { main: None, ..spec("", &[]) });
    pool.set_shapes(vec![Shape {
        key: "py".into(),
        version: 1,
        spec: member,
        machine: None,
        min_ready: 4,
        max_ready: 4,
    }])
    .unwrap();
    let stocked = async {
        while pool.status("py").is_none_or(|status| status.ready < 4) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(secs(60), stocked).await.unwrap();
    assert!(b.world.attached().iter().all(|(_, rules)| rules.pooled));
    let taken = pool.take("py", 1).unwrap();
    let view = b.engine.claim(&taken, claim_with(None, stricter())).await.unwrap();
    assert!(view.address.is_some());
    assert_agrees(&b.engine, &b.world, &taken);
    assert_eq!(b.world.attached().iter().filter(|(_, rules)| !rules.pooled).count(), 1);
    b.engine.delete(&taken).await.unwrap();
    pool.empty().await;
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_name_is_free_once_nobody_answers_to_it_also_for_the_next_daemon() {
    let b = bench(FakeConfig { detach_failures: 100, ..FakeConfig::default() }).await;
    let web = SandboxSpec { network: named("web", stricter()), ..spec("app", &[]) };
    b.engine.create(id(1), web.clone()).await.unwrap();
    let error = b.engine.create(id(2), web.clone()).await.unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.to_string().starts_with("network.name"), "{error}");
    // It has ended, but for its network, which cannot be removed for now.
    let engine = b.engine.clone();
    let killing = tokio::spawn(async move { engine.kill(&id(1)).await });
    sleep(secs(1)).await;
    b.engine.create(id(2), web).await.unwrap();
    b.engine.clone().detach().await;
    drop(killing.await.unwrap());
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert!(b.world.rules(&id(1)).unwrap().pooled, "nothing passes for one that has ended");
    assert_agrees(&engine, &b.world, &id(2));
    b.world.configure(|fake| fake.detach_failures = 0);
    ended(&engine, &id(1)).await;
    for n in [1, 2] {
        engine.delete(&id(n)).await.unwrap();
    }
    b.assert_clean();
}

/// A life with a network, its changes, pauses and claims, that may end at any point.
async fn random_life(engine: Arc<Mutex<Engine>>, n: u8, mut dice: Dice) {
    let now = || engine.lock().unwrap().clone();
    let pooled = dice.throw(3) == 0;
    let asked = wired(if pooled { claim::member() } else { spec("app", &[]) });
    sleep(dice.span(0, 20)).await;
    drop(now().create(id(n), asked).await);
    for _ in 0..dice.throw(8) {
        sleep(dice.span(0, 5)).await;
        let name = format!("n{}", dice.throw(4));
        let engine = now();
        match dice.throw(6) {
            0 => drop(engine.pause(&id(n), PauseTo::Memory).await),
            1 => drop(engine.resume(&id(n)).await),
            2 if pooled => drop(engine.claim(&id(n), claim_with(Some(1), named(&name, stricter()))).await),
            3 => drop(engine.rewire(&id(n), named(&name, stricter())).await),
            4 => drop(engine.rewire(&id(n), NetworkSpec::new(NetworkMode::Internal)).await),
            _ => drop(engine.rewire(&id(n), stricter()).await),
        }
    }
    if dice.throw(2) == 0 {
        drop(now().delete(&id(n)).await);
    }
}

/// Daemons that die, changes that fail or hang, names that are wanted twice: no address has two holders, no network is
/// taken from one that lives, nothing is left.
#[tokio::test(start_paused = true)]
async fn random_lives_leave_nothing_behind() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let b = bench(FakeConfig { detach_failures: 1, change_takes: secs(1), ..FakeConfig::default() }).await;
        let engine = Arc::new(Mutex::new(b.engine.clone()));
        let lives: Vec<_> = (1..=20)
            .map(|n| tokio::spawn(random_life(Arc::clone(&engine), n, Dice(seed * 100 + u64::from(n)))))
            .collect();
        for _ in 0..4 {
            sleep(dice.span(1, 12)).await;
            let (fails, hangs, attaches) = (dice.throw(4) == 0, dice.throw(3), dice.throw(5) == 0);
            b.world.configure(|fake| {
                fake.change_error = fails.then(|| "oops".to_owned());
                fake.change_hangs = u32::try_from(hangs).unwrap();
                fake.attach_error = attaches.then(|| "oops".to_owned());
            });
            b.world.crash();
            let dead = engine.lock().unwrap().clone();
            dead.detach().await;
            b.world.restart();
            let next = open(&b.world, &b.outlet, b.dir.path()).await;
            *engine.lock().unwrap() = next;
        }
        b.world.configure(|fake| (fake.change_error, fake.change_hangs, fake.attach_error) = (None, 0, None));
        for life in lives {
            life.await.unwrap();
        }
        // What was begun under a dead daemon has come to something by then.
        sleep(secs(60)).await;
        let engine = engine.lock().unwrap().clone();
        for view in engine.list() {
            let running = engine.get(&view.id).is_some_and(|view| view.phase == PhaseName::Running);
            if running && view.ready_at.is_some() {
                assert_agrees(&engine, &b.world, &view.id);
            }
        }
        assert_eq!(b.world.network_wrongs(), [] as [String; 0], "seed {seed}");
        for view in engine.list() {
            drop(engine.delete(&view.id).await);
        }
        let gone = async {
            while !engine.list().is_empty() {
                sleep(secs(1)).await;
            }
        };
        tokio::time::timeout(secs(600), gone).await.unwrap_or_else(|_| panic!("seed {seed}: {:?}", engine.list()));
        b.assert_clean();
        assert_eq!(engine.uids_taken(), 0, "seed {seed}");
    }
}
