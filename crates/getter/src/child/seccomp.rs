//! System calls the child and git in it never make.
//!
//! A list of what is denied, not of what is allowed: git and ssh are the distribution's, and what they call changes with it.
//! What is denied is what leads out: other processes, other namespaces, mounts, the kernel itself.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Denied whatever the arguments.
const DENIED: [i64; 67] = [
    // Other processes. What is started stays in the group the parent ends.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files by other ways than paths, programs by other ways than files.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_execveat,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_personality,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Memory shared with others.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// Namespaces a clone could make.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Restricts this thread and all that come from it.
pub(super) fn apply() -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| text(&e))?;
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.into_iter().map(|call| (call, Vec::new())).collect();
    denied.insert(libc::SYS_clone, clones().map_err(|e| text(&e))?);
    denied.insert(libc::SYS_socket, sockets().map_err(|e| text(&e))?);
    #[cfg(target_arch = "x86_64")]
    denied.insert(libc::SYS_mknod, Vec::new());
    // Its flags lie in memory, where no filter looks; callers fall back to clone.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, action) in [(unknown, errno(libc::ENOSYS)), (denied, errno(libc::EPERM))] {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(|e| text(&e))?;
        let program: seccompiler::BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| text(&e))?;
        seccompiler::apply_filter(&program).map_err(|e| text(&e))?;
    }
    #[cfg(target_arch = "x86_64")]
    seccompiler::apply_filter(&no_x32()).map_err(|e| text(&e))?;
    Ok(())
}

/// The calls of x32 have other numbers for the same things: none of them.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> seccompiler::BpfProgram {
    let statement = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    vec![
        // Load the number, jump if it has the bit, else allow.
        statement(0x20, 0, 0, 0),
        statement(0x35, 0, 1, 0x4000_0000),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

type Rules = Result<Vec<SeccompRule>, seccompiler::BackendError>;

fn clones() -> Rules {
    let rule = |flag: i32| {
        let flag = u64::from(flag.unsigned_abs());
        let makes = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![makes])
    };
    NAMESPACES.into_iter().map(rule).collect()
}

/// Internet, and the kernel's routing, which resolving names asks. No sockets of programs on this host.
fn sockets() -> Rules {
    let is = |index, op, value: i32| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, u64::from(value.unsigned_abs()))
    };
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let others = families.into_iter().map(|family| is(0, SeccompCmpOp::Ne, family)).collect::<Result<Vec<_>, _>>()?;
    let netlink = vec![is(0, SeccompCmpOp::Eq, libc::AF_NETLINK)?, is(2, SeccompCmpOp::Ne, libc::NETLINK_ROUTE)?];
    Ok(vec![SeccompRule::new(others)?, SeccompRule::new(netlink)?])
}
