//! What this host must have, looked up without changing anything.

use std::fs;
use std::path::Path;

use moat_engine::driver::{Need, Requirement};

use crate::linux::cgroup::{Controller, Hierarchy};

/// Oldest kernel with everything the launcher calls: clone3 (5.3), openat2 (5.6), mount_setattr (5.12).
const KERNEL_MIN: (u32, u32) = (5, 12);

/// `fs.nr_open` where nobody changed it.
const NR_OPEN: u64 = 1 << 20;

/// Every requirement, met or not, with the fact that decided it.
pub(crate) fn requirements(hierarchy: &Hierarchy) -> Vec<Requirement> {
    let mut found = vec![root(), kernel(), user_namespaces(), proc_mountable(), seccomp(), executable_memfd()];
    found.extend(
        [
            ("mount", "mnt"),
            ("pid", "pid"),
            ("network", "net"),
            ("ipc", "ipc"),
            ("host name", "uts"),
            ("cgroup", "cgroup"),
        ]
        .map(|(name, file)| namespace(name, file)),
    );
    found.extend(["tmpfs", "overlay", "proc", "sysfs", "devpts", "mqueue"].map(file_system));
    found.extend(
        [
            (Controller::Memory, Need::Required),
            (Controller::Pids, Need::Required),
            (Controller::Cpu, Need::Required),
            (Controller::Cpuset, Need::Optional),
        ]
        .map(|(controller, need)| cgroup_controller(hierarchy, controller, need)),
    );
    found.push(image_roots());
    found.push(open_files());
    found.push(loopback_only());
    found
}

fn requirement(name: &str, need: Need, met: bool, fact: String, fix: &str) -> Requirement {
    Requirement { name: name.to_owned(), need, met, fact, fix: (!met).then(|| fix.to_owned()) }
}

fn root() -> Requirement {
    let uid = rustix::process::geteuid().as_raw();
    requirement("root", Need::Required, uid == 0, format!("effective uid {uid}"), "run the daemon as root")
}

fn kernel() -> Requirement {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let fix = format!("boot Linux {}.{} or later", KERNEL_MIN.0, KERNEL_MIN.1);
    requirement("kernel", Need::Required, version(&release) >= KERNEL_MIN, format!("Linux {release}"), &fix)
}

fn user_namespaces() -> Requirement {
    let path = "/proc/sys/user/max_user_namespaces";
    let exists = Path::new("/proc/self/ns/user").exists();
    let max: Option<u64> = read(path).and_then(|text| text.parse().ok());
    let fact = match (exists, max) {
        (false, _) => "this kernel has none".to_owned(),
        (true, Some(max)) => format!("{path} is {max}"),
        (true, None) => format!("{path} cannot be read"),
    };
    let fix = "sysctl -w user.max_user_namespaces=100000 (a kernel with CONFIG_USER_NS)";
    requirement("user namespaces", Need::Required, exists && max.is_some_and(|max| max > 0), fact, fix)
}

fn namespace(name: &str, file: &str) -> Requirement {
    let path = Path::new("/proc/self/ns").join(file);
    let met = path.exists();
    let fact = format!("{} {}", path.display(), if met { "exists" } else { "does not exist" });
    requirement(&format!("{name} namespaces"), Need::Required, met, fact, "boot a kernel built with CONFIG_NAMESPACES")
}

/// The kernel lets a user namespace mount `/proc` only if the one it comes from hides nothing.
fn proc_mountable() -> Requirement {
    let mounts = read("/proc/self/mountinfo").unwrap_or_default();
    let covers: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // An automount point the kernel itself keeps empty.
        .filter(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc")
        .collect();
    let fact = match covers.first() {
        None => "nothing is mounted over parts of /proc".to_owned(),
        Some(first) => format!("{} mounts cover parts of /proc, such as {first}", covers.len()),
    };
    let fix = "run the daemon outside of a container, or in one whose /proc is not masked";
    requirement("/proc can be mounted", Need::Required, covers.is_empty(), fact, fix)
}

fn seccomp() -> Requirement {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = read(path);
    let met = actions.as_deref().is_some_and(|text| text.contains("errno"));
    let fact = actions.map_or_else(|| format!("{path} does not exist"), |text| format!("actions: {text}"));
    requirement("seccomp filters", Need::Required, met, fact, "boot a kernel built with CONFIG_SECCOMP_FILTER")
}

fn executable_memfd() -> Requirement {
    let value = read("/proc/sys/vm/memfd_noexec");
    let met = value.as_deref().is_none_or(|value| value != "2");
    let fact =
        value.map_or_else(|| "this kernel has no vm.memfd_noexec".to_owned(), |v| format!("vm.memfd_noexec is {v}"));
    requirement("executable memfd", Need::Required, met, fact, "sysctl -w vm.memfd_noexec=1")
}

fn file_system(name: &str) -> Requirement {
    let known = read("/proc/filesystems").unwrap_or_default();
    let met = known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    // A module that is not loaded is not listed, but mounting loads it.
    let module = || {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let dir = Path::new("/lib/modules").join(release).join("kernel/fs").join(name);
        dir.exists().then_some(format!("{name} is a module that is loaded when needed"))
    };
    let (met, fact) = match (met, if met { None } else { module() }) {
        (true, _) => (true, format!("{name} is in /proc/filesystems")),
        (false, Some(fact)) => (true, fact),
        (false, None) => (false, format!("{name} is not in /proc/filesystems")),
    };
    requirement(&format!("{name} file system"), Need::Required, met, fact, &format!("modprobe {name}"))
}

fn cgroup_controller(hierarchy: &Hierarchy, controller: Controller, need: Need) -> Requirement {
    let name = controller.as_str();
    let at = hierarchy.controller(controller);
    let layout = hierarchy.layout();
    let fact = at.map_or_else(
        || format!("cgroups are {layout}; no hierarchy has {name}"),
        |path| format!("cgroups are {layout}; {name} is at {}", path.display()),
    );
    let fix = format!(
        "enable the controller: echo +{name} > /sys/fs/cgroup/cgroup.subtree_control (or cgroup_enable={name} at boot)"
    );
    requirement(&format!("cgroup {name}"), need, at.is_some(), fact, &fix)
}

/// Oldest kernel that maps the ids of erofs mounts and takes such mounts as layers of an overlay.
const IMAGES_KERNEL_MIN: (u32, u32) = (5, 19);

/// What sandboxes made of images need beyond the others.
pub(super) fn image_roots() -> Requirement {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let erofs = file_system("erofs");
    let new_enough = version(&release) >= IMAGES_KERNEL_MIN;
    let fact = format!("Linux {release}; {}", erofs.fact);
    let (major, minor) = IMAGES_KERNEL_MIN;
    let fix = if new_enough { "modprobe erofs".to_owned() } else { format!("boot Linux {major}.{minor} or later") };
    requirement("roots of images", Need::Optional, erofs.met && new_enough, fact, &fix)
}

/// The first two numbers of a release.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Most open files a process of a sandbox can be allowed: the daemon's own hard limit, or what the kernel allows at all if
/// the daemon may raise it.
pub(crate) fn nofile_ceiling() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let may_raise = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE));
    let kernel = read("/proc/sys/fs/nr_open").and_then(|text| text.parse().ok()).unwrap_or(NR_OPEN);
    if may_raise { kernel } else { hard.unwrap_or(kernel).min(kernel) }
}

fn open_files() -> Requirement {
    let (ceiling, wanted) = (nofile_ceiling(), super::config::ResourceDefaults::default().nofile);
    let fact = format!("at most {ceiling} open files for each process can be given, {wanted} are the default");
    requirement("open files", Need::Optional, ceiling >= wanted, fact, "LimitNOFILE=1048576 in the daemon's unit")
}

/// Tunnel drivers put a device into each new network namespace unless told not to. They lead nowhere, but a namespace
/// that should hold loopback only then holds more.
fn loopback_only() -> Requirement {
    let path = "/proc/sys/net/core/fb_tunnels_only_for_init_net";
    let value = read(path);
    let drivers: Vec<&str> = ["ipip", "sit", "ip_gre", "ip6_tunnel", "ip6_gre", "ip_vti", "ip6_vti"]
        .into_iter()
        .filter(|module| Path::new("/sys/module").join(module).exists())
        .collect();
    let met = drivers.is_empty() || matches!(value.as_deref(), Some("1" | "2") | None);
    let fact = match value {
        _ if drivers.is_empty() => "no tunnel driver is loaded".to_owned(),
        Some(value) => format!("{path} is {value}; loaded: {}", drivers.join(", ")),
        None => format!("{path} does not exist; loaded: {}", drivers.join(", ")),
    };
    requirement("loopback only", Need::Optional, met, fact, "sysctl -w net.core.fb_tunnels_only_for_init_net=1")
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
