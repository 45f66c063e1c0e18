//! Job files, as their users wrote them: what they name is put where they look for it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{LOOK_EVERY, READY_WITHIN, Stage, expect, say, title};
use crate::process::output;
use crate::workspace::{root, tools_dir};

/// Programs that say what they were started as, and stay.
const STAND_IN: &str = "#!/bin/sh\necho \"$(basename $0) $* runs as $(id -u) on $(hostname)\"\ntest -z \"$1\" || cat $1\nexec sleep 10000\n";

impl Stage {
    /// Puts everything in place, serves the archives, and returns the configuration that shows it to tasks.
    pub(super) fn set_jobs(&mut self) -> anyhow::Result<String> {
        let (machine, served) = (self.dir.join("machine"), self.dir.join("artifacts"));
        fs::create_dir_all(machine.join("vagrant/apps/bin")).context("make /vagrant")?;
        fs::create_dir(&served).context("make the artifact host")?;
        for program in ["vagrant/apps/bin/dashboard", "dotnet"] {
            let path = machine.join(program);
            fs::write(&path, STAND_IN).with_context(|| format!("write {}", path.display()))?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).context("make it a program")?;
        }
        for dir in [&self.dir, &machine] {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).context("let tasks see it")?;
        }
        fs::write(served.join("consumer-go.zip"), zip_of("consumer", STAND_IN.as_bytes())).context("write a zip")?;
        let dll = zip_of("Consumer.dll", b"what dotnet would run\n");
        fs::write(served.join("consumer-dotnet.zip"), dll).context("write a zip")?;
        let host = self.serve_artifacts(&served)?;
        let client = self.dir.join("client.hcl");
        let seed = fs::read_to_string(root().join("crates/formats/tests/seed/client_chroot.hcl"))?;
        // The same file, but for where this machine has the two.
        let own =
            format!("\"{0}/vagrant\" = \"/vagrant\"\n    \"{0}/dotnet\" = \"/usr/bin/dotnet\"", machine.display());
        let text = seed.replace("\"/vagrant\"        = \"/vagrant\"", &own);
        fs::write(&client, text).context("write client.hcl")?;
        Ok(format!(
            "\n[jobs]\nclient_config = \"{}\"\n\n[jobs.artifact.hosts]\n\"s3.internal.net\" = \"{host}\"\n",
            client.display()
        ))
    }

    fn serve_artifacts(&mut self, dir: &Path) -> anyhow::Result<String> {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("find a free port")?;
        let mut server = Command::new(tools_dir().join("busybox"));
        server.args(["httpd", "-f", "-p", &address.to_string(), "-h"]).arg(dir).stdin(Stdio::null());
        say(&server);
        let mut child = server.spawn().context("start the artifact host")?;
        self.guard.watch(child.id())?;
        let end = Instant::now() + READY_WITHIN;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("the artifact host ended: {status}");
            }
            if Instant::now() > end {
                bail!("the artifact host does not listen on {address}");
            }
            thread::park_timeout(LOOK_EVERY);
        }
        self.artifacts = Some(child);
        Ok(address.to_string())
    }

    /// The files of the seed and of `examples/jobs`; nothing of them is left at the end.
    pub(super) fn play_jobs(&mut self) -> anyhow::Result<()> {
        self.wait_for(&["node", "status", "--json"], "driver.exec")?;
        self.moat(&["node", "status"])?;
        for (file, job, says) in [
            ("dotnet.nomad", "consumer", "what dotnet would run"),
            ("go.nomad", "consumer", "consumer  runs as 65534"),
            ("dashboard.nomad", "dashboard", "dashboard  runs as 65534"),
        ] {
            title(&format!("a job file as it was written: {file}"));
            let file = root().join("crates/formats/tests/seed").join(file).display().to_string();
            print!("{}", fs::read_to_string(&file).context("read a job file")?);
            expect(&self.moat(&["job", "run", &file])?, "created", "what is told of it")?;
            self.wait_for(&["alloc", "logs", "--stdout", "--job", job], says)?;
            self.moat(&["alloc", "logs", "--stdout", "--job", job])?;
        }
        title("what became of them");
        self.moat(&["job", "status"])?;
        expect(&self.moat(&["job", "history", "consumer"])?, "1", "its versions")?;
        let looks = ["alloc", "exec", "--job", "dashboard", "--", "/bin/sh", "-c", "ls /; ls /vagrant/apps/bin"];
        expect(&self.moat(&looks)?, "dashboard", "what it sees")?;
        self.moat(&["job", "stop", "--purge", "consumer", "dashboard"])?;
        self.play_examples()
    }

    fn play_examples(&mut self) -> anyhow::Result<()> {
        title("work that ends, and work that is started by whoever asks");
        let example = |name: &str| root().join("examples/jobs").join(name).display().to_string();
        self.moat(&["job", "run", &example("batch.hcl")])?;
        self.wait_for(&["job", "status", "report"], "complete")?;
        self.moat(&["job", "run", &example("parameterized.hcl")])?;
        let told = output(
            self.command("moat").args(["job", "dispatch", "--json", "--detach", "--meta", "name=Ada", "greet"]),
        )?;
        let told: Value = serde_json::from_str(&told)?;
        let child = told.get("id").and_then(Value::as_str).context("no child")?.to_owned();
        self.wait_for(&["job", "status", &child], "complete")?;
        let allocations: Value =
            serde_json::from_str(&output(self.command("moat").args(["job", "allocs", "--json", &child]))?)?;
        let id = allocations.pointer("/0/allocation/id").and_then(Value::as_str).context("no allocation")?;
        expect(&self.moat(&["alloc", "logs", "--stdout", id])?, "Hello Ada", "its greeting")?;
        self.moat(&["job", "stop", "--purge", "report", &child, "greet"])?;
        Ok(())
    }
}

/// A zip with one file, stored as it is.
fn zip_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    let name_len = u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes();
    // Version 2.0, no flags, stored, at the first moment a zip can name.
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
    for part in [crc32(bytes).to_le_bytes(), size(bytes.len()), size(bytes.len())] {
        common.extend(part);
    }
    common.extend(name_len);
    common.extend([0, 0]);
    let mut zip = [b"PK\x03\x04", &common[..], name.as_bytes(), bytes].concat();
    let directory = zip.len();
    let entry = [b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name.as_bytes()].concat();
    zip.extend(&entry);
    zip.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    zip.extend(size(entry.len()));
    zip.extend(size(directory));
    zip.extend([0, 0]);
    zip
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_one_zips_have() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert!(zip_of("a", b"1").starts_with(b"PK"));
    }
}
