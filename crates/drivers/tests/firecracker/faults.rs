//! What goes wrong is said, and leaves nothing.

use std::fs;
use std::time::Duration;

use moat_engine::driver::{Driver as _, Need};
use moat_model::ErrorKind;

use crate::host::*;

/// Every request that a machine with no layers and no link is made of.
const REQUESTS: [&str; 9] = [
    "+logger",
    "+metrics",
    "+machine-config",
    "+boot-source",
    "+drives+disk",
    "+vsock",
    "+entropy",
    "+balloon",
    "+actions",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_is_named_with_the_monitors_words() {
    for request in REQUESTS {
        let Some(host) = Host::new(NEWEST, &format!(",refuse=PUT{request}")) else { return };
        let place = host.place();
        let refusal = match host.driver.create(&place, &spec()).await {
            Ok(record) => host.driver.start(&record).await.unwrap_err(),
            Err(refusal) => refusal,
        };
        let path = request.replace('+', "/");
        assert_eq!(refusal.chain(), format!("firecracker: PUT {path}: 400: it was asked to refuse this"));
        host.release(&place, &spec()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_and_death_are_told_apart() {
    for (fault, kind, why) in [
        ("garbage=GET+", ErrorKind::Internal, "the answer makes no sense"),
        ("garbage", ErrorKind::Guest, "the monitor does not answer"),
        ("die=PUT+machine-config", ErrorKind::Guest, "PUT /machine-config: the monitor does not answer"),
        ("fail", ErrorKind::Guest, "it was asked to fail"),
    ] {
        let Some(host) = Host::new(NEWEST, &format!(",{fault}")) else { return };
        let place = host.place();
        let refusal = host.driver.create(&place, &spec()).await.unwrap_err();
        assert_eq!(refusal.kind, kind, "{fault}: {}", refusal.chain());
        assert!(refusal.chain().contains(why), "{fault}: {}", refusal.chain());
        host.release(&place, &spec()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jailer_that_fails_says_why() {
    let Some(host) = Host::with(NEWEST, "", |config| {
        let dir = config.cache_dir.parent().unwrap().to_owned();
        config.jailer = stub(&dir, &format!("jailer,{NEWEST},fail"));
    }) else {
        return;
    };
    let place = host.place();
    let refusal = host.driver.create(&place, &spec()).await.unwrap_err().chain();
    assert!(refusal.starts_with("the jailer failed, exit status: 153: jailer,"), "{refusal}");
    assert!(refusal.ends_with("Failed to create the jail root directory: it was asked to fail"), "{refusal}");
    host.release(&place, &spec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_do_not_fit_are_refused() {
    let Some(host) = Host::new("1.6.0", "") else { return };
    let refusal = host.driver.validate(&spec()).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Unsupported);
    assert!(refusal.doing.ends_with("is version 1.6.0; this driver speaks 1.7 to 1.17"), "{refusal}");
    let unmet = |host: &Host| {
        let found = host.driver.probe().into_iter().filter(|need| !need.met && need.need == Need::Required);
        found.map(|need| need.name).collect::<Vec<_>>()
    };
    assert!(unmet(&host).contains(&"firecracker".to_owned()), "{:?}", unmet(&host));

    let other = Host::with("1.10.1", "", |config| {
        let dir = config.cache_dir.parent().unwrap().to_owned();
        config.jailer = stub(&dir, "jailer,1.12.0");
    })
    .unwrap();
    let refusal = other.driver.validate(&spec()).unwrap_err();
    assert_eq!(refusal.doing, "firecracker: the jailer is version 1.12.0, firecracker 1.10.1: install one release");
    assert!(unmet(&other).contains(&"jailer".to_owned()), "{:?}", unmet(&other));

    // Asked, it says another version than it runs as.
    let liar = Host::with("1.16.0", ",lie", |config| {
        let dir = config.cache_dir.parent().unwrap().to_owned();
        config.jailer = stub(&dir, "jailer,1.9.0");
    })
    .unwrap();
    let place = liar.place();
    let refusal = liar.driver.create(&place, &spec()).await.unwrap_err();
    assert_eq!(refusal.chain(), "firecracker said it is 1.9.0 when asked, and runs as \"1.16.0\"");
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    liar.release(&place, &spec()).await;
    let old = Host::new("1.7.0", "").unwrap();
    assert!(unmet(&old).contains(&"distribution kernels".to_owned()));
    assert!(!unmet(&old).contains(&"firecracker".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_given_up_leaves_nothing() {
    for fault in ["hang=PUT+machine-config", "hang=PUT+balloon"] {
        let Some(host) = Host::new(NEWEST, &format!(",{fault}")) else { return };
        // However far it came, releasing what was planned is enough.
        for within in [1, 20, 100, 1000] {
            // A place is created in once.
            let (place, spec) = (host.place(), spec());
            let given_up = tokio::time::timeout(Duration::from_millis(within), host.driver.create(&place, &spec)).await;
            assert!(given_up.is_err(), "{given_up:?}");
            host.release(&place, &spec).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_ends_is_noticed_with_its_last_words() {
    let Some(host) = Host::new(NEWEST, ",die=PATCH+vm") else { return };
    let machine = host.machine(spec()).await;
    let refusal = host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Guest, "{}", refusal.chain());
    moat_testkit::wait_until(DEADLINE, "it has ended", async || machine.pid().is_none().then_some(())).await.unwrap();
    host.driver.kill(machine.record()).await.unwrap();
    host.release(&machine.place, &spec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_cannot_lead_the_daemon_elsewhere() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let machine = host.machine(spec()).await;
    let outside = host.dir.path().join("outside");
    let _listener = tokio::net::UnixListener::bind(&outside).unwrap();
    let socket = machine.in_jail("api.sock");
    fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink(&outside, &socket).unwrap();
    let refusal = host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap_err();
    assert!(refusal.chain().ends_with("api.sock in the jail is a Symlink, not a Socket"), "{}", refusal.chain());
    host.driver.kill(machine.record()).await.unwrap();
}
