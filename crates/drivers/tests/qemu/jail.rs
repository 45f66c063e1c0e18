//! The monitor is in a jail: whoever breaks out of a guest is in there, and has nothing.

use std::fs;
use std::path::Path;

use moat_engine::driver::VMM_UID;
use rustix::io::Errno;

use crate::bed::Bed;

#[tokio::test]
async fn the_monitor_has_nothing() {
    let Some(bed) = Bed::new("jail") else { return };
    let vm = bed.machine(bed.spec()).await;
    let proc = Path::new("/proc").join(vm.pid().to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let uid = (vm.place.uid_base + VMM_UID).to_string();
    assert!(field("Uid:").iter().chain(&field("Gid:")).all(|id| *id == uid), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |path: &Path| fs::read_link(path.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    // Seen through its own root: nothing of the host but what it is shown, and nothing it may write to.
    let root = proc.join("root");
    for path in
        [&*vm.place.run_dir, &*vm.place.data_dir, Path::new("/etc/shadow"), Path::new("/home"), Path::new("/run")]
    {
        let inside = root.join(path.strip_prefix("/").unwrap());
        let refused = fs::symlink_metadata(&inside).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::NOENT.raw_os_error()), "{}", inside.display());
    }
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(4);
        let (point, options) = (fields.next().unwrap(), fields.next().unwrap());
        let own = ["/proc", "/dev", "/tmp"].iter().any(|dir| point.starts_with(dir)) || point == "/";
        assert!(own || options.split(',').any(|option| option == "ro"), "{line}");
    }
    vm.end().await;
}
