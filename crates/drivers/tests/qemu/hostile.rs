//! Guests and monitors that do what they should not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_engine::driver::Driver as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::bed::{Bed, DEADLINE, Vm};

/// How much more memory this process may have than before: a connection's buffers, and what an allocator keeps.
const GROWTH_MAX: u64 = 48 << 20;
/// How long the driver listens to a guest that never says what it should. It would for minutes.
const LISTENS_FOR: Duration = Duration::from_secs(10);

fn flood_bytes() -> usize {
    std::env::var("MOAT_TEST_FLOOD_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1 << 20)
}

/// A guest whose `/init` is a program that means ill. What the driver puts behind it, the agent, is not read: a kernel takes what
/// it unpacked before it met with something that is no archive.
fn guest(bed: &Bed, mode: &str) -> PathBuf {
    let (dir, of) = (bed.dir.path().join(mode), |name: &str| bed.machines.guest.join(name));
    fs::create_dir(&dir).unwrap();
    symlink(fs::canonicalize(of("vmlinux")).unwrap(), dir.join("vmlinux")).unwrap();
    let mut program = fs::read(moat_testkit::small_bin("hostile").unwrap()).unwrap();
    program.extend(format!("\n{mode}").bytes());
    let mut modules = fs::read(of("modules.cpio")).unwrap();
    modules.extend(moat_guest::agent_cpio(&program));
    modules.extend(b"no archive");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(of("guest.json")).unwrap()).unwrap();
    let digest: String = Sha256::digest(&modules).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(manifest["modules_sha256"].is_string(), "{manifest}");
    manifest["modules_sha256"] = digest.into();
    fs::write(dir.join("modules.cpio"), modules).unwrap();
    fs::write(dir.join("guest.json"), manifest.to_string()).unwrap();
    dir
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Reads what a guest sends unasked; it comes up in the meantime.
async fn is_flooded(run_dir: &Path, bytes: usize) {
    let until = Instant::now() + DEADLINE;
    let mut line = loop {
        match UnixStream::connect(run_dir.join("agent.sock")).await {
            Ok(line) => break line,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    };
    let mut got = 0;
    let mut piece = vec![0; 64 << 10];
    while got < bytes {
        let read = timeout(DEADLINE, line.read(&mut piece)).await.expect("the guest floods").unwrap();
        assert!(read > 0, "its monitor has ended after {got} bytes");
        got += read;
    }
}

/// Starts it as a daemon would; it must come to nothing, cost nothing and disturb nobody.
async fn comes_to_nothing(vm: &Vm, neighbour: &Vm, before: u64, within: Duration) -> Option<String> {
    let starting = timeout(within, vm.driver.start(vm.record()));
    let mut starting = std::pin::pin!(starting);
    loop {
        tokio::select! {
            came = &mut starting => {
                let grown = resident().saturating_sub(before);
                assert!(grown < GROWTH_MAX, "this process grew by {grown} bytes");
                return came.ok().map(|came| came.map(drop).expect_err("nobody answered, and it was handed out").chain());
            }
            () = sleep(Duration::from_millis(200)) => {
                assert_eq!(neighbour.sh("echo fine").await, "fine", "others are served");
                let grown = resident().saturating_sub(before);
                assert!(grown < GROWTH_MAX, "this process grew by {grown} bytes");
            }
        }
    }
}

/// In place of the agent: garbage, a flood after the right beginning, the right beginning and silence, silence from the start.
/// One at a time, beside a machine that behaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_mean_ill_cost_nothing() {
    let Some(bed) = Bed::new("hostile guests") else { return };
    let neighbour = bed.machine(bed.spec()).await;
    let before = resident();
    for (mode, floods) in [("garbage", true), ("floods", true), ("mute", false), ("silent", false)] {
        let vm = bed.created(bed.driver_of(&guest(&bed, mode)), bed.spec()).await;
        if floods {
            is_flooded(&vm.place.run_dir, flood_bytes()).await;
        }
        let said = comes_to_nothing(&vm, &neighbour, before, LISTENS_FOR).await;
        println!("{mode}: {}", said.as_deref().unwrap_or("never answered"));
        vm.end().await;
    }
    neighbour.end().await;
}

/// All the memory of a machine is eaten by its first process: it ends, and that is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_eats_its_memory_ends() {
    let Some(bed) = Bed::new("hungry guest") else { return };
    let neighbour = bed.machine(bed.spec()).await;
    let before = resident();
    let vm = bed.created(bed.driver_of(&guest(&bed, "memory")), bed.spec()).await;
    let said = comes_to_nothing(&vm, &neighbour, before, DEADLINE).await;
    println!("memory: {said:?}");
    assert!(said.is_some(), "it goes on without memory");
    vm.end().await;
    neighbour.end().await;
}

/// A console that is flooded costs what its memory has, and the guest goes on.
#[tokio::test]
async fn a_flooded_console_costs_nothing() {
    let Some(bed) = Bed::new("console") else { return };
    let vm = bed.machine(bed.spec()).await;
    let bytes = flood_bytes();
    let before = vm.driver.usage(vm.record()).await.unwrap().memory_bytes;
    vm.sh(&format!("test -c /dev/console || exit 0; yes flood | head -c {bytes} > /dev/console")).await;
    let after = vm.driver.usage(vm.record()).await.unwrap().memory_bytes;
    // The guest's own pages come on top as it touches them; the flood does not.
    assert!(after < before + (96 << 20), "{before} became {after}");
    let log = std::fs::metadata(vm.place.run_dir.join("vmm.log")).unwrap().len();
    assert!(log < 64 << 10, "{log}");
    vm.end().await;
}
