//! Machines that are kept: on disk, whole, several times.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moat_engine::driver::{Driver as _, Recovered};
use moat_model::spec::Resources;
use moat_model::{ErrorKind, SandboxSpec};

use crate::host::*;

fn kind_of(dir: &Path) -> String {
    let state: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("state")).unwrap()).unwrap();
    state["kind"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lies_on_disk_and_is_the_same_afterwards() {
    for version in VERSIONS {
        let Some(host) = Host::new(version, "") else { return };
        let mut machine = host.machine(spec()).await;
        let (id, name, _) = machine.who().await;
        let pid = machine.pid().unwrap();
        let stower = host.driver.stower().unwrap();
        host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap();
        for _ in 0..2 {
            stower.stow(machine.record()).await.map_err(|e| e.chain()).unwrap();
            assert!(!alive(pid));
        }
        machine.forget_guest();
        assert_eq!(host.driver.usage(machine.record()).await.unwrap().pids, 0);
        // Whoever comes next finds it there, and takes it up.
        let later = host.again(version, "");
        later.driver.freezer().unwrap().thaw(machine.record()).await.unwrap();
        assert!(matches!(later.driver.recover(machine.record()).await.unwrap(), Recovered::Stowed));
        let stower = later.driver.stower().unwrap();
        machine.set_guest(stower.unstow(machine.record()).await.map_err(|e| e.chain()).unwrap());
        let (again, same, seeds) = machine.who().await;
        assert_eq!((again, same), (id, name));
        assert_eq!(seeds.iter().collect::<BTreeSet<_>>().len(), 2, "{version}: fresh randomness");
        // And once more, from a machine that was taken up.
        later.driver.freezer().unwrap().freeze(machine.record()).await.map_err(|e| e.chain()).unwrap();
        stower.stow(machine.record()).await.map_err(|e| e.chain()).unwrap();
        machine.set_guest(stower.unstow(machine.record()).await.map_err(|e| e.chain()).unwrap());
        assert_eq!(machine.who().await.2.len(), 3);
        later.driver.kill(machine.record()).await.unwrap();
        later.release(&machine.place, &spec()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_up_lies_there_still() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let mut machine = host.machine(spec()).await;
    host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap();
    host.driver.stower().unwrap().stow(machine.record()).await.unwrap();
    machine.forget_guest();
    for faults in [",refuse=PUT+snapshot+load", ",die=PUT+snapshot+load", ",unseeded"] {
        let later = host.again(NEWEST, faults);
        let refusal = later.driver.stower().unwrap().unstow(machine.record()).await.unwrap_err();
        if faults.starts_with(",refuse") {
            let said = "firecracker: PUT /snapshot/load: 400: it was asked to refuse this";
            assert_eq!(refusal.chain(), said);
        }
        assert_eq!(machine.pid(), None, "{faults}: no monitor is left");
        assert!(matches!(later.driver.recover(machine.record()).await.unwrap(), Recovered::Stowed), "{faults}");
    }
    let other = host.again("1.14.0", "");
    let refusal = other.driver.stower().unwrap().unstow(machine.record()).await.unwrap_err();
    assert_eq!(refusal.chain(), "restore: vmm_version of the snapshot is 1.16.1, of this machine it would be 1.14.0");
    machine.set_guest(host.driver.stower().unwrap().unstow(machine.record()).await.map_err(|e| e.chain()).unwrap());
    assert!(machine.cat("/etc/hostname").await.is_some());
    host.driver.kill(machine.record()).await.unwrap();
    assert!(matches!(host.driver.recover(machine.record()).await.unwrap(), Recovered::Gone { .. }));
}

/// Somebody died who was taking a machine up, when it had written to its disk already: what lies there is of the past, and
/// whoever comes next finishes it. Once nobody has it, it is lost, and said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_while_taking_a_machine_up_loses_nothing() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let mut machine = host.machine(spec()).await;
    let (id, ..) = machine.who().await;
    let (stowed, vmm) = (machine.place.data_dir.join("stowed"), machine.place.run_dir.join("vmm.json"));
    let stower = host.driver.stower().unwrap();
    host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap();
    stower.stow(machine.record()).await.unwrap();
    let aside = host.dir.path().join("aside");
    let copied = Command::new("cp").arg("-a").args([&stowed, &aside]).status().unwrap();
    assert!(copied.success());
    // As it is right before the last step: the next monitor has the machine, and what lay on disk is there still.
    let unfinished = |machine: &mut Machine, guest| {
        machine.set_guest(guest);
        assert!(Command::new("cp").arg("-a").args([&aside, &stowed]).status().unwrap().success());
        let mut written: serde_json::Value = serde_json::from_slice(&fs::read(&vmm).unwrap()).unwrap();
        written["unstowing"] = serde_json::json!({ "seconds": 1, "nanoseconds": 0 });
        fs::write(&vmm, written.to_string()).unwrap();
        machine.forget_guest();
    };
    let guest = stower.unstow(machine.record()).await.map_err(|e| e.chain()).unwrap();
    unfinished(&mut machine, guest);
    let pid = machine.pid();
    let later = host.again(NEWEST, "");
    let found = later.driver.recover(machine.record()).await.map_err(|e| e.chain()).unwrap();
    let Recovered::Alive(guest) = found else { panic!("{found:?}") };
    assert_eq!((machine.pid(), stowed.exists()), (pid, false));
    // And if it was not a daemon that died but a caller who went away.
    unfinished(&mut machine, guest);
    let guest = later.driver.stower().unwrap().unstow(machine.record()).await.map_err(|e| e.chain()).unwrap();
    assert_eq!((machine.pid(), stowed.exists()), (pid, false));
    machine.set_guest(guest);
    assert_eq!(machine.who().await.0, id);
    let guest = later.driver.stower().unwrap().unstow(machine.record()).await;
    assert!(guest.is_err(), "it does not lie on disk");
    let found = later.driver.recover(machine.record()).await.map_err(|e| e.chain()).unwrap();
    let Recovered::Alive(guest) = found else { panic!("{found:?}") };
    unfinished(&mut machine, guest);
    assert!(Command::new("kill").args(["-KILL", &pid.unwrap().to_string()]).status().unwrap().success());
    while machine.pid().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refusal = later.driver.stower().unwrap().unstow(machine.record()).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Guest, "{}", refusal.chain());
    assert!(matches!(later.driver.recover(machine.record()).await.unwrap(), Recovered::Gone { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_are_others_from_the_first_moment() {
    for version in VERSIONS {
        let Some(host) = Host::new(version, "") else { return };
        let source = host.machine(spec()).await;
        let kept = source.kept(&host, "kept").await;
        let (one, two) = (host.machine(from(&kept)).await, host.machine(from(&kept)).await);
        let memory = |machine: &Machine| fs::metadata(machine.in_jail("memory")).unwrap().ino();
        assert_eq!(memory(&one), memory(&two), "one file, mapped privately by both");
        // It may go once they have started.
        fs::remove_dir_all(&kept).unwrap();
        let mut who = Vec::new();
        for machine in [&source, &one, &two] {
            let (id, name, seeds) = machine.who().await;
            assert_eq!(name, machine.place.id.as_str());
            who.push((id, seeds.last().unwrap().clone()));
        }
        let (ids, seeds): (BTreeSet<_>, BTreeSet<_>) = who.into_iter().unzip();
        assert_eq!((ids.len(), seeds.len()), (3, 3), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_does_not_prove_who_it_is_does_not_live() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let source = host.machine(spec()).await;
    let kept = source.kept(&host, "kept").await;
    for (fault, why) in
        [("unseeded", "random number generator"), ("same-identity", "machine-id"), ("skewed", "its clock is -1")]
    {
        let liar = host.again(NEWEST, &format!(",{fault}"));
        let machine = liar.created(from(&kept)).await;
        let refusal = liar.driver.start(machine.record()).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Guest);
        assert!(refusal.chain().contains(why), "{fault}: {}", refusal.chain());
        assert_eq!(machine.pid(), None, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_a_daemon_left_without_a_name_gets_one_before_it_is_handed_out() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let source = host.machine(spec()).await;
    let kept = source.kept(&host, "kept").await;
    // The daemon dies between create and start: the machine stands still, and thinks it is another.
    let mut fork = host.created(from(&kept)).await;
    let later = host.again(NEWEST, "");
    later.driver.freezer().unwrap().thaw(fork.record()).await.map_err(|e| e.chain()).unwrap();
    match later.driver.recover(fork.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Alive(guest) => fork.set_guest(guest),
        other => panic!("{other:?}"),
    }
    assert_ne!(fork.who().await.0, source.who().await.0);
    assert_eq!(fork.who().await.1, fork.place.id.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_by_field() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let source = host.machine(spec()).await;
    let kept = source.kept(&host, "kept").await;
    let resources = Resources { memory_bytes: Some(160 << 20), ..spec().resources };
    let refusal = host.driver.validate(&SandboxSpec { resources, ..from(&kept) }).unwrap_err();
    let (had, wanted) = (128 << 20, 160 << 20);
    assert_eq!(
        refusal.doing,
        format!("restore: memory_bytes of the snapshot is {had}, of this machine it would be {wanted}")
    );
    let refusal = host.again("1.14.0", "").driver.validate(&from(&kept)).unwrap_err();
    assert_eq!(refusal.doing, "restore: vmm_version of the snapshot is 1.16.1, of this machine it would be 1.14.0");
    let huge =
        Host::with(NEWEST, "", |config| config.huge_pages = moat_drivers::firecracker::HugePages::TwoMib).unwrap();
    assert!(huge.driver.snapshotter().is_none() && huge.driver.stower().is_none());
    assert!(huge.driver.validate(&from(&kept)).unwrap_err().doing.starts_with("restore: "));

    // A file that is not the one that was kept.
    let memory = kept.join("memory");
    let mut bytes = fs::read(&memory).unwrap();
    bytes[3 << 20] ^= 1;
    fs::remove_file(&memory).unwrap();
    fs::write(&memory, bytes).unwrap();
    let place = host.place();
    let refusal = host.driver.create(&place, &from(&kept)).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    assert!(refusal.doing.contains("memory is "), "{refusal}");
    host.release(&place, &spec()).await;
    fs::remove_file(kept.join("manifest.json")).unwrap();
    assert_eq!(host.driver.validate(&from(&kept)).unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_snapshot_writes_what_changed_and_is_whole() {
    for version in VERSIONS {
        let Some(host) = Host::with(version, "", |config| config.track_dirty_pages = true) else { return };
        let source = host.machine(spec()).await;
        let first = source.kept(&host, "first").await;
        let second = source.kept(&host, "second").await;
        assert_eq!((kind_of(&first).as_str(), kind_of(&second).as_str()), ("Full", "Diff"), "{version}");
        fs::remove_dir_all(&first).unwrap();
        // The stand-in loads no memory that is not whole. What is made from it begins to count there.
        let fork = host.machine(from(&second)).await;
        assert_eq!(fork.who().await.2.len(), 3, "as it was the second time");
        let third = fork.kept(&host, "third").await;
        assert_eq!(kind_of(&third), "Diff", "{version}");
        host.machine(from(&third)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_failed_leaves_a_machine_that_goes_on() {
    let Some(host) = Host::new(NEWEST, ",refuse=PUT+snapshot+create") else { return };
    let machine = host.machine(spec()).await;
    let freezer = host.driver.freezer().unwrap();
    let running = host.driver.snapshotter().unwrap().snapshot(machine.record(), &host.dir.path().join("a")).await;
    assert!(running.unwrap_err().doing.contains("was not frozen"));
    freezer.freeze(machine.record()).await.unwrap();
    let refusal =
        host.driver.snapshotter().unwrap().snapshot(machine.record(), &host.dir.path().join("b")).await.unwrap_err();
    assert_eq!(refusal.chain(), "firecracker: PUT /snapshot/create: 400: it was asked to refuse this");
    host.driver.stower().unwrap().stow(machine.record()).await.unwrap_err();
    assert!(machine.pid().is_some());
    freezer.thaw(machine.record()).await.unwrap();
    assert!(machine.cat("/etc/hostname").await.is_some());
}
