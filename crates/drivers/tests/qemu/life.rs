//! A machine from its beginning to its end.

use std::path::PathBuf;
use std::time::Duration;

use moat_agent::protocol::line;
use moat_engine::driver::{Driver as _, Recovered};
use moat_model::SandboxSpec;
use moat_model::file::FileRequest;
use moat_model::spec::{Artifact, RootSpec};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use crate::bed::{Bed, DEADLINE};

/// Boots, runs what is asked, with a kernel of its own, and is measured.
#[tokio::test]
async fn a_machine_is_a_machine() {
    let Some(bed) = Bed::new("life") else { return };
    let began = std::time::Instant::now();
    let vm = bed.machine(bed.spec()).await;
    println!("created and started in {:?}", began.elapsed());
    assert_ne!(vm.sh("uname -r").await, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    assert_eq!(vm.sh("hostname").await, vm.place.id.as_str());
    let machine_id = vm.sh("cat /etc/machine-id").await;
    assert_eq!((machine_id.len(), vm.sh("cat /etc/gone; cat /opt/dir/old").await.as_str()), (32, "gone\nold"));
    vm.sh("echo new > /opt/dir/new && rm /etc/gone && ! test -e /etc/gone").await;
    let usage = vm.driver.usage(vm.record()).await.unwrap();
    println!("{usage:?}");
    assert!(usage.memory_bytes > 32 << 20 && usage.cpu_usec > 0 && usage.pids > 1, "{usage:?}");
    assert_eq!(vm.driver.describe().accelerator, Some("tcg"));
    vm.end().await;
}

/// The same machine without layers and with a program of the node.
#[tokio::test]
async fn a_program_of_the_node_is_put_in_place() {
    let Some(bed) = Bed::new("artifact") else { return };
    let path: PathBuf = moat_testkit::small_bin("probe").expect("build the test program");
    let artifact = Artifact { path, name: "probe".to_owned(), sha256: "0".repeat(64) };
    let spec = SandboxSpec { root: RootSpec::Scratch, artifact: Some(artifact), ..bed.spec() };
    let vm = bed.machine(spec).await;
    let question = FileRequest::Stat { path: "/local/probe".to_owned() };
    let listed = vm.guest().file(None, &question).await.map_err(|e| e.chain()).unwrap();
    assert!(format!("{listed:?}").contains(&0o555.to_string()), "{listed:?}");
    vm.end().await;
}

/// The port says that somebody is at its other end apart from what comes through it, and perhaps later: who comes and speaks at
/// once, again and again, is answered every time.
#[tokio::test]
async fn whoever_comes_again_at_once_is_answered() {
    const TIMES: u64 = 300;
    let Some(bed) = Bed::new("come again") else { return };
    let mut vm = bed.machine(bed.spec()).await;
    vm.guest = None;
    let port = vm.place.run_dir.join("agent.sock");
    for nonce in 1..=TIMES {
        let answered = async {
            let socket = UnixStream::connect(&port).await?;
            let mut line = line::connect(socket, nonce.to_be_bytes()).await?;
            // Every other one stays until the agent has said something of its own accord, the rest are gone at once.
            if nonce % 2 == 0 { line.read_u8().await.map(drop) } else { Ok(()) }
        };
        // A machine that has come to rest is slower to notice that somebody came than to take what they say.
        tokio::time::sleep(Duration::from_millis(nonce % 50)).await;
        let answered = tokio::time::timeout(DEADLINE, answered).await;
        answered.unwrap_or_else(|_| panic!("connection {nonce} of {TIMES} has no answer")).unwrap();
    }
    vm.driver = bed.next_driver();
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    let Recovered::Alive(guest) = found else { panic!("{found:?}") };
    vm.guest = Some(guest);
    assert_eq!(vm.sh("echo here").await, "here");
    vm.end().await;
}

/// A daemon that comes later finds it by its record; a monitor that is killed ends it, and that is said.
#[tokio::test]
async fn it_is_found_again_and_its_end_is_noticed() {
    let Some(bed) = Bed::new("recover") else { return };
    let mut vm = bed.machine(bed.spec()).await;
    vm.sh("echo kept > /tmp/kept").await;
    vm.guest = None;
    vm.driver = bed.next_driver();
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    let Recovered::Alive(guest) = found else { panic!("{found:?}") };
    vm.guest = Some(guest);
    assert_eq!(vm.sh("cat /tmp/kept").await, "kept");
    let pid = i32::try_from(vm.pid()).unwrap();
    let lost = tokio::spawn({
        let guest = vm.guest();
        async move { guest.lost().await }
    });
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let why = tokio::time::timeout(DEADLINE, lost).await.unwrap().unwrap();
    assert!(why.contains(&format!("process {pid}, has ended")), "{why}");
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    assert!(matches!(&found, Recovered::Gone { detail } if detail.contains("has ended")), "{found:?}");
    vm.end().await;
}
