//! A small image, made and served by programs that are not ours.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};

use super::{LOOK_EVERY, READY_WITHIN, Stage, say};
use crate::process::output;
use crate::workspace::tools_dir;

/// What somebody may call in it without a path.
const APPLETS: [&str; 17] = [
    "sh", "ls", "cat", "echo", "id", "sleep", "true", "env", "hostname", "wc", "mkdir", "ps", "httpd", "wget",
    "nslookup", "nc", "printf",
];

impl Stage {
    /// Builds it, starts a registry, pushes it there; returns its reference.
    pub(super) fn publish_image(&mut self) -> anyhow::Result<String> {
        let layout = self.dir.join("layout");
        self.build_image(&layout)?;
        let registry = self.start_registry()?;
        let reference = format!("{registry}/demo/tools:v1");
        let from = format!("oci:{}:v1", layout.display());
        let to = format!("docker://{reference}");
        self.tool("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to])?;
        Ok(reference)
    }

    fn build_image(&self, layout: &Path) -> anyhow::Result<()> {
        let (at, bundle) = (layout.to_string_lossy().into_owned(), self.dir.join("bundle"));
        let (image, dir) = (format!("{at}:v1"), bundle.to_string_lossy().into_owned());
        self.tool("umoci", &["init", "--layout", &at])?;
        self.tool("umoci", &["new", "--image", &image])?;
        self.tool("umoci", &["unpack", "--image", &image, &dir])?;
        let root = bundle.join("rootfs");
        for sub in ["bin", "etc", "tmp", "data"] {
            fs::create_dir_all(root.join(sub)).with_context(|| format!("make {sub} of the image"))?;
        }
        fs::copy(tools_dir().join("busybox"), root.join("bin/busybox")).context("copy busybox into the image")?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).context("link an applet")?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").context("write passwd")?;
        fs::write(root.join("etc/motd"), "made by umoci, pushed by skopeo\n").context("write motd")?;
        self.tool("umoci", &["repack", "--image", &image, &dir])?;
        let config = ["config", "--image", &image, "--config.env", "GREETING=hello", "--config.env", "PATH=/bin"];
        self.tool("umoci", &[&config[..], &["--config.workingdir", "/data", "--config.cmd", "sh"]].concat())?;
        Ok(())
    }

    fn start_registry(&mut self) -> anyhow::Result<String> {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("find a free port")?;
        let store = self.dir.join("registry");
        let config = self.dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            store.display()
        );
        fs::write(&config, text).context("write registry.yml")?;
        let mut registry = Command::new(tools_dir().join("docker-registry"));
        registry.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        say(&registry);
        let mut child = registry.spawn().context("start docker-registry")?;
        self.guard.watch(child.id())?;
        let end = Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("docker-registry ended: {status}");
            }
            if Instant::now() > end {
                bail!("docker-registry does not listen on {address}");
            }
            thread::park_timeout(LOOK_EVERY);
        }
        self.registry = Some(child);
        Ok(address.to_string())
    }

    /// Runs somebody else's program, shows what it says.
    pub(super) fn tool(&self, name: &str, words: &[&str]) -> anyhow::Result<String> {
        let program: PathBuf = tools_dir().join(name);
        let mut command = Command::new(program);
        say(command.args(words).env("HOME", &self.dir).env_remove("http_proxy").env_remove("HTTP_PROXY"));
        let text = output(&mut command)?;
        if !text.trim().is_empty() {
            println!("{}", text.trim_end());
        }
        Ok(text)
    }
}
