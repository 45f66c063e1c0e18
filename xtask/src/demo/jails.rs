//! The article "Running NATS on a FreeBSD Jail", as typed there: `bastille …`. Its packages come from a directory of the release,
//! so nothing is fetched.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};

use super::{ENDED_WITHIN, LOOK_EVERY, READY_WITHIN, Stage, expect, say, title};
use crate::install::{Tool, install};
use crate::process;
use crate::workspace::cargo;

#[path = "../../../crates/testkit/src/article.rs"]
mod article;

/// Five messages in order, the braces intact.
const PUBLISH: [&str; 10] = [
    "cmd",
    "pub-jail",
    "/root/go/bin/nats",
    "--server",
    "10.0.0.1",
    "pub",
    "my.topic",
    "message {{.Count}} - {{.TimeStamp}}",
    "--count",
    "5",
];

impl Stage {
    /// All of it; the jails are gone at the end.
    pub(super) fn play_jails(&mut self) -> anyhow::Result<()> {
        title("jails, in Bastille's words");
        if !self.has_network()? {
            println!("Jails are left out: this machine cannot have networks, as said above.");
            return Ok(());
        }
        process::run(cargo().args(["build", "--package", "moat-testkit", "--bin", "nats"]))?;
        let (root, template) = (self.dir.join("root"), self.dir.join("henomis/nats-jail-template"));
        let client = self.programs.join("nats");
        article::release(&root, &install(Tool::Busybox)?, &install(Tool::NatsServer)?, &client)
            .context("make a root")?;
        article::template(&template).context("write the template")?;
        symlink(self.programs.join("moat"), self.dir.join("bastille")).context("link bastille")?;

        let (root, template) = (root.to_string_lossy().into_owned(), template.to_string_lossy().into_owned());
        self.bastille(&["bootstrap", "14.2-RELEASE", "--from", &root])?;
        self.bastille(&["bootstrap", &template])?;
        self.bastille(&["create", "nats-jail", "14.2-RELEASE", "10.0.0.1"])?;
        self.bastille(&["template", "nats-jail", "henomis/nats-jail-template"])?;
        self.bastille(&["create", "pub-jail", "14.2-RELEASE", "10.0.0.2"])?;
        self.bastille(&["pkg", "pub-jail", "install", "-y", "git", "go"])?;
        self.bastille(&["cmd", "pub-jail", "go", "install", "github.com/nats-io/natscli/nats@latest"])?;
        self.bastille(&["clone", "pub-jail", "sub-jail", "10.0.0.3"])?;
        self.bastille(&["start", "sub-jail"])?;
        expect(&self.bastille(&["list"])?, "10.0.0.3", "the list of jails")?;
        self.play_messages()?;
        self.bastille(&["stop", "ALL"])?;
        self.bastille(&["destroy", "-y", "nats-jail pub-jail sub-jail"])?;
        self.bastille(&["destroy", "-y", "14.2-RELEASE"])?;
        let left = self.bastille(&["list", "jails"])?;
        if left.trim().is_empty() { Ok(()) } else { bail!("jails are left: {left}") }
    }

    /// Runs `bastille`, shows what it says and returns it.
    fn bastille(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(&self.dir.join("bastille").to_string_lossy());
        say(command.args(words));
        let text = process::output(&mut command)?;
        print!("{text}");
        Ok(text)
    }

    /// The subscriber in one terminal, the publisher in another.
    fn play_messages(&mut self) -> anyhow::Result<()> {
        let mut subscribe = self.command(&self.dir.join("bastille").to_string_lossy());
        say(subscribe.args(["cmd", "sub-jail", "/root/go/bin/nats", "--server", "10.0.0.1", "sub", "my.topic"]));
        let seen = self.dir.join("subscriber.log");
        let log = fs::File::create(&seen).context("create subscriber.log")?;
        let mut subscriber = subscribe.stdin(Stdio::null()).stdout(log).spawn().context("start bastille cmd")?;
        let played = self.play_published_messages(&seen);
        let ended = interrupt(&mut subscriber);
        let mut text = String::new();
        fs::File::open(&seen).and_then(|mut file| file.read_to_string(&mut text)).context("read subscriber.log")?;
        print!("{text}");
        played?;
        ended?;
        let messages: Vec<_> = text.lines().filter(|line| line.starts_with("message ")).collect();
        if messages.len() != 5 {
            bail!("{} messages instead of five", messages.len())
        }
        Ok(())
    }

    fn play_published_messages(&mut self, seen: &std::path::Path) -> anyhow::Result<()> {
        // The server keeps nothing for those who come late: it must know the subscriber first.
        let server = ["jail", "-q", "cmd", "nats-jail", "wget", "-q", "-O", "-", "http://127.0.0.1:8222/connz?subs=1"];
        self.wait_for(&server, "my.topic")?;
        self.bastille(&PUBLISH)?;
        let end = Instant::now() + READY_WITHIN;
        while !fs::read_to_string(seen).is_ok_and(|text| text.contains("message 5 - ")) {
            if Instant::now() > end {
                bail!("the fifth message did not come within {READY_WITHIN:?}");
            }
            thread::park_timeout(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Ctrl-C.
fn interrupt(child: &mut Child) -> anyhow::Result<()> {
    let mut kill = std::process::Command::new("kill");
    say(kill.args(["-INT", &child.id().to_string()]));
    process::output(&mut kill)?;
    let end = Instant::now() + ENDED_WITHIN;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("the subscriber did not end within {ENDED_WITHIN:?}");
        }
        thread::park_timeout(LOOK_EVERY);
    }
    Ok(())
}
