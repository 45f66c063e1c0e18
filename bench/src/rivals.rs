//! Programs of others that do the same work, measured beside ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moat_testkit::{busybox, tool};
use serde_json::json;
use tempfile::TempDir;

/// Names and versions of the rivals found here.
pub fn versions() -> Vec<String> {
    let first_line = |name: &str| {
        let output = Command::new(tool(name)?).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    ["runc", "bwrap", "nats-server", "skopeo", "umoci", "qemu-system-x86_64"]
        .iter()
        .filter_map(|name| first_line(name))
        .collect()
}

/// Runs a command to its end and says how long that took; it must succeed.
pub fn timed(command: &mut Command) -> anyhow::Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let taken = begin.elapsed();
    if !output.status.success() {
        bail!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(taken)
}

/// runc with a bundle of its own.
#[derive(Debug)]
pub struct Runc {
    program: PathBuf,
    dir: TempDir,
    rounds: u32,
}

impl Runc {
    /// `None` if it is not installed here.
    pub fn prepare() -> anyhow::Result<Option<Self>> {
        let (Some(program), Some(busybox)) = (tool("runc"), busybox()) else { return Ok(None) };
        let dir = tempfile::Builder::new().prefix("moat-bench-runc-").tempdir()?;
        // Its user namespace cannot make mount points in a root that the host's root owns.
        for mount_point in ["proc", "sys", "dev"] {
            fs::create_dir_all(dir.path().join("rootfs").join(mount_point))?;
        }
        let bin = dir.path().join("rootfs/bin");
        fs::create_dir_all(&bin)?;
        fs::copy(&busybox, bin.join("busybox"))?;
        for name in ["true", "sleep"] {
            std::os::unix::fs::symlink("busybox", bin.join(name))?;
        }
        let runc = Self { program, dir, rounds: 0 };
        std::fs::set_permissions(runc.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        timed(runc.command().args(["spec", "--bundle"]).arg(runc.dir.path())).context("runc spec")?;
        Ok(Some(runc))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.dir.path().join("state"));
        command
    }

    /// Makes the bundle run `args`, with the user namespace and the limits our containers have.
    fn configure(&self, args: &[&str]) -> anyhow::Result<()> {
        let path = self.dir.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        merge(&mut config, &json!({ "process": { "terminal": false, "args": args }, "root": { "readonly": true } }));
        let linux = config.get_mut("linux").context("runc's spec has no `linux`")?;
        let map = json!([{ "containerID": 0, "hostID": 0x5000_0000, "size": 65536 }]);
        let resources = json!({ "memory": { "limit": 256 << 20 }, "pids": { "limit": 512 } });
        merge(linux, &json!({ "uidMappings": map, "gidMappings": map, "resources": resources }));
        let namespaces = linux.get_mut("namespaces").and_then(|n| n.as_array_mut()).context("no namespaces")?;
        if !namespaces.iter().any(|n| n.get("type") == Some(&json!("user"))) {
            namespaces.push(json!({ "type": "user" }));
        }
        fs::write(path, serde_json::to_vec_pretty(&config)?).context("write runc's config.json")
    }

    /// One whole life: create, run `true`, delete.
    pub fn run_true(&mut self) -> anyhow::Result<Duration> {
        if self.rounds == 0 {
            self.configure(&["/bin/true"])?;
        }
        self.rounds += 1;
        let name = format!("moat-bench-{}-{}", std::process::id(), self.rounds);
        timed(self.command().args(["run", "--bundle"]).arg(self.dir.path()).arg(name))
    }

    /// A container that stays, to execute in.
    pub fn hold(self) -> anyhow::Result<HeldRunc> {
        self.configure(&["/bin/sleep", "3600"])?;
        let name = format!("moat-bench-held-{}-{:016x}", std::process::id(), rand::random::<u64>());
        // Detached, runc leaves the container our output streams: they must not be pipes we would wait on.
        let status = self
            .command()
            .args(["run", "--detach", "--bundle"])
            .arg(self.dir.path())
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !status.success() {
            bail!("runc run --detach: {status}");
        }
        Ok(HeldRunc { runc: self, name })
    }
}

/// A running container of runc.
#[derive(Debug)]
pub struct HeldRunc {
    runc: Runc,
    name: String,
}

impl HeldRunc {
    /// Its process, as the host numbers it.
    pub fn pid(&self) -> anyhow::Result<u64> {
        let output = self.runc.command().args(["state", &self.name]).output().context("runc state")?;
        let state: serde_json::Value = serde_json::from_slice(&output.stdout).context("what runc says of it")?;
        state.get("pid").and_then(serde_json::Value::as_u64).context("runc names no process")
    }

    /// Executes `true` in it.
    pub fn exec_true(&self) -> anyhow::Result<Duration> {
        timed(self.runc.command().args(["exec", &self.name, "/bin/true"]))
    }
}

impl Drop for HeldRunc {
    fn drop(&mut self) {
        let _ = timed(self.runc.command().args(["delete", "--force", &self.name]));
    }
}

fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// bubblewrap running `true` with namespaces of its own and the host's `/usr` read-only.
pub fn bwrap_true(bwrap: &Path) -> anyhow::Result<Duration> {
    let mut command = Command::new(bwrap);
    command.args(["--unshare-all", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]);
    for link in ["bin", "lib", "lib64", "sbin"] {
        command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    timed(command.args(["--die-with-parent", "/usr/bin/true"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_do_run() {
        if !moat_testkit::is_root() {
            return moat_testkit::not_run_here("needs root");
        }
        match Runc::prepare().unwrap() {
            Some(mut runc) => {
                runc.run_true().unwrap();
                runc.hold().unwrap().exec_true().unwrap();
            }
            None => moat_testkit::not_run_here("runc or busybox is not installed"),
        }
        match tool("bwrap") {
            Some(bwrap) => drop(bwrap_true(&bwrap).unwrap()),
            None => moat_testkit::not_run_here("bwrap is not installed"),
        }
    }
}
