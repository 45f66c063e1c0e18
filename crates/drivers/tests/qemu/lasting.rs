//! Machines whose root outlives them, in a directory of the host.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use moat_engine::driver::{Driver as _, Place, Recovered};
use moat_model::spec::{Bind, BindIds, LastingRoot, Security};
use moat_model::{ErrorKind, SandboxSpec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Bed, DEADLINE, UID_BASE, Vm};

/// First ids of these roots: apart from those of machines that end.
const BASE: u32 = UID_BASE + (1 << 25);

fn directory(bed: &Bed, name: &str) -> PathBuf {
    let dir = bed.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn lasting(bed: &Bed, dir: &Path) -> SandboxSpec {
    let security = Security { allow_new_privs: true, ..Security::default() };
    let lasting = Some(LastingRoot { dir: dir.to_owned(), uid_base: BASE });
    SandboxSpec { lasting, security, hostname: Some("jail-1".to_owned()), ..bed.spec() }
}

async fn started(bed: &Bed, spec: SandboxSpec) -> Vm {
    let place = Place { uid_base: BASE, ..bed.place() };
    bed.machine_at(place, spec).await
}

fn server(vm: &Vm) -> i32 {
    let text = fs::read_to_string(vm.place.run_dir.join("files.json")).unwrap();
    let server: serde_json::Value = serde_json::from_str(&text).unwrap();
    server["process"]["pid"].as_i64().unwrap().try_into().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// As a container has it: the same files on the host, by the same ids, for the next machine, container, copy or archive.
#[tokio::test]
async fn what_is_written_is_there_for_the_next() {
    let Some(bed) = Bed::new("lasting") else { return };
    let dir = directory(&bed, "jail");
    let shown = directory(&bed, "shown");
    fs::set_permissions(&shown, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(shown.join("tool"), "#!/bin/sh\necho shown\n").unwrap();
    fs::set_permissions(shown.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let bind = Bind { source: shown, target: "/opt/node".into(), read_only: true, ids: BindIds::Host };
    let root = || SandboxSpec { binds: vec![bind.clone()], ..lasting(&bed, &dir) };
    let first = started(&bed, root()).await;
    assert_eq!(first.sh("hostname; cat /etc/hostname").await, "jail-1\njail-1");
    assert_ne!(first.sh("uname -r").await, fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    assert_eq!(first.sh("/opt/node/tool; cat /etc/gone").await, "shown\ngone");
    let refused = first.run("echo x > /opt/node/new").await.stderr;
    assert!(refused.contains("Read-only file system"), "{refused}");
    let change = "echo kept > /etc/kept && rm /etc/gone && rm -r /opt/dir && mkdir /opt/dir && echo n > /opt/dir/n &&
                  cat /bin/busybox > /bin/su && chmod 4755 /bin/su && echo secret > /secrets/s && echo l > /local/l &&
                  mkdir /home && echo mine > /home/f && chown 1000:1000 /home/f && mv /opt/dir/n /opt/dir/m &&
                  exec 5<>/tmp/open && rm /tmp/open && echo gone >&5 && ln -s /etc/kept /home/link";
    first.sh(change).await;
    let machine = first.sh("cat /etc/machine-id").await;
    first.end().await;
    let upper = dir.join("upper");
    let owner = |path: &str| fs::symlink_metadata(upper.join(path)).unwrap().uid();
    assert_eq!([owner(""), owner("etc/kept"), owner("home/f")], [BASE, BASE, BASE + 1000]);
    let su = fs::metadata(upper.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid()), (0o4755, BASE));
    let gone = fs::symlink_metadata(upper.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(!upper.join("secrets/s").exists() && !upper.join("local/l").exists(), "{:?}", names(&upper));
    assert_eq!(names(&upper.join("tmp")), [""; 0]);
    let next = started(&bed, root()).await;
    let seen = "cat /etc/kept /opt/dir/m /home/f /home/link; ls /secrets /local; test -e /etc/gone || echo gone";
    assert_eq!(next.sh(seen).await, "kept\nn\nmine\nkept\n/local:\n\n/secrets:\ngone");
    assert_eq!(next.sh("cat /etc/machine-id").await, machine, "whoever comes back to the same files is the same");
    next.end().await;
    // Another directory of the same files is another's.
    let other = directory(&bed, "copy");
    let third = started(&bed, lasting(&bed, &other)).await;
    assert_ne!(third.sh("cat /etc/machine-id").await, machine);
    third.end().await;
}

/// It stands still and goes on, is found by the next daemon, and is kept by nobody.
#[tokio::test]
async fn it_is_paused_and_found_again_and_refuses_what_would_leave_its_root_behind() {
    let Some(bed) = Bed::new("lasting life") else { return };
    let dir = directory(&bed, "jail");
    let mut vm = started(&bed, lasting(&bed, &dir)).await;
    vm.freeze().await;
    vm.thaw().await;
    vm.sh("echo one > /etc/one").await;
    vm.guest = None;
    vm.driver = bed.next_driver();
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    let Recovered::Alive(guest) = found else { panic!("{found:?}") };
    vm.guest = Some(guest);
    assert_eq!(vm.sh("cat /etc/one").await, "one");
    assert_eq!(fs::read_to_string(dir.join("upper/etc/one")).unwrap(), "one\n");
    vm.freeze().await;
    let into = bed.dir.path().join("kept");
    let refusals = [
        vm.driver.stower().unwrap().stow(vm.record()).await.unwrap_err(),
        vm.driver.snapshotter().unwrap().snapshot(vm.record(), &into).await.unwrap_err(),
        vm.driver.capturer().unwrap().capture(vm.record(), &into).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|refusal| refusal.kind == ErrorKind::Unsupported), "{refusals:?}");
    vm.thaw().await;
    assert_eq!(vm.sh("cat /etc/one").await, "one");
    // Whoever serves the files is gone: so is the machine, and that is said.
    let lost = tokio::spawn({
        let guest = vm.guest();
        async move { guest.lost().await }
    });
    kill_process(Pid::from_raw(server(&vm)).unwrap(), Signal::KILL).unwrap();
    let why = tokio::time::timeout(DEADLINE, lost).await.unwrap().unwrap();
    assert!(why.contains("has ended"), "{why}");
    let found = vm.driver.recover(vm.record()).await.map_err(|e| e.chain()).unwrap();
    assert!(matches!(&found, Recovered::Gone { .. }), "{found:?}");
    vm.end().await;
}

/// Who serves the files has those of the machine and nothing else of the host, and takes nothing on from the machine that the
/// host would honour.
#[tokio::test]
async fn who_serves_the_files_has_nothing_else() {
    let Some(bed) = Bed::new("lasting escape") else { return };
    let (dir, others) = (directory(&bed, "jail"), directory(&bed, "other"));
    let vm = started(&bed, lasting(&bed, &dir)).await;
    let proc = Path::new("/proc").join(server(&vm).to_string());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(field("Uid:").iter().all(|id| *id == BASE.to_string()), "{status}");
    // chown, dac_override, fowner, fsetid, setgid, setuid, mknod, setfcap: over ids that are nobody's.
    let kept = u64::from_str_radix(&field("CapEff:")[0], 16).unwrap();
    assert_eq!(kept & !0x8800_00db, 0, "{status}");
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |path: &Path| fs::read_link(path.join("ns").join(kind)).unwrap();
        assert_ne!(of(&proc), of(Path::new("/proc/self")), "{kind}");
    }
    let root = proc.join("root");
    for path in [&*others, &*vm.place.run_dir, Path::new("/etc/shadow"), Path::new("/usr"), Path::new("/proc")] {
        let inside = root.join(path.strip_prefix("/").unwrap());
        match fs::symlink_metadata(&inside) {
            Err(refused) => assert_eq!(refused.raw_os_error(), Some(Errno::NOENT.raw_os_error()), "{inside:?}"),
            // Of the machine's own root.
            Ok(found) => assert!(found.is_dir() && found.uid() >= BASE && names(&inside).is_empty(), "{inside:?}"),
        }
    }
    // A device of the host, and a name that leads out of what is served: the machine's own kernel follows it, in the machine.
    let refused = vm.run("mknod /dev-sda b 8 0").await.stderr;
    assert!(refused.contains("not permitted") || refused.contains("not found"), "{refused}");
    fs::write(others.join("secret"), "of another").unwrap();
    let line = format!("ln -s {} /lead && cat /lead", others.join("secret").display());
    let followed = vm.run(&line).await;
    assert!(followed.stdout.is_empty() && followed.stderr.contains("No such file"), "{followed:?}");
    vm.end().await;
}
