//! Sandboxes with a network: they find each other by name, the host reaches them, and what is refused is told.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{Stage, expect, say, title};
use crate::process::output;
use crate::workspace::path_with_tools;

/// Where the web server listens in its sandbox.
const PORT: &str = "8000";

impl Stage {
    /// All of it; the sandboxes are gone at the end.
    pub(super) fn play_networks(&mut self) -> anyhow::Result<()> {
        title("the network of the node");
        self.moat(&["network", "show"])?;
        if !self.has_network()? {
            println!("Networks are left out: this machine cannot have them, as said above.");
            return Ok(());
        }
        let (web, client) = self.play_names()?;
        self.play_published(&web)?;
        self.play_refused(&client)?;
        self.play_proxy(&web)?;
        self.moat(&["sandbox", "rm", &web, &client])?;
        Ok(())
    }

    /// Whether the node gives its sandboxes networks.
    pub(super) fn has_network(&self) -> anyhow::Result<bool> {
        let network: Value = serde_json::from_str(&output(self.command("moat").args(["network", "show", "--json"]))?)?;
        Ok(network.get("enabled").and_then(Value::as_bool) == Some(true))
    }

    fn play_names(&mut self) -> anyhow::Result<(String, String)> {
        title("two sandboxes that talk by name");
        let publish = format!(":{PORT}");
        let internal = ["sandbox", "create", "tools", "--network", "internal", "--name"];
        let web = self.moat(&[&internal[..], &["web", "--publish", &publish]].concat())?.trim().to_owned();
        let client = self.moat(&[&internal[..], &["client"]].concat())?.trim().to_owned();
        let page = "mkdir -p /data/www && echo served by $(hostname) > /data/www/index.html";
        self.moat(&["sandbox", "exec", &web, "--", "sh", "-c", page])?;
        self.moat(&["sandbox", "exec", "-d", &web, "--", "httpd", "-f", "-p", PORT, "-h", "/data/www"])?;
        let line = fetch_line();
        let fetch = ["sandbox", "exec", &client, "--", "sh", "-c", &line];
        self.wait_for(&fetch, "served by")?;
        expect(&self.moat(&fetch)?, "served by", "the page")?;
        Ok((web, client))
    }

    fn play_published(&self, web: &str) -> anyhow::Result<()> {
        title("a published port, reached from the host");
        self.moat(&["sandbox", "network", web])?;
        let network = output(self.command("moat").args(["sandbox", "network", web, "--json"]))?;
        let network: Value = serde_json::from_str(&network)?;
        let port = network.pointer("/publish/0/host_port").and_then(Value::as_u64).context("no port was chosen")?;
        let page = self.fetch(&[&format!("http://127.0.0.1:{port}/")])?;
        expect(&page, "served by", "the page")
    }

    fn play_refused(&self, client: &str) -> anyhow::Result<()> {
        title("what it may reach, and which rule says so");
        let told = self.denied(&["network", "test", client, "web:8000", "1.1.1.1:443", "169.254.169.254:80"])?;
        for wanted in ["allowed", "mode"] {
            expect(&told, wanted, "the test")?;
        }
        let what_if =
            ["network", "test", "--network", "internet", "--deny", "any:22", "--", "1.1.1.1:443", "1.1.1.1:22"];
        let told = self.denied(&[&what_if[..], &["10.0.0.1:80", "169.254.169.254:80"]].concat())?;
        for wanted in ["allowed", "rule 0", "ceiling"] {
            expect(&told, wanted, "the test")?;
        }

        title("another policy while it lives");
        self.moat(&["sandbox", "network", client, "--set", "--deny", "group:namespace:8000"])?;
        let told = self.denied(&["network", "test", client, "web:8000"])?;
        expect(&told, "rule 0", "the test")?;
        let line = fetch_line();
        let fetch = ["sandbox", "exec", client, "--", "sh", "-c", &line];
        let mut command = self.command("moat");
        say(command.args(fetch));
        let tried = command.stdin(Stdio::null()).output().context("start moat")?;
        print!("{}", String::from_utf8_lossy(&tried.stderr));
        ensure!(!tried.status.success(), "what the policy forbids was reached");
        Ok(())
    }

    fn play_proxy(&self, web: &str) -> anyhow::Result<()> {
        title("the same page through the node's reverse proxy, with the sandbox's token");
        let told = self.moat(&["sandbox", "url", web, PORT])?;
        let (url, token) = told.trim().split_once('\n').context("no URL and header")?;
        let authority = url.trim_start_matches("http://").trim_end_matches('/');
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        // Not every resolver knows that names below localhost lead here.
        let here = format!("{}:127.0.0.1", if host == authority { format!("{host}:80") } else { authority.to_owned() });
        let page = self.fetch(&["--resolve", &here, "-H", token, url])?;
        expect(&page, "served by", "the page")?;
        let status = self.tool(
            "curl",
            &["-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code}\n", "--resolve", &here, url],
        )?;
        ensure!(status.trim().starts_with('4'), "without the token it answers {status}");
        Ok(())
    }

    fn fetch(&self, words: &[&str]) -> anyhow::Result<String> {
        self.tool("curl", &[&["-sS", "--fail-with-body", "--noproxy", "*"], words].concat())
    }

    /// A test in which something is denied: it says so by its exit code.
    fn denied(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command("moat");
        say(command.args(words));
        let tested = command.stdin(Stdio::null()).output().context("start moat")?;
        let text = String::from_utf8_lossy(&tested.stdout).into_owned();
        print!("{text}");
        match tested.status.code() {
            Some(1) => Ok(text),
            _ => bail!("{}: {}", tested.status, String::from_utf8_lossy(&tested.stderr)),
        }
    }
}

/// What of a host's network a node touches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostNetwork {
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    addresses: BTreeSet<String>,
}

impl HostNetwork {
    /// As it is.
    pub(super) fn now() -> anyhow::Result<Self> {
        let links = fs::read_dir("/sys/class/net").context("list links")?;
        let links = links.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        // Without nft, or the right to use it, there is no table of ours either.
        let tables =
            output(Command::new("nft").args(["list", "tables"]).env("PATH", path_with_tools())).unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("list mounts")?;
        let namespaces =
            mounts.lines().filter(|line| line.contains(" - nsfs ")).filter_map(|line| line.split(' ').nth(4));
        let local = fs::read_to_string("/proc/net/fib_trie").context("list addresses")?;
        let mut last = "";
        let mut addresses = BTreeSet::new();
        for line in local.lines().map(str::trim) {
            if line.starts_with("/32 host LOCAL") {
                addresses.insert(last.trim_start_matches("|-- ").to_owned());
            }
            last = line;
        }
        Ok(Self { links, tables: lines(&tables), namespaces: namespaces.map(str::to_owned).collect(), addresses })
    }

    /// Fails if anything is there that was not.
    pub(super) fn assert_same(&self) -> anyhow::Result<()> {
        let now = Self::now()?;
        let left = [
            ("links", now.links.difference(&self.links).cloned().collect::<Vec<_>>()),
            ("tables of rules", now.tables.difference(&self.tables).cloned().collect()),
            ("network namespaces", now.namespaces.difference(&self.namespaces).cloned().collect()),
            ("addresses", now.addresses.difference(&self.addresses).cloned().collect()),
        ];
        match left.iter().find(|(_, left)| !left.is_empty()) {
            None => Ok(()),
            Some((what, left)) => bail!("{what} are left: {}", left.join(", ")),
        }
    }
}

/// Gets the page by name. With `nc`, because the static busybox of Debian 12 crashes in its `wget`.
fn fetch_line() -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 web {PORT}")
}
