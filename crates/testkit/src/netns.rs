//! A small network of the test's own: machines as network namespaces, each with one wire to a switch, which can be cut.
//!
//! Nothing of it can reach, or be seen from, the host's own network. It is gone when it is dropped, and when the test is
//! killed too: each namespace lives as long as a child that waits for the end of its input.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Second to last octet and above of every address.
const SUBNET: [u8; 3] = [10, 99, 0];
/// The switch's own: the default route of all, which leads nowhere.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(SUBNET[0], SUBNET[1], SUBNET[2], 254);

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    file: File,
}

impl Namespace {
    /// Makes one with nothing in it but loopback, which is up.
    fn new() -> anyhow::Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let ready = holder.stdout.take().context("unshare has no output")?;
        let mut line = String::new();
        let read = BufReader::new(ready).read_line(&mut line);
        let file = File::open(format!("/proc/{}/ns/net", holder.id()));
        let namespace = Self { file: file.context("open the namespace")?, holder };
        if !matches!(read, Ok(1)) {
            bail!("unshare made no network namespace");
        }
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Does something in it: in a thread of its own, whose children are in it too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| -> anyhow::Result<T> {
                self.stay()?;
                Ok(work())
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into it, for good. Never a thread of a runtime that others use.
    pub fn stay(&self) -> anyhow::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the namespace")
    }

    fn ip(&self, words: &[&str]) -> anyhow::Result<()> {
        let output = self.enter(|| Command::new("ip").args(words).output())?.context("start ip")?;
        if !output.status.success() {
            bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The switch and what is on its wires.
#[derive(Debug)]
pub struct Switch {
    hub: Namespace,
    ends: Vec<Namespace>,
}

impl Switch {
    /// One with that many machines; why there can be none here otherwise.
    pub fn new(count: u8) -> anyhow::Result<Self> {
        let hub = Namespace::new()?;
        hub.ip(&["link", "add", "switch", "type", "bridge"])?;
        hub.ip(&["addr", "add", &format!("{GATEWAY}/24"), "dev", "switch"])?;
        hub.ip(&["link", "set", "switch", "up"])?;
        let mut switch = Self { hub, ends: Vec::new() };
        for index in 0..count {
            switch.plug(index)?;
        }
        Ok(switch)
    }

    fn plug(&mut self, index: u8) -> anyhow::Result<()> {
        let (end, port, hub) = (Namespace::new()?, port(usize::from(index)), self.hub.holder.id().to_string());
        end.ip(&["link", "add", "wire0", "type", "veth", "peer", "name", &port, "netns", &hub])?;
        self.hub.ip(&["link", "set", &port, "master", "switch", "up"])?;
        let address = address(usize::from(index));
        end.ip(&["addr", "add", &format!("{address}/24"), "dev", "wire0"])?;
        end.ip(&["link", "set", "wire0", "up"])?;
        end.ip(&["route", "add", "default", "via", &GATEWAY.to_string()])?;
        self.ends.push(end);
        Ok(())
    }

    /// One of the machines.
    pub fn end(&self, index: usize) -> Option<&Namespace> {
        self.ends.get(index)
    }

    /// Nothing passes any more, and nobody is told.
    pub fn cut(&self, index: usize) -> anyhow::Result<()> {
        self.hub.ip(&["link", "set", &port(index), "down"])
    }

    /// As before.
    pub fn mend(&self, index: usize) -> anyhow::Result<()> {
        self.hub.ip(&["link", "set", &port(index), "up"])
    }
}

/// The address of one of the machines.
pub fn address(index: usize) -> Ipv4Addr {
    let [a, b, c] = SUBNET;
    Ipv4Addr::new(a, b, c, u8::try_from(index + 1).unwrap_or(u8::MAX))
}

fn port(index: usize) -> String {
    format!("port{index}")
}
