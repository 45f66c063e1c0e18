//! The stand-in itself: it refuses what Firecracker's published interface does not have, in that version and at that point.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::host::{DEADLINE, stub};

/// A monitor without a jail.
struct Monitor {
    child: Child,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    fn new(version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api");
        let child = Command::new(stub(dir.path(), &format!("firecracker,{version}")))
            .args(["--id", "x", "--api-sock"])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let up = async || UnixStream::connect(&socket).ok().map(drop);
        runtime.block_on(moat_testkit::wait_until(DEADLINE, "the stand-in listens", up)).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("kernel"), b"\x7fELF").unwrap();
        std::fs::write(path("initrd"), b"070701 init\0 TRAILER!!!\0").unwrap();
        std::fs::write(path("disk"), b"").unwrap();
        Self { child, socket, dir }
    }

    /// Status and message.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let body = body.replace("$", &self.dir.path().to_string_lossy());
        let mut socket = UnixStream::connect(&self.socket).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        socket.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let message = serde_json::from_str::<serde_json::Value>(body)
            .ok()
            .and_then(|body| body["fault_message"].as_str().map(str::to_owned));
        (status, message.unwrap_or_default())
    }

    fn done(&self, method: &str, path: &str, body: &str) {
        assert_eq!(self.ask(method, path, body), (204, String::new()), "{method} {path}");
    }

    fn refused(&self, method: &str, path: &str, body: &str, why: &str) {
        let (status, message) = self.ask(method, path, body);
        assert_eq!(status, 400, "{method} {path} {body}: {message}");
        assert!(message.contains(why), "{method} {path} {body}: {message}");
    }

    fn booted(version: &str) -> Self {
        let monitor = Self::new(version);
        monitor.done("PUT", "/boot-source", r#"{"kernel_image_path":"$/kernel","initrd_path":"$/initrd"}"#);
        monitor.done("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"$/v"}"#);
        monitor.done("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
        monitor
    }
}

const AFTER: &str = "not supported after starting";
const BEFORE: &str = "not supported before starting";

#[test]
fn wrong_fields_are_refused_by_name() {
    let monitor = Monitor::new("1.16.0");
    for (path, body, why) in [
        ("/machine-config", r#"{"vcpu_count":1}"#, "missing field `mem_size_mib`"),
        ("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128,"ht":true}"#, "unknown field `ht`"),
        ("/machine-config", r#"{"vcpu_count":"1","mem_size_mib":128}"#, "vcpu_count: invalid type"),
        ("/machine-config", r#"{"vcpu_count":33,"mem_size_mib":128}"#, "33 is not within 1 to 32"),
        ("/machine-config", r#"{"vcpu_count":3,"mem_size_mib":128,"smt":true}"#, "The vCPU number is invalid!"),
        ("/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128,"cpu_template":"T3"}"#, "unknown variant"),
        ("/machine-config", "", "Empty PUT request."),
        ("/machine-config", "{", "An error occurred when deserializing the json body"),
        ("/boot-source", r#"{"kernel_image_path":"$/disk"}"#, "Boot source error"),
        ("/boot-source", r#"{"kernel_image_path":"$/none"}"#, "No such file"),
        (
            "/drives/a",
            r#"{"drive_id":"b","is_root_device":false,"is_read_only":true,"path_on_host":"$/disk"}"#,
            "does not match the id",
        ),
        (
            "/drives/a",
            r#"{"drive_id":"a","is_root_device":false,"path_on_host":"$/disk"}"#,
            "missing field `is_read_only`",
        ),
        (
            "/drives/a",
            r#"{"drive_id":"a","is_root_device":false,"is_read_only":true,"path_on_host":"$/none"}"#,
            "No such file",
        ),
        ("/vsock", r#"{"guest_cid":2,"uds_path":"$/v"}"#, "2 is not within 3"),
        (
            "/network-interfaces/e",
            r#"{"iface_id":"e","host_dev_name":"no-such-tap","guest_mac":"02:00:00:00:00:01"}"#,
            "Cannot open TAP",
        ),
        ("/network-interfaces/e", r#"{"iface_id":"e","host_dev_name":"lo","guest_mac":"02:00"}"#, "invalid MAC"),
        ("/balloon", r#"{"amount_mib":4096,"deflate_on_oom":true}"#, "too large"),
        ("/entropy", r#"{"rate_limiter":{"bandwidth":{"size":1}}}"#, "missing field `refill_time`"),
        ("/logger", r#"{"log_path":"$/disk"}"#, "wants a pipe"),
        ("/machine", r#"{}"#, "Invalid request method and/or path: PUT /machine."),
    ] {
        monitor.refused("PUT", path, body, why);
    }
}

#[test]
fn wrong_order_is_refused() {
    let monitor = Monitor::new("1.16.0");
    monitor.refused("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, "without kernel configuration");
    monitor.refused("PATCH", "/vm", r#"{"state":"Paused"}"#, BEFORE);
    monitor.refused("PUT", "/snapshot/create", r#"{"snapshot_path":"$/s","mem_file_path":"$/m"}"#, BEFORE);
    monitor.refused("GET", "/balloon/statistics", "", BEFORE);
    monitor.done("PUT", "/entropy", "{}");
    let load = r#"{"snapshot_path":"$/s","mem_backend":{"backend_type":"File","backend_path":"$/m"}}"#;
    monitor.refused("PUT", "/snapshot/load", load, "not allowed after configuring boot-specific resources");

    let monitor = Monitor::booted("1.16.0");
    monitor.refused("PUT", "/boot-source", r#"{"kernel_image_path":"$/kernel"}"#, AFTER);
    monitor.refused("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#, AFTER);
    monitor.refused("PUT", "/snapshot/load", load, AFTER);
    monitor.refused("PUT", "/snapshot/create", r#"{"snapshot_path":"$/s","mem_file_path":"$/m"}"#, "not paused");
    monitor.done("PATCH", "/vm", r#"{"state":"Paused"}"#);
    monitor.done("PUT", "/snapshot/create", r#"{"snapshot_path":"$/s","mem_file_path":"$/m"}"#);
    monitor.done("PATCH", "/vm", r#"{"state":"Resumed"}"#);
    monitor.refused("PATCH", "/vm", r#"{"state":"Frozen"}"#, "unknown variant");
}

#[test]
fn fields_of_later_versions_are_unknown_to_earlier_ones() {
    let rest = r#""snapshot_path":"$/s","mem_backend":{"backend_type":"File","backend_path":"$/m"}}"#;
    for (field, since) in [
        (r#"{"network_overrides":[],"#, 12),
        (r#"{"track_dirty_pages":true,"#, 14),
        (r#"{"clock_realtime":true,"#, 16),
        (r#"{"vsock_override":{"uds_path":"/v"},"#, 16),
    ] {
        for minor in [7, 10, 12, 14, 16] {
            let (_, message) =
                Monitor::new(&format!("1.{minor}.0")).ask("PUT", "/snapshot/load", &format!("{field}{rest}"));
            assert_eq!(message.contains("unknown field"), minor < since, "1.{minor}: {message}");
        }
    }
    let monitor = Monitor::new("1.16.0");
    monitor.refused(
        "PUT",
        "/snapshot/load",
        r#"{"snapshot_path":"$/s"}"#,
        "either `mem_backend` or `mem_file_path` is required",
    );
    let both = format!(r#"{{"mem_file_path":"$/m",{rest}"#);
    monitor.refused("PUT", "/snapshot/load", &both, "exclusively is required");
}

#[test]
fn differences_need_what_keeps_track_of_them() {
    for (version, works) in [("1.10.0", false), ("1.16.0", true)] {
        let monitor = Monitor::booted(version);
        monitor.done("PATCH", "/vm", r#"{"state":"Paused"}"#);
        let body = r#"{"snapshot_type":"Diff","snapshot_path":"$/s","mem_file_path":"$/m"}"#;
        let (status, message) = monitor.ask("PUT", "/snapshot/create", body);
        assert_eq!(status == 204, works, "{version}: {message}");
        assert!(works || message.contains("dirty page tracking disabled"), "{message}");
    }
}

#[test]
fn jailers_take_the_options_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(stub(dir.path(), "jailer,1.16.0")).args(args).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let good = stub(dir.path(), "firecracker,1.16.0");
    let other = stub(dir.path(), "jailer,1.16.0");
    let with = |exec: &Path, more: &[&str]| {
        let exec = exec.to_string_lossy().into_owned();
        let base = ["--id", "a", "--exec-file", &exec, "--uid", "1", "--gid", "1"];
        run(&base.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    assert!(run(&["--id", "a"]).contains("Argument '--exec-file' required"));
    assert!(with(&good, &["--extra-args"]).contains("Found argument '--extra-args' which wasn't expected"));
    assert!(with(&good, &["--resource-limit", "nproc=1"]).contains("Invalid format for resources limits"));
    assert!(with(&other, &[]).contains("must contain \"firecracker\""));
}
