//! Three machines with a NATS cluster of three, whole daemons and whole tasks: what is cut off, killed and drained.
//!
//! `MOAT_TEST_ROUNDS` is how many faults there are, `MOAT_TEST_SEED` which.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on should say where"
)]

mod faults;
mod load;
mod member;
mod prober;
mod rig;

use std::time::Duration;

use faults::{Fault, SIX, befall};
use moat_testkit::{is_root, not_run, shared, tool};
use prober::Probers;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rig::{Cluster, JobFile, MACHINES};

/// Rounds of a test run.
const ROUNDS: u32 = 3;
/// A service that was on a machine that went away is heard from elsewhere within this. On a machine with nothing else to do
/// it takes 15 s at most, which is what is reported; a loaded one must not fail a test.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(60);

const JOBS: [(&str, usize); 4] = [("once", 1), ("alone", 1), ("pair", 2), ("six", 6)];

/// How an instance of the pair leaves a node that drains: another is healthy first, and then it is asked, not killed.
const PAIR: &str = "migrate {\n      max_parallel = 1\n      health_check = \"task_states\"\n      \
                    min_healthy_time = \"1s\"\n      healthy_deadline = \"60s\"\n    }";

fn start(id: &str) -> Option<Cluster> {
    if !is_root() {
        not_run(id, "sandboxes and network namespaces need root");
        return None;
    }
    if tool("nats-server").is_none() {
        not_run(id, "nats-server is not installed");
        return None;
    }
    match Cluster::start() {
        Ok(cluster) => Some(cluster),
        Err(error) => {
            not_run(id, &format!("no cluster can be made here: {error:#}"));
            None
        }
    }
}

#[test]
fn nothing_answers_twice_and_nothing_is_lost() {
    let _host = shared().unwrap();
    let Some(mut cluster) = start("nothing_answers_twice_and_nothing_is_lost") else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("MOAT_TEST_ROUNDS").map_or(ROUNDS, |rounds| u32::try_from(rounds).unwrap());
    let seed = number("MOAT_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("seed {seed}, {rounds} rounds");
    let mut rng = StdRng::seed_from_u64(seed);

    let job = |name, driver, count, group| JobFile { name, driver, count, group, env: "" };
    cluster.submit(&job("once", "exec", 1, ""));
    cluster.submit(&job("alone", "raw_exec", 1, ""));
    cluster.submit(&job("pair", "exec", 2, PAIR));
    cluster.submit(&job("six", "raw_exec", 6, SIX));
    let probers = Probers::start(&cluster.switch, MACHINES, &JOBS);
    cluster.until_restored(&probers, &JOBS, "at first");

    let mut elsewhere = Vec::new();
    for round in 0..rounds {
        let fault = Fault::draw(&mut rng, round);
        // Where a service runs of which there is one, if it must move; else anywhere.
        let services = once_services(&cluster);
        let machine = match rng.random_range(0..3) {
            0 if !fault.moves() => rng.random_range(0..MACHINES),
            which => services[which % 2].2,
        };
        let there: Vec<(&str, String)> =
            services.into_iter().filter(|(.., at)| *at == machine).map(|(name, id, _)| (name, id)).collect();
        let what = format!("seed {seed}, round {round}: {fault:?} at node{}, which runs {there:?}", machine + 1);
        println!("{:?} {what}", probers.now());
        let moved = befall(&mut cluster, &probers, fault, machine, &there, round);
        cluster.until_whole(&what);
        cluster.until_restored(&probers, &JOBS, &what);
        for took in &moved {
            println!("    elsewhere after {took:?}");
            assert!(*took < ELSEWHERE_WITHIN, "{what}: elsewhere after {took:?}");
        }
        elsewhere.extend(moved);
    }
    elsewhere.sort();
    let at = |share: usize| elsewhere.get((elsewhere.len() * share / 100).min(elsewhere.len().saturating_sub(1)));
    println!("{rounds} rounds, {} moves: median {:?}, p90 {:?}, most {:?}", elsewhere.len(), at(50), at(90), at(100));
    stop_all(&cluster);
}

/// Name, instance and machine of what there is one of.
fn once_services(cluster: &Cluster) -> Vec<(&'static str, String, usize)> {
    cluster.until("it is known where services run", |cluster| {
        let documents = cluster.documents()?;
        let of = |name: &'static str| {
            let wanted = documents.wanted(name).pop()?;
            let machine = cluster.machine_of(&wanted.node)?;
            Some((name, wanted.id, machine))
        };
        Some(vec![of("once")?, of("alone")?])
    })
}

fn stop_all(cluster: &Cluster) {
    for (name, _) in JOBS {
        let output = cluster.members[0].run(&cluster.switch, &["job", "stop", "--detach", "--purge", name]);
        println!("job stop {name}: {}", output.status);
    }
    cluster.until("everything has stopped", |cluster| {
        let documents = cluster.documents()?;
        JOBS.iter().all(|(name, _)| documents.wanted(name).is_empty()).then_some(())
    });
}

/// Must hold 6.
#[test]
fn a_drained_node_loses_no_request() {
    let _host = shared().unwrap();
    let Some(cluster) = start("a_drained_node_loses_no_request") else { return };
    let env = "ECHO_QUEUE = \"pair\"";
    cluster.submit(&JobFile { name: "pair", driver: "exec", count: 2, group: PAIR, env });
    let node = cluster.until("both run", |cluster| {
        let documents = cluster.documents()?;
        let wanted = documents.wanted("pair");
        let run = wanted.len() == 2 && wanted.iter().all(|wanted| documents.is_running(&wanted.id));
        run.then(|| cluster.machine_of(&wanted[0].node))?
    });
    let other = (node + 1) % MACHINES;
    cluster.until("the service answers", |cluster| {
        let tally = load::start(&cluster.switch, other, "pair", Duration::from_millis(100)).join().unwrap();
        (tally.answered > 0 && tally.failed.is_empty()).then_some(())
    });

    let span = Duration::from_secs(20);
    let near = load::start(&cluster.switch, node, "pair", span);
    let far = load::start(&cluster.switch, other, "pair", span);
    let name = cluster.members[node].name.clone();
    let drained = cluster.members[other].run(&cluster.switch, &["node", "drain", "--enable", &name]);
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(drained.status.success(), "{said}{}", String::from_utf8_lossy(&drained.stderr));
    for tally in [near.join().unwrap(), far.join().unwrap()] {
        println!("{} answered, slowest {:?}, {} failed", tally.answered, tally.slowest, tally.failed.len());
        assert!(tally.answered > 100, "hardly anything was asked: {tally:?}");
        if !tally.failed.is_empty() {
            cluster.fail(&format!("{said}{:#?}", tally.failed));
        }
    }
    let documents = cluster.documents().unwrap();
    let wanted = documents.wanted("pair");
    assert_eq!(wanted.len(), 2, "{wanted:?}");
    assert!(wanted.iter().all(|wanted| cluster.machine_of(&wanted.node) != Some(node)), "{wanted:?}");
}
