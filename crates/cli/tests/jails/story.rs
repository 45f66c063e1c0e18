//! One `moat up`, and `bastille` typed at it: every command of the story is kept, to be compared with the document.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use moat_testkit::{static_bin, tools_dir, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything takes on a machine under load.
pub const LONG: Duration = Duration::from_secs(240);

/// A node, and what was typed.
pub struct Story {
    home: TempDir,
    up: Option<Child>,
    typed: Vec<String>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(up) = &mut self.up {
            // A test that failed: the node ends what it started, if it still can.
            let _ = kill_process(Pid::from_child(up), Signal::INT);
            for _ in 0..100 {
                if matches!(up.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
            let _ = up.kill();
            let _ = up.wait();
        }
    }
}

impl Story {
    /// Starts a node of its own, with `config` for its jails.
    pub async fn begin(config: &str) -> Self {
        let home = TempDir::new().unwrap();
        let moat = static_bin("moat").unwrap();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        symlink(&moat, home.path().join("bin/bastille")).unwrap();
        symlink(&moat, home.path().join("bin/moat")).unwrap();
        let mut story = Self { home, up: None, typed: Vec::new() };
        std::fs::write(story.path("config.toml"), config).unwrap();
        story.again().await;
        story
    }

    /// Starts the node, on what an earlier one left.
    pub async fn again(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut up = self.program("moat");
        up.args(["up", "--nats-port", "0", "--api-listen", "127.0.0.1:0", "--dir"]).arg(self.path("up"));
        up.arg("--config").arg(self.path("config.toml"));
        up.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.up = Some(up.spawn().unwrap());
        let answered = wait_until(LONG, "the node answers", async || {
            // Before this one has said where it is, another node of this machine would be asked.
            if !self.path("moat/up.json").exists() {
                return None;
            }
            let done = self.program("moat").args(["jail", "list"]).stdin(Stdio::null()).output().unwrap();
            done.status.success().then_some(())
        })
        .await;
        answered.unwrap_or_else(|e| panic!("{e}; {}", self.log()));
    }

    /// Ends the node as a crash does: what it was at stays as it is.
    pub fn kill(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
    }

    /// A path in the story's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What the node said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.home.path().join("bin").join(name));
        let mut path = OsString::from(self.home.path().join("bin"));
        path.push(":");
        path.push(tools_dir());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command.env_clear().env("PATH", path).env("MOAT_TOOLS", tools_dir());
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.home.path());
        command.current_dir(self.home.path());
        command
    }

    /// A line as it is typed, ready to be started.
    fn typed(&mut self, line: &str) -> Command {
        self.typed.push(line.to_owned());
        let words = words(line);
        let mut command = self.program(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }

    /// Types a line, and waits for its end.
    pub fn run(&mut self, line: &str) -> Said {
        said(&self.typed(line).output().unwrap())
    }

    /// The same, with something to read.
    pub fn fed(&mut self, line: &str, input: &str) -> Said {
        let mut command = self.typed(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        said(&child.wait_with_output().unwrap())
    }

    /// The same; it must succeed. What it wrote.
    pub fn ok(&mut self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}\n{}", self.log());
        said.out
    }

    /// The same; it must be refused, in these words. Its code is 1.
    pub fn refused(&mut self, line: &str, words: &str) {
        let said = self.run(line);
        assert_eq!(said.code, Some(1), "{line}: {said:?}\n{}", self.log());
        assert!(said.err.contains("[ERROR]: ") && said.err.contains(words), "{line}: no {words:?} in {said:?}");
    }

    /// Starts a line that goes on.
    pub fn start(&mut self, line: &str) -> Going {
        let mut child = self.typed(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let into = std::sync::Arc::clone(&text);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut piece) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        });
        Going { child, text }
    }

    /// Lines of the document's blocks that nobody typed.
    pub fn untyped(&self, document: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(document).unwrap();
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        let lines =
            blocks.flat_map(str::lines).filter(|line| line.starts_with("bastille ") || line.starts_with("moat jail"));
        lines.filter(|line| !self.typed.iter().any(|typed| typed == line)).map(str::to_owned).collect()
    }

    /// Ends the node.
    pub async fn end(&mut self) {
        let mut up = self.up.take().unwrap();
        kill_process(Pid::from_child(&up), Signal::INT).unwrap();
        let ended = wait_until(LONG, "moat up ends", async || up.try_wait().unwrap()).await;
        let status = ended.unwrap_or_else(|e| panic!("{e}; {}", self.log()));
        assert!(status.success(), "{status:?}: {}", self.log());
    }
}

fn said(done: &Output) -> Said {
    Said {
        code: done.status.code(),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: String::from_utf8_lossy(&done.stderr).into_owned(),
    }
}

/// A command that goes on.
pub struct Going {
    child: Child,
    text: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Going {
    /// What it wrote so far.
    pub fn said(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Its end.
    pub async fn ended(&mut self) -> ExitStatus {
        wait_until(LONG, "the command ends", async || self.child.try_wait().unwrap()).await.unwrap()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Words as a shell reads them; only what the document uses: blanks, and double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
