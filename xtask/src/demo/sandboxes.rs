//! Sandboxes from an image, over REST: with curl as anybody would, and with the command line.

use std::fs;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Stage, expect, title};

/// The node keeps two sandboxes of the template ready.
pub(super) const CONFIG: &str = "\
[pool]
replenish_interval_sec = 1

[[pool.templates]]
name = \"tools\"
min_ready = 2
max_ready = 4

[proxy]
listen = \"127.0.0.1:0\"
";

impl Stage {
    /// All of it, and nothing is left at the end.
    pub(super) fn play_sandboxes(&mut self) -> anyhow::Result<()> {
        title("an image, made by umoci and pushed to a registry by skopeo");
        let image = self.publish_image()?;

        title("warm it up as a template");
        self.moat(&["template", "warmup", "tools", &image, "--wait"])?;
        self.wait_for(&["template", "status", "tools"], "pool    2 ready")?;
        self.moat(&["template", "status", "tools"])?;

        let id = self.play_rest()?;
        self.play_command_line(&id, &image)?;
        self.play_networks()?;
        self.play_jails()?;
        self.play_machines()?;

        title("the pool at work");
        let stats = self.curl("GET", "/api/v1/stats", None)?;
        if stats.get("pool_hits").and_then(Value::as_u64).unwrap_or(0) == 0 {
            bail!("no create was served from the pool: {stats}");
        }

        title("remove everything");
        for line in self.moat(&["sandbox", "ls", "--quiet"])?.lines() {
            self.moat(&["sandbox", "rm", line])?;
        }
        self.moat(&["snapshot", "rm", "with-notes"])?;
        self.moat(&["template", "rm", "tools"])?;
        self.moat(&["image", "gc", "--all"])?;
        let left = self.moat(&["sandbox", "ls", "--quiet"])?;
        if left.trim().is_empty() { Ok(()) } else { bail!("sandboxes are left: {left}") }
    }

    /// The API as anybody would use it.
    fn play_rest(&self) -> anyhow::Result<String> {
        title("create a sandbox and run a program in it: curl");
        let create = r#"{"template":"tools","metadata":{"made":"by curl"},"timeout_sec":600}"#;
        let sandbox = self.curl("POST", "/api/v1/sandboxes", Some(create))?;
        let id = sandbox.get("id").and_then(Value::as_str).context("the answer has no id")?.to_owned();
        let run = r#"{"command":"/bin/sh","args":["-c","echo $GREETING from $(hostname); cat /etc/motd; pwd"]}"#;
        let done = self.curl("POST", &format!("/api/v1/sandboxes/{id}/exec"), Some(run))?;
        let said = done.get("stdout").and_then(Value::as_str).unwrap_or_default();
        for wanted in ["hello from", "made by umoci", "/data"] {
            expect(said, wanted, "what the program wrote")?;
        }
        Ok(id)
    }

    fn play_command_line(&mut self, id: &str, image: &str) -> anyhow::Result<()> {
        title("the same with the command line, in one go");
        let said = self.moat(&["sandbox", "run", "tools", "--", "id"])?;
        expect(&said, "uid=0", "the program's user")?;
        self.moat(&["sandbox", "run", image, "--", "cat", "/etc/motd"])?;

        title("files in and out");
        let (note, back) = (self.dir.join("note.txt"), self.dir.join("back.txt"));
        fs::write(&note, "from outside\n").context("write a note")?;
        self.moat(&["sandbox", "cp", &note.to_string_lossy(), &format!("{id}:/data/note.txt")])?;
        self.moat(&["sandbox", "exec", id, "--", "sh", "-c", "echo from inside >> /data/note.txt"])?;
        self.moat(&["sandbox", "cp", &format!("{id}:/data/note.txt"), &back.to_string_lossy()])?;
        let text = fs::read_to_string(&back).context("read what came back")?;
        print!("{text}");
        if text != "from outside\nfrom inside\n" {
            bail!("the file came back as {text:?}");
        }

        title("pause, resume, snapshot, fork");
        self.moat(&["sandbox", "pause", id])?;
        self.moat(&["sandbox", "ls"])?;
        self.moat(&["sandbox", "resume", id])?;
        self.moat(&["sandbox", "snapshot", id, "with-notes"])?;
        let child = self.moat(&["sandbox", "fork", id])?;
        let inside = self.moat(&["sandbox", "exec", child.trim(), "--", "cat", "/data/note.txt"])?;
        expect(&inside, "from inside", "the child's files")?;

        title("what happened to it");
        let steps = self.moat(&["sandbox", "explain", id])?;
        expect(&steps, "ms", "the explanation")?;
        self.moat(&["sandbox", "rm", id])?;
        self.moat(&["sandbox", "rm", child.trim()])?;
        Ok(())
    }

    /// One request with curl; its answer shown on one line and returned.
    pub(super) fn curl(&self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.told("api")?);
        let mut words = vec!["-sS", "--fail-with-body", "--noproxy", "*", "-X", method, url.as_str()];
        if let Some(body) = body {
            words.extend(["-H", "content-type: application/json", "-d", body]);
        }
        let text = self.tool("curl", &words)?;
        serde_json::from_str(&text).with_context(|| format!("{path}: the answer is no JSON: {text}"))
    }
}
