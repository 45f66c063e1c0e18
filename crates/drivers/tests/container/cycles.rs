//! Many in a row, and how long one takes.

use std::time::{Duration, Instant};

use moat_engine::driver::Driver as _;
use moat_model::spec::RootSpec;
use moat_testkit::LeakAudit;

use crate::harness::*;

const CYCLES: usize = 500;

#[tokio::test]
async fn n46_five_hundred_cycles_leave_nothing() {
    let Some(host) = Host::alone("N46") else { return };
    // The parent group stays; everything below it goes.
    host.sandbox(spec(RootSpec::Host)).await.end().await;
    let audit = LeakAudit::of_cgroup(CGROUP_PARENT).and_dir(host.dir.path());
    let mut ready: Vec<Duration> = Vec::with_capacity(CYCLES);
    for n in 0..CYCLES {
        let root = if n % 2 == 0 { RootSpec::Host } else { RootSpec::Scratch };
        let begin = Instant::now();
        let sandbox = host.sandbox(spec(root)).await;
        ready.push(begin.elapsed());
        sandbox.end().await;
    }
    audit.assert_same(DEADLINE).await.unwrap();
    ready.sort();
    let at = |share: usize| ready[(ready.len() - 1) * share / 100];
    println!("cold create to agent ready: p50 {:?}, p95 {:?}, p99 {:?}", at(50), at(95), at(99));
}

/// Dropping the future at any point leaves only what releasing the plan removes.
#[tokio::test]
async fn a_create_given_up_half_way_leaves_what_release_removes() {
    let Some(host) = Host::new("dropped create") else { return };
    for micros in (0..40).map(|n| n * 500) {
        let (place, spec) = (host.place(), spec(RootSpec::Host));
        let create = host.driver.create(&place, &spec);
        let _ = tokio::time::timeout(Duration::from_micros(micros), create).await;
        for resource in host.driver.plan(&place, &spec).iter().rev() {
            host.driver.release(resource).await.map_err(|e| e.chain()).unwrap();
        }
        assert!(!place.run_dir.exists());
        let left = moat_drivers::linux::cgroup::Hierarchy::detect(CGROUP_PARENT).unwrap().list().unwrap();
        assert!(!left.iter().any(|name| name == place.id.as_str()), "{left:?}");
    }
}
