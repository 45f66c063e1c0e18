//! Machines that are kept: on disk for a while, or as what others are made from.

use moat_engine::driver::{Driver as _, Recovered};
use moat_model::spec::MachineSnapshot;
use moat_model::{ErrorKind, SandboxSpec};

use crate::bed::{Bed, Vm};

/// Counts in a file until it is ended.
const COUNTER: &str =
    "(i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done) >/dev/null 2>&1 </dev/null & echo";

/// Seconds by which a machine's clock is off.
async fn clock_off(vm: &Vm) -> f64 {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let inside: f64 = vm.sh("cat /proc/uptime >/dev/null; date +%s").await.parse().unwrap();
    // Whole seconds inside.
    if inside + 1.0 < before { before - inside - 1.0 } else { (inside - now()).max(0.0) }
}

#[tokio::test]
async fn what_is_frozen_stands_still_and_goes_on() {
    let Some(bed) = Bed::new("freeze") else { return };
    let vm = bed.machine(bed.spec()).await;
    vm.freeze().await;
    vm.freeze().await;
    let cpu = async || vm.driver.usage(vm.record()).await.unwrap().cpu_usec;
    let before = cpu().await;
    assert!(cpu().await - before < 50_000, "it stands still");
    vm.thaw().await;
    vm.thaw().await;
    assert_eq!(vm.sh("echo on").await, "on");
    vm.end().await;
}

/// To disk and back, also by another daemon: memory, files and identity are the same, and the clock is right.
#[tokio::test]
async fn a_machine_lies_on_disk_and_comes_back() {
    let Some(bed) = Bed::new("stow") else { return };
    let mut vm = bed.machine(bed.spec()).await;
    vm.sh("mkdir -p /run/x; echo memory > /dev/shm/kept 2>/dev/null; echo disk > /opt/kept").await;
    let (id, host) = (vm.sh("cat /etc/machine-id").await, vm.sh("hostname").await);
    vm.freeze().await;
    vm.stow().await;
    vm.stow().await;
    vm.guest = None;
    let usage = vm.driver.usage(vm.record()).await.unwrap();
    assert_eq!(usage.pids, 0);
    vm.driver.freezer().unwrap().thaw(vm.record()).await.unwrap();
    vm.driver = bed.next_driver();
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    assert!(matches!(found, Recovered::Stowed), "{found:?}");
    for _ in 0..2 {
        let began = std::time::Instant::now();
        vm.unstow().await;
        println!("brought back in {:?}", began.elapsed());
        assert_eq!(vm.sh("cat /opt/kept").await, "disk");
        assert_eq!((vm.sh("cat /etc/machine-id").await, vm.sh("hostname").await), (id.clone(), host.clone()));
        let off = clock_off(&vm).await;
        assert!(off < 1.0, "{off} s");
        vm.freeze().await;
        vm.stow().await;
    }
    vm.end().await;
}

/// A daemon that died between writing a machine to disk and ending its monitor, or in the middle of bringing it back.
#[tokio::test]
async fn a_daemon_that_died_in_between_loses_nothing() {
    let Some(bed) = Bed::new("stow crash") else { return };
    let mut vm = bed.machine(bed.spec()).await;
    vm.sh("echo disk > /opt/kept").await;
    vm.freeze().await;
    {
        // Given up in the middle: after some of its steps, whichever those are.
        let stower = vm.driver.stower().unwrap();
        let stow = stower.stow(vm.record());
        let _ = tokio::time::timeout(std::time::Duration::from_millis(300), stow).await;
    }
    vm.guest = None;
    vm.driver = bed.next_driver();
    match vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Stowed => vm.unstow().await,
        Recovered::Alive(guest) => {
            vm.guest = Some(guest);
            vm.thaw().await;
        }
        found @ Recovered::Gone { .. } => panic!("{found:?}"),
    }
    assert_eq!(vm.sh("cat /opt/kept").await, "disk");
    vm.freeze().await;
    vm.stow().await;
    vm.guest = None;
    {
        let stower = vm.driver.stower().unwrap();
        let unstow = stower.unstow(vm.record());
        let _ = tokio::time::timeout(std::time::Duration::from_millis(500), unstow).await;
    }
    vm.driver = bed.next_driver();
    match vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Stowed => vm.unstow().await,
        Recovered::Alive(guest) => vm.guest = Some(guest),
        found @ Recovered::Gone { .. } => panic!("{found:?}"),
    }
    assert_eq!(vm.sh("cat /opt/kept").await, "disk");
    vm.freeze().await;
    vm.stow().await;
    vm.guest = None;
    // And exactly when it has begun to write to its disk, so that what lies there fits it no more.
    let disk = vm.place.data_dir.join("disk.ext4");
    let written = || std::fs::metadata(&disk).and_then(|disk| disk.modified()).unwrap();
    let before = written();
    {
        let stower = vm.driver.stower().unwrap();
        tokio::select! {
            done = stower.unstow(vm.record()) => drop(done.map_err(|e| e.chain()).unwrap()),
            () = async {
                while written() == before {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            } => {}
        }
    }
    vm.driver = bed.next_driver();
    match vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Alive(guest) => vm.guest = Some(guest),
        found => panic!("{found:?}"),
    }
    assert_eq!(vm.sh("cat /opt/kept").await, "disk");
    vm.end().await;
}

/// Others are made from one that was kept: they go on where it was, as somebody else, with other randomness.
#[tokio::test]
async fn others_are_made_from_one_that_was_kept() {
    let Some(bed) = Bed::new("fork") else { return };
    let vm = bed.machine(bed.spec()).await;
    vm.sh("echo disk > /opt/kept").await;
    vm.sh(COUNTER).await;
    let dir = bed.dir.path().join("snapshot");
    vm.snapshot(&dir).await;
    vm.thaw().await;
    let who = async |vm: &Vm| vm.sh("hostname; cat /etc/machine-id; od -An -N16 -tx1 /dev/urandom").await;
    let mut seen = vec![who(&vm).await];
    let restore = Some(MachineSnapshot { dir: dir.clone(), driver: "qemu".to_owned() });
    for _ in 0..2 {
        let began = std::time::Instant::now();
        let fork = bed.machine(SandboxSpec { restore: restore.clone(), ..bed.spec() }).await;
        println!("restored in {:?}", began.elapsed());
        assert_eq!(fork.sh("cat /opt/kept").await, "disk");
        let off = clock_off(&fork).await;
        assert!(off < 1.0, "{off} s");
        let count = async || fork.sh("cat /tmp/count").await.parse::<u64>().unwrap_or(0);
        let before = count().await;
        let until = std::time::Instant::now() + crate::bed::DEADLINE;
        while count().await <= before {
            assert!(std::time::Instant::now() < until, "what ran goes on");
        }
        seen.push(who(&fork).await);
        assert!(seen.last().unwrap().contains(fork.place.id.as_str()), "{seen:?}");
        fork.end().await;
    }
    let lines: Vec<&str> = seen.iter().flat_map(|text| text.lines()).collect();
    let distinct: std::collections::BTreeSet<&str> = lines.iter().copied().collect();
    assert_eq!((lines.len(), distinct.len()), (9, 9), "{seen:?}");
    vm.end().await;
    refused(&bed, &dir).await;
}

/// What was changed is refused: what does not fit by the field, what is not whole by its digest.
async fn refused(bed: &Bed, dir: &std::path::Path) {
    use std::os::unix::fs::FileExt as _;
    let restore = |driver: &str| Some(MachineSnapshot { dir: dir.to_owned(), driver: driver.to_owned() });
    let other = SandboxSpec { restore: restore("firecracker"), ..bed.spec() };
    assert!(bed.driver.validate(&other).unwrap_err().doing.starts_with("restore: the snapshot was written by driver "));
    let mut larger = SandboxSpec { restore: restore("qemu"), ..bed.spec() };
    larger.resources.memory_bytes = Some(192 << 20);
    let refusal = bed.driver.validate(&larger).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    let values =
        format!("restore: memory_bytes of the snapshot is {}, of this machine it would be {}", 160 << 20, 192 << 20);
    assert_eq!(refusal.doing, values);
    std::fs::File::options().write(true).open(dir.join("state")).unwrap().write_all_at(b"x", 5000).unwrap();
    let (place, spec) = (bed.place(), SandboxSpec { restore: restore("qemu"), ..bed.spec() });
    let refusal = bed.driver.create(&place, &spec).await.unwrap_err();
    assert!(refusal.doing.starts_with("restore: digest of "), "{refusal}");
    for resource in bed.driver.plan(&place, &spec).iter().rev() {
        bed.driver.release(resource).await.unwrap();
    }
}

/// What changed becomes a layer, and a machine made of both has it.
#[tokio::test]
async fn what_changed_becomes_a_layer() {
    let Some(bed) = Bed::new("capture") else { return };
    let vm = bed.machine(bed.spec()).await;
    vm.sh("echo new > /opt/dir/new && rm /etc/gone && ln -s new /opt/dir/link && chmod 600 /opt/dir/old").await;
    vm.freeze().await;
    let into = bed.dir.path().join("captured.erofs");
    let captured = vm.driver.capturer().unwrap().capture(vm.record(), &into).await.map_err(|e| e.chain()).unwrap();
    assert!(!captured.memory && captured.entries > 3, "{captured:?}");
    vm.thaw().await;
    assert_eq!(vm.sh("echo on").await, "on");
    vm.end().await;
    let mut spec = bed.spec();
    let layer = moat_model::spec::RootLayer { digest: "c".repeat(64), path: into };
    spec.root = moat_model::spec::RootSpec::Layers { layers: vec![bed.layer.clone(), layer] };
    let vm = bed.machine(spec).await;
    assert_eq!(vm.sh("cat /opt/dir/link; ! test -e /etc/gone && stat -c %a /opt/dir/old").await, "new\n600");
    vm.end().await;
}
