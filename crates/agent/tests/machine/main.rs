//! The agent as the first process of real virtual machines, driven over the port as a driver does it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say where"
)]

mod harness;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use moat_agent::protocol::machine::{CONSOLE_READY, GuestRoot, Renewal};
use moat_agent::protocol::{MainState, Offsets, StreamName};
use moat_engine::Guest as _;
use moat_engine::guest::agent::AgentGuest;
use moat_model::ErrorKind;
use moat_model::file::Transfer;
use tokio::time::timeout;

use self::harness::{DEADLINE, Parts, Vm, erofs, ext4, identity, moment, now, run, setup, sh, tree};

/// Seconds between what the host's clock says and what the machines are told: any would do that nobody reads by accident.
const ELSEWHEN: i64 = 40_000_000;
/// Longer than any of these tests may take.
const HOUR: i64 = 3600;

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(work);
}

/// Everything a machine with layers goes through: one boot, because an emulated one is slow.
#[test]
fn a_machine_of_layers_lives_is_kept_becomes_another_and_ends() {
    const ID: &str = "AM1";
    let Some(machines) = moat_testkit::machines(ID).unwrap() else { return };
    let Some(busybox) = moat_testkit::busybox() else { return moat_testkit::not_run(ID, "no busybox") };
    let dir = tempfile::tempdir().unwrap();
    let layer = erofs(&tree(dir.path(), &busybox), &dir.path().join("layer"));
    let over = dir.path().join("over");
    std::fs::create_dir_all(over.join("opt")).unwrap();
    std::fs::write(over.join("opt/upper-layer"), "above\n").unwrap();
    let over = erofs(&over, &dir.path().join("over.erofs"));
    let Some(disk) = ext4(&dir.path().join("disk"), None) else { return moat_testkit::not_run(ID, "no mkfs.ext4") };
    block_on(async {
        let layers: Vec<PathBuf> = vec![layer, over];
        let vm = Vm::start(&machines, &Parts { layers: &layers, disk: &disk, memory_mib: 512 });
        let guest = vm.connect().await;
        waits_to_be_told(&vm, &guest).await;
        let wanted = setup(GuestRoot::Overlay { layers: 2 }, identity(1), now() + ELSEWHEN);
        guest.setup(&wanted).await.unwrap();
        assert_eq!(guest.setup(&wanted).await.unwrap_err().kind, ErrorKind::Conflict, "a second setup");
        is_what_it_was_told(&guest).await;
        cannot_be_ended_from_inside(&guest).await;
        has_no_more_processes_than_it_may(&guest).await;
        let guest = carries_files_over_a_new_connection(&vm, guest).await;
        stands_still_and_becomes_another(&guest).await;
        tells_what_was_changed(&guest).await;
        guest.shutdown().await.unwrap();
        assert_eq!(vm.gone().await, "exit status: 0", "{}", vm.console());
    });
}

async fn waits_to_be_told(vm: &Vm, guest: &AgentGuest) {
    let hello = guest.hello().await.unwrap();
    assert!(hello.awaits_setup);
    assert_eq!(hello.main, MainState::Idle);
    for verb in ["exec", "setup", "quiesce", "renew", "proceed", "changes"] {
        assert!(hello.capabilities.iter().any(|known| known == verb), "{verb}");
    }
    assert!(vm.console().lines().any(|line| line == CONSOLE_READY), "{}", vm.console());
    for refused in [guest.processes().await.map(drop), guest.quiesce().await, guest.changes().await.map(drop)] {
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Conflict);
    }
    let renewal = Renewal { moment: moment(now()), identity: None };
    assert_eq!(guest.renew(&renewal).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(guest.proceed().await.unwrap_err().kind, ErrorKind::Conflict);
}

async fn is_what_it_was_told(guest: &AgentGuest) {
    assert!(!guest.hello().await.unwrap().awaits_setup);
    assert_eq!(
        run(guest, "hostname; cat /etc/hostname /etc/machine-id").await,
        format!("machine-1\nmachine-1\n{}\n", "01".repeat(16))
    );
    assert_eq!(run(guest, "cat /etc/resolv.conf").await, "nameserver 10.77.255.1\nsearch moat.internal\n");
    assert!(run(guest, "cat /etc/hosts").await.contains("10.77.0.1\tmachine-1 web1.moat.internal web1"));
    assert_eq!(run(guest, "cat /opt/upper-layer /opt/dir/old").await, "above\nold\n");

    let link = run(guest, "ip link show eth0; ip -4 addr show eth0; ip route; ip neigh").await;
    for said in [
        "link/ether 02:00:00:00:00:01",
        "inet 10.77.0.1/32",
        "default via 10.77.255.1 dev eth0",
        "10.77.255.1 dev eth0 lladdr 02:00:00:00:ff:01",
        "PERMANENT",
    ] {
        assert!(link.contains(said), "{said}: {link}");
    }
    assert_eq!(
        run(guest, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv6/conf/all/disable_ipv6").await,
        "0\n1\n"
    );
    assert!(run(guest, "ip addr show lo").await.contains("127.0.0.1/8"));

    let told: i64 = run(guest, "date +%s").await.trim().parse().unwrap();
    assert!((told - now() - ELSEWHEN).abs() < HOUR, "{told}");

    let status = run(guest, "cat /proc/self/status").await;
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t00000000a80405fb"), "{status}");
    assert_eq!(run(guest, "cat /proc/self/cgroup").await, "0::/user\n");
    // What a container has, and how it has it.
    assert!(run(guest, "echo 1 > /proc/sys/kernel/hostname").await.contains("Read-only file system"));
    assert!(run(guest, "echo 1 > /sys/kernel/mm/ksm/run").await.contains("Read-only file system"));
    assert!(run(guest, "mount -t cgroup2 none /tmp").await.contains("ermission denied"));
    for path in ["/dev/null", "/dev/pts", "/dev/shm", "/secrets", "/local", "/tmp", "/alloc/logs"] {
        assert_eq!(run(guest, &format!("ls -d {path}")).await, format!("{path}\n"));
    }
    assert_eq!(
        run(guest, "ls /dev/vda /dev/vport0p1 /moat /l /init 2>/dev/null").await,
        "",
        "nothing of before is seen"
    );
}

/// Whatever is sent to the first process, it goes on.
async fn cannot_be_ended_from_inside(guest: &AgentGuest) {
    run(guest, "for signal in TERM INT KILL STOP; do kill -$signal 1; done").await;
    assert_eq!(run(guest, "echo still there").await, "still there\n");
}

async fn has_no_more_processes_than_it_may(guest: &AgentGuest) {
    let script = "i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    let said = run(guest, &format!("({script}) 2>&1; kill -9 -1")).await;
    assert!(said.contains("can't fork") && !said.contains("all"), "{said}");
}

/// A transfer that the line breaks under is cut and never short; the next connection has everything again.
async fn carries_files_over_a_new_connection(vm: &Vm, guest: std::sync::Arc<AgentGuest>) -> std::sync::Arc<AgentGuest> {
    // Every byte there is, the line's own among them.
    let piece: Vec<u8> = (0..48 << 10).map(|n: u32| ((n % 251) ^ (n >> 8)) as u8).collect();
    let pieces = 100;
    let write = Transfer::Write { path: "/root/large".to_owned(), mode: None };
    let mut sink = guest.push(None, &write).await.unwrap();
    for _ in 0..pieces {
        sink.send(Bytes::from(piece.clone())).await.unwrap();
    }
    sink.finish().await.unwrap();
    let read = Transfer::Read { path: "/root/large".to_owned(), offset: 0, length: None };
    let mut first = guest.pull(None, &read).await.unwrap();
    assert!(timeout(DEADLINE, first.recv()).await.unwrap().unwrap().is_ok());
    // This daemon dies, and another comes: a port has one at a time.
    drop(guest);
    let next = vm.connect().await;
    let mut cut = false;
    while let Some(got) = timeout(DEADLINE, first.recv()).await.unwrap() {
        cut |= got.is_err();
    }
    assert!(cut, "what was cut says so");
    let mut again = next.pull(None, &read).await.unwrap();
    let mut whole = Vec::new();
    while let Some(got) = timeout(DEADLINE, again.recv()).await.unwrap() {
        whole.extend_from_slice(&got.unwrap());
    }
    assert!(whole == piece.repeat(pieces), "{} bytes", whole.len());
    run(&next, "rm /root/large").await;
    next
}

async fn stands_still_and_becomes_another(guest: &AgentGuest) {
    guest.start_main(&sh("while :; do date +%s; done")).await.unwrap();
    let written = |stream: StreamName, offset: u64, len: u64| {
        assert_eq!(stream, StreamName::Stdout);
        offset + len
    };
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    let chunk = timeout(DEADLINE, reader.next()).await.unwrap().unwrap().unwrap();
    assert!(written(chunk.stream, chunk.offset, chunk.bytes.len() as u64) > 0);
    drop(reader);

    guest.quiesce().await.unwrap();
    guest.quiesce().await.expect("twice is as good as once");
    assert_eq!(guest.proceed().await.unwrap_err().kind, ErrorKind::Conflict, "nothing goes on without a renewal");
    assert!(!guest.processes().await.unwrap().is_empty(), "the agent answers while all else stands still");
    let later = now() + 2 * ELSEWHEN;
    let renewed = guest.renew(&Renewal { moment: moment(later), identity: Some(identity(2)) }).await.unwrap();
    assert!(renewed.reseeded);
    assert_eq!(renewed.hostname, "machine-2");
    assert_eq!(renewed.machine_id, "02".repeat(16));
    assert_eq!(renewed.link, Some(([2, 0, 0, 0, 0, 2], [10, 77, 0, 2].into())));
    assert!((renewed.unix_nanos / 1_000_000_000 - later).abs() < HOUR, "{renewed:?}");
    // It starts a process after the other, if it is let: none of them comes, and nobody uses the processor.
    let seen = async || {
        let all = guest.processes().await.unwrap();
        // Threads of the kernel have no memory of their own, and the first process is the agent.
        let of_the_user = all.iter().filter(|process| process.pid != 1 && process.rss_bytes > 0);
        of_the_user.map(|process| (process.pid, process.cpu_usec)).collect::<Vec<_>>()
    };
    let still = seen().await;
    assert!(!still.is_empty());
    for _ in 0..50 {
        assert_eq!(seen().await, still, "somebody ran before `proceed`");
    }
    guest.proceed().await.unwrap();
    guest.proceed().await.expect("twice is as good as once");

    let mut reader = guest.output(Offsets::default()).await.expect("offsets begin anew");
    let mut said = String::new();
    while said.lines().count() < 4 {
        let chunk = timeout(DEADLINE, reader.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(chunk.offset, said.len() as u64);
        said += &String::from_utf8_lossy(&chunk.bytes);
    }
    drop(reader);
    // The process that was stopped in the middle may have asked the old clock; every later one asks the new one.
    let times: Vec<i64> = said.lines().skip(1).take(2).map(|line| line.parse().unwrap()).collect();
    assert!(times.iter().all(|time| (time - later).abs() < HOUR), "{said}");
    assert_eq!(run(guest, "hostname; cat /etc/hostname").await, "machine-2\nmachine-2\n");
    let link = run(guest, "ip -4 addr show eth0; ip link show eth0; ip route; ip neigh; cat /etc/hosts").await;
    assert!(link.contains("inet 10.77.0.2/32") && !link.contains("10.77.0.1"), "{link}");
    assert!(link.contains("02:00:00:00:00:02") && link.contains("PERMANENT") && link.contains("default via"), "{link}");

    // Without a quiesce before, and as the same.
    let end = guest.hello().await.unwrap();
    assert!(matches!(end.main, MainState::Running { .. }), "{end:?}");
    let renewed = guest.renew(&Renewal { moment: moment(now()), identity: None }).await.unwrap();
    assert_eq!((renewed.hostname.as_str(), renewed.machine_id), ("machine-2", "02".repeat(16)));
    guest.proceed().await.unwrap();
    let told: i64 = run(guest, "date +%s").await.trim().parse().unwrap();
    assert!((told - now()).abs() < HOUR, "{told}");
    assert!(guest.output(Offsets::default()).await.is_ok(), "offsets go on, and nothing was acknowledged");
}

async fn tells_what_was_changed(guest: &AgentGuest) {
    run(guest, "rm /etc/gone; rm -r /opt/dir; mkdir /opt/dir; echo new > /opt/dir/new; echo secret > /secrets/key")
        .await;
    run(guest, "echo given > /local/given; cat /opt/upper-layer > /dev/shm/x").await;
    guest.quiesce().await.unwrap();
    let mut pieces = guest.changes().await.unwrap();
    let mut layer = Vec::new();
    while let Some(piece) = timeout(DEADLINE, pieces.recv()).await.unwrap() {
        layer.extend_from_slice(&piece.unwrap());
    }
    guest.renew(&Renewal { moment: moment(now()), identity: None }).await.unwrap();
    guest.proceed().await.unwrap();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&layer[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        let _ = entry.read_to_string(&mut content);
        found.insert(entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned(), content);
    }
    for (path, content) in [("etc/.wh.gone", ""), ("opt/dir/.wh..wh..opq", ""), ("opt/dir/new", "new\n")] {
        assert_eq!(found.get(path).map(String::as_str), Some(content), "{path} in {:?}", found.keys());
    }
    for path in ["secrets/key", "local/given", "dev/shm/x", "opt/dir/old", "opt/upper-layer", "proc/self"] {
        assert!(!found.contains_key(path), "{path} is no change of the root");
    }
}

/// A root handed in whole, a machine without a link's name, and the end of memory.
#[test]
fn a_machine_with_a_root_of_its_own_runs_out_of_memory_and_is_switched_off() {
    const ID: &str = "AM2";
    let Some(machines) = moat_testkit::machines(ID).unwrap() else { return };
    let Some(busybox) = moat_testkit::busybox() else { return moat_testkit::not_run(ID, "no busybox") };
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path(), &busybox);
    let Some(disk) = ext4(&dir.path().join("disk"), Some(&tree)) else {
        return moat_testkit::not_run(ID, "no mkfs.ext4");
    };
    block_on(async {
        let vm = Vm::start(&machines, &Parts { layers: &[], disk: &disk, memory_mib: 256 });
        let guest = vm.connect().await;
        let mut wanted = setup(GuestRoot::Whole, identity(3), now());
        wanted.identity.network = None;
        let mut bad = wanted.clone();
        bad.identity.machine_id = "no".to_owned();
        assert_eq!(guest.setup(&bad).await.unwrap_err().kind, ErrorKind::InvalidSpec);
        guest.setup(&wanted).await.expect("what was refused was not begun");
        assert_eq!(
            run(&guest, "hostname; cat /etc/machine-id /opt/dir/old").await,
            format!("machine-3\n{}\nold\n", "03".repeat(16))
        );
        assert_eq!(guest.changes().await.map(drop).unwrap_err().kind, ErrorKind::Unsupported);
        let renewed = guest.renew(&Renewal { moment: moment(now()), identity: None }).await.unwrap();
        assert_eq!(renewed.link, None);
        guest.proceed().await.unwrap();
        let greedy = "exec busybox awk 'BEGIN { while (1) a[i++] = sprintf(\"%65536s\", \"\") }'";
        guest.start_main(&sh(greedy)).await.unwrap();
        let exit = timeout(DEADLINE, guest.wait_main()).await.unwrap().unwrap();
        assert!(exit.oom_killed && exit.signal == Some(9), "{exit:?}");
        guest.shutdown().await.unwrap();
        assert_eq!(vm.gone().await, "exit status: 0", "{}", vm.console());
    });
}
