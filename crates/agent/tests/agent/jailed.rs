//! The agent as the first process of a jail: what its programs may do, and what they may do to it.

use moat_agent::launch::AgentConfig;
use moat_engine::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::Exit;
use moat_model::spec::{ExecSpec, PtySize};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Said, Sandbox, alive, exec_sh, listen, marker, running, sh, until, until_alone};

/// The default 13 of Nomad, as the kernel writes them.
const DEFAULT: u64 = 0xa804_05fb;

/// Whether jails can be built here; says so if not.
fn possible(id: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        moat_testkit::not_run(id, "needs root to build a jail");
    }
    root
}

async fn run_as(guest: &AgentGuest, user: &str, script: &str) -> Said {
    let mut spec = exec_sh(script);
    spec.process.user = Some(user.to_owned());
    listen(guest.exec(&spec).await.unwrap_or_else(|e| panic!("{}", e.chain()))).await
}

/// N10: all five sets, for `nobody` and for root, and for less.
#[tokio::test]
async fn n10_capability_sets() {
    if !possible("N10") {
        return;
    }
    let script = "sed -n 's/^Cap...:\\t//p' /proc/self/status | tr '\\n' ' '";
    let masks = |sets: [u64; 5]| sets.map(|set| format!("{set:016x} ")).concat();
    for mask in [DEFAULT, 1 << 10, 0] {
        let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(mask));
        let guest = sandbox.connect().await;
        // Inheritable, permitted, effective, bounding, ambient.
        assert_eq!(run_as(&guest, "nobody", script).await.stdout, masks([mask; 5]), "nobody, {mask:#x}");
        assert_eq!(run_as(&guest, "0", script).await.stdout, masks([mask, mask, mask, mask, 0]), "root, {mask:#x}");
    }
}

/// Allows everything but `mkdir`, which fails with EXDEV: an errno nothing else would give.
#[cfg(target_arch = "x86_64")]
fn filter_without_mkdir() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let deny = 0x0005_0000 | u32::try_from(libc::EXDEV).unwrap();
    let mkdir = u32::try_from(libc::SYS_mkdir).unwrap();
    let program: [(u16, u8, u8, u32); 4] =
        [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, mkdir), (RETURN, 0, 0, deny), (RETURN, 0, 0, 0x7fff_0000)];
    let encode =
        |(code, jt, jf, k): (u16, u8, u8, u32)| [&code.to_ne_bytes()[..], &[jt, jf], &k.to_ne_bytes()].concat();
    program.map(encode).concat()
}

/// Filters are applied with no_new_privs and without it, when the kernel wants a capability that the program must not get.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn seccomp_is_applied_with_and_without_new_privileges() {
    if !possible("seccomp") {
        return;
    }
    for no_new_privs in [true, false] {
        let sandbox = Sandbox::launch_jailed(|agent: &mut AgentConfig| {
            agent.seccomp = vec![filter_without_mkdir()];
            agent.no_new_privs = no_new_privs;
        });
        let guest = sandbox.connect().await;
        for user in ["nobody", "0"] {
            let script = "mkdir /tmp/x; grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' '  '";
            let said = run_as(&guest, user, script).await;
            assert!(said.stderr.contains("Invalid cross-device link"), "{user}: {said:?}");
            assert_eq!(said.stdout, format!("NoNewPrivs: {} Seccomp: 2 ", u8::from(no_new_privs)), "{user}");
        }
    }
}

/// N37: neither another user nor root inside can look into the agent or end it.
#[tokio::test]
async fn n37_the_agent_cannot_be_reached_from_inside() {
    if !possible("N37") {
        return;
    }
    let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(DEFAULT));
    let mut guest = sandbox.connect().await;
    for user in ["nobody", "0"] {
        for attempt in ["cat /proc/1/environ", "ls /proc/1/fd/", "ls /proc/1/root/", "head -c1 /proc/1/mem"] {
            let said = run_as(&guest, user, attempt).await;
            assert!(said.stderr.contains("Permission denied"), "{user}: {attempt}: {said:?}");
            assert_ne!(said.exit, Some(Exit::code(0)), "{user}: {attempt}");
        }
    }
    // With CAP_KILL they may signal it: the kernel drops what the first process has no handler for, and SIGTERM counts
    // only if it comes from the host.
    for user in ["nobody", "0"] {
        let said =
            run_as(&guest, user, "for s in 9 STOP TERM INT HUP QUIT PIPE CHLD; do kill -$s 1; done; echo on").await;
        assert_eq!(said.stdout, "on\n", "{user}: {said:?}");
        // Whoever accepts a new connection has not begun to end. The old one goes first: of two, each takes the other's place.
        drop(guest);
        guest = sandbox.connect().await;
        assert_eq!(run_as(&guest, user, "echo still here").await.stdout, "still here\n");
        assert!(alive(sandbox.pid));
    }
    kill_process(Pid::from_raw(sandbox.pid.cast_signed()).unwrap(), Signal::TERM).unwrap();
    until("the host's SIGTERM ends it", || !alive(sandbox.pid)).await;
    let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(0));
    let guest = sandbox.connect().await;
    let said = run_as(&guest, "nobody", "kill -9 1").await;
    assert!(said.stderr.contains("not permitted"), "{said:?}");
}

/// N22, N34, N35: one namespace of processes, ended with the main process.
#[tokio::test]
async fn n22_the_first_process_ends_everything() {
    if !possible("N22") {
        return;
    }
    let sandbox = Sandbox::launch_jailed(|_| {});
    let guest = sandbox.connect().await;
    let listed = guest.processes().await.unwrap();
    let pids: Vec<(u32, u32)> = listed.iter().map(|p| (p.pid, p.ppid)).collect();
    assert_eq!(pids, [(1, 0)], "{listed:?}");
    let sleeping = marker();
    let script = format!("setsid sh -c 'setsid sleep {sleeping} & sleep {sleeping}' & sleep 0.2; exit 6");
    guest.start_main(&sh(&script)).await.unwrap();
    until("children", || running(&sleeping).len() == 2).await;
    assert_eq!(guest.wait_main().await.unwrap(), Exit::code(6));
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    until_alone(&guest).await;
}

/// N31 in a jail: the terminal belongs to whoever was given it; ids and the root are the sandbox's own.
#[tokio::test]
async fn n31_a_terminal_of_the_users_own() {
    if !possible("N31") {
        return;
    }
    let sandbox = Sandbox::launch_jailed(|_| {});
    let guest = sandbox.connect().await;
    let spec = ExecSpec {
        pty: Some(PtySize { rows: 100, cols: 100 }),
        ..exec_sh("stty size; tty; echo by name > $(tty); id -u; hostname; pwd")
    };
    let said = listen(guest.exec(&spec).await.unwrap()).await;
    assert_eq!(said.stdout, "100 100\r\n/dev/pts/0\r\nby name\r\n65534\r\njailed\r\n/\r\n");
    // An id beyond the range of the sandbox does not exist in it.
    let mut spec = exec_sh("id");
    spec.process.user = Some("70000".to_owned());
    let error = guest.exec(&spec).await.unwrap_err();
    assert!(error.chain().contains("70000:70000 does not exist"), "{}", error.chain());
}
