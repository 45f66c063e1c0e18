//! A virtual machine from the template that containers were made of: its memory on disk and back, and twice itself.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{Stage, expect, title};

/// What two machines must never have in common, one a line.
const UNLIKE: &str = "cat /etc/machine-id; hostname; cat /proc/sys/kernel/random/uuid";
/// A program that is in the middle of something: it counts, and what it has counted is in its memory alone.
const COUNT: &str = "n=0; while true; do n=$((n+1)); echo $n > /data/count; sleep 1; done";

/// What the node's configuration begins with: a driver of machines, and what they boot.
pub(super) fn config(guest: &Path) -> String {
    format!("drivers = [\"container\", \"qemu\"]\n\n[guest]\ndir = {guest:?}\n\n")
}

impl Stage {
    /// All of it; the machines are gone at the end.
    pub(super) fn play_machines(&self) -> anyhow::Result<()> {
        title("a microVM from the same template");
        if self.guest.is_none() {
            println!("MicroVMs are left out: no QEMU or no guest kernel, as said above.");
            return Ok(());
        }
        // A network of its own each: addresses are among what forks must not share.
        let network = if self.has_network()? { "internal" } else { "isolated" };
        let limits = r#""resources":{"memory_mb":160,"disk_mb":128,"vcpu":1}"#;
        let create = format!(r#"{{"template":"tools","isolation":"microvm","network":"{network}",{limits}}}"#);
        let sandbox = self.curl("POST", "/api/v1/sandboxes", Some(&create))?;
        expect(text(&sandbox, "isolation")?, "microvm/", "the isolation it was given")?;
        let id = text(&sandbox, "id")?.to_owned();
        let said = self.run_inside(&id, "uname -r; cat /etc/motd; echo $GREETING")?;
        for wanted in ["made by umoci", "hello"] {
            expect(&said, wanted, "the same image")?;
        }

        title("its memory to disk, and back");
        self.run_inside(&id, "echo kept > /data/kept")?;
        self.moat(&["sandbox", "exec", "-d", &id, "--", "sh", "-c", COUNT])?;
        let boot = self.run_inside(&id, "cat /proc/sys/kernel/random/boot_id")?;
        let stowed = self.curl("POST", &format!("/api/v1/sandboxes/{id}/pause"), Some(r#"{"to":"disk"}"#))?;
        ensure!(stowed.get("stowed").and_then(Value::as_bool) == Some(true), "it is still in memory: {stowed}");
        self.moat(&["sandbox", "ls"])?;
        self.curl("POST", &format!("/api/v1/sandboxes/{id}/resume"), Some("{}"))?;
        let again = self.run_inside(&id, "cat /proc/sys/kernel/random/boot_id")?;
        ensure!(boot == again, "it is the same kernel, not one that was started again: {boot} and {again}");
        expect(&self.run_inside(&id, "cat /data/kept; ps")?, "kept", "its files")?;

        title("forked twice, with its memory");
        let fork = r#"{"count":2,"require_memory":true}"#;
        let forked = self.curl("POST", &format!("/api/v1/sandboxes/{id}/fork"), Some(fork))?;
        ensure!(forked.get("memory").and_then(Value::as_bool) == Some(true), "without memory: {forked}");
        let children = forked.get("children").and_then(Value::as_array).context("no children")?;
        let mut all = vec![sandbox];
        for child in children {
            all.push(child.get("sandbox").context("a child failed")?.clone());
        }
        self.compare(&all)?;
        for one in &all {
            self.moat(&["sandbox", "rm", text(one, "id")?])?;
        }
        Ok(())
    }

    /// Three machines with one memory: nothing that tells machines apart is the same in any two.
    fn compare(&self, all: &[Value]) -> anyhow::Result<()> {
        let mut columns: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 4];
        for one in all {
            let said = self.run_inside(text(one, "id")?, UNLIKE)?;
            let address = one.get("ip").and_then(Value::as_str).unwrap_or("no address");
            println!("  address {address}");
            let lines = said.lines().take(3).chain(std::iter::once(address));
            for (column, line) in columns.iter_mut().zip(lines) {
                column.insert(line.to_owned());
            }
        }
        let addresses = if self.has_network()? { all.len() } else { 1 };
        for (what, found, wanted) in columns
            .iter()
            .zip(["machine-id", "host name", "random bytes", "address"])
            .map(|(found, what)| (what, found.len(), if what == "address" { addresses } else { all.len() }))
        {
            ensure!(found == wanted, "{what}: {found} different ones of {} machines", all.len());
        }
        println!("Three machine-ids, host names, addresses and sequences of random bytes, from one memory.");
        Ok(())
    }

    /// What a line of shell in a sandbox writes, over REST.
    fn run_inside(&self, id: &str, line: &str) -> anyhow::Result<String> {
        let run = serde_json::json!({"command": "/bin/sh", "args": ["-c", line], "timeout_ms": 120_000}).to_string();
        let done = self.curl("POST", &format!("/api/v1/sandboxes/{id}/exec"), Some(&run))?;
        ensure!(done.get("exit_code").and_then(Value::as_i64) == Some(0), "{line}: {done}");
        Ok(text(&done, "stdout")?.to_owned())
    }
}

fn text<'a>(value: &'a Value, member: &str) -> anyhow::Result<&'a str> {
    value.get(member).and_then(Value::as_str).with_context(|| format!("no {member} in {value}"))
}
