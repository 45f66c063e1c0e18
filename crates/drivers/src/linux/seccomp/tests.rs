//! The compiled programs, run through a small interpreter for every call there is, and in the kernel for some.

use super::*;

/// What the kernel would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Errno(i32),
    Kill,
}

const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
const I386: u32 = 0x4000_0003;

/// Runs all programs the way the kernel does: the most severe answer wins, among equals that of the one installed last.
fn judge(filters: &[Vec<u8>], arch: u32, nr: u32, args: [u64; 6]) -> Verdict {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|a| data.extend(a.to_le_bytes()));
    let answers = filters.iter().rev().map(|program| interpret(program, &data));
    // Actions are ordered as signed numbers; `min_by_key` keeps the first of equals.
    let answer = answers.min_by_key(|a| (*a & 0xffff_0000).cast_signed()).unwrap();
    match answer & 0xffff_0000 {
        0x7fff_0000 => Verdict::Allow,
        0x0005_0000 => Verdict::Errno((answer & 0xffff).cast_signed()),
        0x8000_0000 | 0 => Verdict::Kill,
        other => panic!("unexpected answer {other:#x}"),
    }
}

fn interpret(program: &[u8], data: &[u8]) -> u32 {
    let (mut at, mut a) = (0, 0u32);
    loop {
        let step = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([step[0], step[1]]);
        let (jt, jf) = (usize::from(step[2]), usize::from(step[3]));
        let k = u32::from_ne_bytes([step[4], step[5], step[6], step[7]]);
        at += 1;
        let mut branch = |taken: bool| at += if taken { jt } else { jf };
        match code {
            0x20 => a = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            0x45 => branch(a & k != 0),
            0x06 => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn native(filters: &[Vec<u8>], nr: i64, args: [u64; 6]) -> Verdict {
    judge(filters, NATIVE, u32::try_from(nr).unwrap(), args)
}

fn defaults() -> Vec<Vec<u8>> {
    default_filters(capability::DEFAULT).unwrap()
}

const NOTHING: [u64; 6] = [0; 6];
const EPERM: Verdict = Verdict::Errno(libc::EPERM);
const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS);

/// Every number there is gets exactly what the table says.
#[test]
fn every_call_is_judged_as_the_table_says() {
    let filters = default_filters(0).unwrap();
    let allowed: Vec<i64> = table::ALLOWED.iter().chain(table::ALLOWED_LEGACY).map(|(_, nr)| *nr).collect();
    let conditional: Vec<i64> = table::CONDITIONAL.iter().map(|c| c.call.1).collect();
    for nr in 0..2000u32 {
        let expected = match i64::from(nr) {
            n if n == libc::SYS_clone3 || nr > table::LAST_KNOWN => ENOSYS,
            n if allowed.contains(&n) => Verdict::Allow,
            n if conditional.contains(&n) => continue,
            _ => EPERM,
        };
        assert_eq!(judge(&filters, NATIVE, nr, NOTHING), expected, "call {nr}");
    }
}

#[test]
fn the_lists_have_no_call_twice_and_nothing_dangerous() {
    let mut all: Vec<_> = table::ALLOWED.iter().chain(table::ALLOWED_LEGACY).collect();
    all.extend(table::OPENED.iter().flat_map(|o| o.calls));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 != pair[1].1), "{all:?}");
    for closed in [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_open_by_handle_at,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
    ] {
        assert_eq!(
            native(&default_filters(u64::MAX).unwrap(), closed, NOTHING),
            EPERM,
            "{closed} with every capability"
        );
    }
    for closed in
        [libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_ptrace]
    {
        assert_eq!(native(&defaults(), closed, NOTHING), EPERM, "{closed}");
    }
}

#[test]
fn foreign_architectures_are_killed_and_x32_refused() {
    assert_eq!(judge(&defaults(), I386, 1, NOTHING), Verdict::Kill);
    for nr in [0, 1, 56, 435, 520] {
        assert_eq!(judge(&defaults(), NATIVE, 0x4000_0000 | nr, NOTHING), EPERM, "x32 {nr}");
    }
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespaces() {
    let clone = |flags: i32| native(&defaults(), libc::SYS_clone, [flags as u32 as u64, 0, 0, 0, 0, 0]);
    assert_eq!(clone(libc::SIGCHLD), Verdict::Allow);
    assert_eq!(clone(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND), Verdict::Allow);
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ] {
        assert_eq!(clone(flag | libc::SIGCHLD), EPERM, "{flag:#x}");
    }
    let admin = default_filters(1 << 21).unwrap();
    assert_eq!(native(&admin, libc::SYS_clone, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]), Verdict::Allow);
}

#[test]
fn arguments_cannot_be_smuggled_in_the_upper_half() {
    for request in
        [libc::TIOCSTI, libc::TIOCSTI | 1 << 32, 0xdead_beef_0000_0000 | libc::TIOCSTI, 0x541C, libc::TIOCSETD]
    {
        assert_eq!(native(&defaults(), libc::SYS_ioctl, [0, request, 0, 0, 0, 0]), EPERM, "{request:#x}");
    }
    assert_eq!(native(&defaults(), libc::SYS_ioctl, [0, libc::TCGETS, 0, 0, 0, 0]), Verdict::Allow);
}

#[test]
fn personalities_are_the_standard_ones() {
    let ask = |value: u64| native(&defaults(), libc::SYS_personality, [value, 0, 0, 0, 0, 0]);
    for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(ask(value), Verdict::Allow, "{value:#x}");
    }
    for value in [0x004_0000 /* ADDR_NO_RANDOMIZE */, 0x040_0000 /* READ_IMPLIES_EXEC */, 6] {
        assert_eq!(ask(value), EPERM, "{value:#x}");
    }
}

#[test]
fn sockets_are_those_of_a_network_namespace() {
    let ask = |caps, family: i32, protocol: i32| {
        native(&default_filters(caps).unwrap(), libc::SYS_socket, [family as u64, 3, protocol as u64, 0, 0, 0])
    };
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        assert_eq!(ask(0, family, 0), Verdict::Allow);
    }
    for family in
        [libc::AF_VSOCK, libc::AF_ALG, libc::AF_PACKET, libc::AF_RDS, libc::AF_CAN, libc::AF_TIPC, libc::AF_XDP]
    {
        assert_eq!(ask(0, family, 0), EPERM, "{family}");
    }
    assert_eq!(ask(0, libc::AF_NETLINK, libc::NETLINK_ROUTE), Verdict::Allow);
    assert_eq!(ask(0, libc::AF_NETLINK, libc::NETLINK_NETFILTER), EPERM);
    assert_eq!(ask(1 << 13, libc::AF_PACKET, 3), Verdict::Allow);
    assert_eq!(ask(1 << 12, libc::AF_NETLINK, libc::NETLINK_NETFILTER), Verdict::Allow);
    assert_eq!(ask(u64::MAX, libc::AF_VSOCK, 0), EPERM);
}

#[test]
fn a_capability_opens_its_calls_and_no_others() {
    let without = defaults();
    for opened in table::OPENED {
        let with = default_filters(capability::bit(opened.capability).unwrap()).unwrap();
        for (name, nr) in opened.calls {
            assert_eq!(native(&with, *nr, NOTHING), Verdict::Allow, "{name}");
            if opened.capability != "sys_chroot" {
                assert_eq!(native(&without, *nr, NOTHING), EPERM, "{name}");
            }
        }
    }
}

/// Installed on a thread of its own, in the kernel.
#[test]
fn the_kernel_takes_the_programs_and_answers_as_the_interpreter() {
    let answers = std::thread::spawn(|| {
        for filter in defaults() {
            let program: Vec<sock_filter> = filter
                .chunks_exact(8)
                .map(|s| sock_filter {
                    code: u16::from_ne_bytes([s[0], s[1]]),
                    jt: s[2],
                    jf: s[3],
                    k: u32::from_ne_bytes([s[4], s[5], s[6], s[7]]),
                })
                .collect();
            seccompiler::apply_filter(&program).unwrap();
        }
        let mount =
            rustix::mount::mount("none", "/nonexistent", "tmpfs", rustix::mount::MountFlags::empty(), None).err();
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::VSOCK, rustix::net::SocketType::STREAM, None).err();
        let chroot = rustix::process::chroot("/nonexistent").err();
        let child = std::process::Command::new("/bin/true").status().map(|s| s.success());
        (mount, socket, chroot, child.unwrap())
    });
    let (mount, socket, chroot, child) = answers.join().unwrap();
    assert_eq!(mount, Some(rustix::io::Errno::PERM));
    assert_eq!(socket, Some(rustix::io::Errno::PERM));
    assert_eq!(chroot, Some(rustix::io::Errno::NOENT), "allowed by the filter: sys_chroot is one of the 13");
    assert!(child, "a process can still be started");
}
