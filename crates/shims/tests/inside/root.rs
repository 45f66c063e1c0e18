//! A root with busybox, a shell and the shims, and scripts run in it as the first process of namespaces of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use moat_testkit::{is_root, not_run};
use tempfile::TempDir;

/// Which shell `/bin/sh` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    Dash,
    Ash,
}

pub const SHELLS: [Shell; 2] = [Shell::Dash, Shell::Ash];

const APPLETS: [&str; 32] = [
    "sh", "cat", "ls", "mkdir", "rm", "sleep", "kill", "mount", "chmod", "touch", "env", "grep", "sed", "tr", "wc",
    "id", "stat", "readlink", "true", "false", "head", "tail", "echo", "chown", "mv", "ln", "sort", "usleep", "cut",
    "printf", "ps", "pgrep",
];

/// A root on the host's disk. What runs in it ends with the call that ran it.
pub struct Root {
    dir: TempDir,
}

impl Root {
    /// A new one; nothing if this machine cannot have any, which is reported under `id`.
    pub fn new(id: &str, shell: Shell) -> Option<Self> {
        if !is_root() {
            not_run(id, "namespaces and other users need root");
            return None;
        }
        let Some(busybox) = moat_testkit::busybox() else {
            not_run(id, "there is no busybox");
            return None;
        };
        if !Path::new("/usr/bin/dash").exists() {
            not_run(id, "there is no dash");
            return None;
        }
        let root = Self { dir: tempfile::tempdir().unwrap() };
        for dir in
            ["bin", "usr/bin", "usr/sbin", "usr/local/bin", "sbin", "etc", "proc", "dev", "run", "tmp", "var", "root"]
        {
            fs::create_dir_all(root.path(dir)).unwrap();
        }
        // mkdtemp gives it to its owner alone; other users must pass.
        fs::set_permissions(root.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(root.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("../run", root.path("var/run")).unwrap();
        fs::copy(busybox, root.path("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.path("bin").join(applet)).unwrap();
        }
        root.bring("/usr/bin/dash", "usr/bin/dash");
        // Debian's busybox has none.
        root.bring("/usr/bin/install", "usr/bin/install");
        if shell == Shell::Dash {
            fs::remove_file(root.path("bin/sh")).unwrap();
            symlink("/usr/bin/dash", root.path("bin/sh")).unwrap();
        }
        root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
        root.write("etc/group", "root:x:0:\nlog:x:4:\n", 0o644);
        root.write("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640);
        root.shims();
        Some(root)
    }

    /// The directory of the shims, with the program as this build has it.
    fn shims(&self) {
        let dir = self.path(".moat");
        for file in moat_shims::files() {
            let place = dir.join(file.path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, file.bytes).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(file.mode)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_moat-shims"), dir.join("moat-shims")).unwrap();
        for link in moat_shims::links() {
            let place = dir.join(link.path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            symlink(link.target, place).unwrap();
        }
    }

    /// A path of the root, on the host.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// What a file of the root holds.
    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_else(|e| panic!("{inside}: {e}"))
    }

    pub fn write(&self, inside: &str, text: &str, mode: u32) {
        let place = self.path(inside);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, text).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Copies a program of the host with the libraries it names.
    pub fn bring(&self, from: &str, to: &str) {
        fs::create_dir_all(self.path(to).parent().unwrap()).unwrap();
        fs::copy(from, self.path(to)).unwrap();
        let libraries = Command::new("ldd").arg(from).output().unwrap();
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let place = self.path(word.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(word, place).unwrap();
        }
    }

    /// Runs a script as the first process in namespaces of its own; everything it started ends with it. Both outputs and the
    /// exit status.
    pub fn run(&self, script: &str) -> (String, i32) {
        let head = "PATH=/.moat/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n\
            /bin/mount -t proc proc /proc\n\
            [ -e /dev/null ] || /bin/busybox mknod -m 666 /dev/null c 1 3\n\
            [ -e /dev/urandom ] || /bin/busybox mknod -m 666 /dev/urandom c 1 9\n\
            # until 'TEXT' COMMAND...: waits until the output has the text\n\
            until_says() { _n=0; until \"${@:-true}\" 2>&1 | grep -q \"$_want\"; do usleep 50000; _n=$((_n + 1)); \
              [ $_n -lt 1200 ] || { echo \"never said $_want: $*\"; exit 99; }; done; }\n\
            wait_for() { _n=0; until eval \"$1\" >/dev/null 2>&1; do usleep 50000; _n=$((_n + 1)); \
              [ $_n -lt 1200 ] || { echo \"never true: $1\"; exit 99; }; done; }\n";
        let output = Command::new("timeout")
            .args([
                "-k",
                "5",
                "180",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--net",
                "--uts",
                "--ipc",
            ])
            .arg(format!("--root={}", self.dir.path().display()))
            .args(["/bin/sh", "-c", &format!("{head}exec 2>&1\n{script}")])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.code().unwrap_or(-1))
    }

    /// Runs a script that must end well: its output.
    pub fn ok(&self, script: &str) -> String {
        let (text, status) = self.run(script);
        assert_eq!(status, 0, "{script}\n---\n{text}");
        text
    }
}
