//! The monitor: what it was told, and what it does when it is told the next thing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Mutex;

use crate::fault::Script;
use crate::guest::{self, Guest};
use crate::http;
use crate::memory::{Memory, State};
use crate::rules;
use crate::sys;
use crate::table::{self, Call, When};

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotStarted,
    Running,
    Paused,
}

/// One monitor.
#[derive(Debug)]
pub struct Vmm {
    pub script: Script,
    id: String,
    stage: Stage,
    /// Something was set that only a machine that boots has.
    boots: bool,
    /// Bodies by path.
    config: BTreeMap<String, Value>,
    guest: Arc<Guest>,
    vsock: Option<UnixListener>,
    /// The memory it goes on from, open as long as it lives.
    mapped: Option<File>,
    track_dirty: bool,
    lost: bool,
}

pub fn main(script: Script, words: &[String]) -> Result<(), String> {
    if words.first().is_some_and(|word| word == "--version") {
        println!("Firecracker v{}\n", if script.says("lie") { "1.9.0" } else { &script.version });
        return Ok(());
    }
    let (id, socket) = arguments(words)?;
    if script.says("fail") {
        return Err("it was asked to fail".to_owned());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let listener =
            UnixListener::bind(&socket).map_err(|e| format!("Failed to open the API socket at {socket}: {e}"))?;
        let vmm = Vmm {
            guest: Guest::new(&script),
            script,
            id,
            stage: Stage::NotStarted,
            boots: false,
            config: BTreeMap::new(),
            vsock: None,
            mapped: None,
            track_dirty: false,
            lost: false,
        };
        http::serve(listener, Arc::new(Mutex::new(vmm))).await
    })
}

fn arguments(words: &[String]) -> Result<(String, String), String> {
    let (mut id, mut socket) = (None, "/run/firecracker.socket".to_owned());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, given) =
            word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value.to_owned())));
        let mut value = || {
            given
                .clone()
                .or_else(|| words.next().cloned())
                .ok_or_else(|| format!("The argument '{name}' requires a value"))
        };
        match name {
            "--id" => id = Some(value()?),
            "--api-sock" => socket = value()?,
            "--start-time-us" | "--start-time-cpu-us" | "--parent-cpu-time-us" => drop(value()?),
            other => return Err(format!("Arguments parsing error: Found argument '{other}' which wasn't expected")),
        }
    }
    Ok((id.unwrap_or_else(|| "anonymous-instance".to_owned()), socket))
}

impl Vmm {
    /// Whether it must end now.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// One request: nothing, something, or why not.
    pub async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Option<Value>, String> {
        let Some((call, name)) = table::find(method, path) else {
            return Err(format!("Invalid request method and/or path: {method} {path}."));
        };
        let body = self.parse(call, method, name, body)?;
        match (call.when, self.stage) {
            (When::Before, Stage::Running | Stage::Paused) => return Err(AFTER.to_owned()),
            (When::After, Stage::NotStarted) => return Err(BEFORE.to_owned()),
            _ => {}
        }
        if method == "GET" {
            return self.tell(path).map(Some);
        }
        let done = match (method, call.path) {
            ("PUT", "/actions") => self.act(body.get("action_type").and_then(Value::as_str).unwrap_or_default()),
            ("PATCH", "/vm") => self.change_state(&body),
            ("PUT", "/snapshot/create") => self.create_snapshot(&body),
            ("PUT", "/snapshot/load") => self.load_snapshot(&body),
            ("PATCH", "/balloon") => self.inflate(&body),
            ("PATCH", _) => Ok(()),
            _ => self.set(path, &body),
        };
        if done.is_ok() && call.boots {
            self.boots = true;
        }
        done.map(|()| None)
    }

    fn parse(&self, call: &Call, method: &str, name: &str, body: &[u8]) -> Result<Value, String> {
        let Some(fields) = call.body else {
            return if body.is_empty() { Ok(Value::Null) } else { Err("GET request cannot have a body.".to_owned()) };
        };
        if body.is_empty() {
            return Err(format!("Empty {method} request."));
        }
        let wrong = |why: String| format!("An error occurred when deserializing the json body of a request: {why}.");
        let value: Value = serde_json::from_slice(body).map_err(|e| wrong(e.to_string()))?;
        rules::check(&value, fields, self.script.minor()).map_err(wrong)?;
        let named = ["drive_id", "iface_id"].iter().find_map(|field| value.get(field)).and_then(Value::as_str);
        match named {
            Some(inside) if !name.is_empty() && inside != name => {
                Err(format!("The id from the path [{name}] does not match the id from the body [{inside}]!"))
            }
            _ => Ok(value),
        }
    }

    fn tell(&self, path: &str) -> Result<Value, String> {
        let state = match self.stage {
            Stage::NotStarted => "Not started",
            Stage::Running => "Running",
            Stage::Paused => "Paused",
        };
        Ok(match path {
            "/version" => json!({ "firecracker_version": self.script.version }),
            "/" => {
                json!({ "id": self.id, "state": state, "vmm_version": self.script.version, "app_name": "Firecracker" })
            }
            "/balloon/statistics" => self.statistics()?,
            "/vm/config" => json!(self.config),
            other => self.config.get(other).cloned().ok_or_else(|| format!("{other} is not configured."))?,
        })
    }

    fn statistics(&self) -> Result<Value, String> {
        let balloon = self.config.get("/balloon").ok_or("No balloon device found.")?;
        if balloon.get("stats_polling_interval_s").and_then(Value::as_u64).unwrap_or(0) == 0 {
            return Err("Statistics for the balloon device are not enabled".to_owned());
        }
        let target = balloon.get("amount_mib").and_then(Value::as_u64).unwrap_or(0);
        // An obedient guest gives what it is asked for, at once; another gives nothing.
        let actual = if self.script.says("stubborn") { 0 } else { target };
        Ok(
            json!({ "target_pages": target << 8, "actual_pages": actual << 8, "target_mib": target, "actual_mib": actual }),
        )
    }

    fn set(&mut self, path: &str, body: &Value) -> Result<(), String> {
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or(false);
        match path {
            "/metrics" if self.config.contains_key(path) => return Err("Metrics error: already initialized".to_owned()),
            "/metrics" => writes(&text("metrics_path"))?,
            "/logger" => writes(&text("log_path"))?,
            "/boot-source" => {
                starts_with(&text("kernel_image_path"), b"\x7fELF").map_err(|e| format!("Boot source error: {e}"))?;
                guest::check_initramfs(&text("initrd_path")).map_err(|e| format!("Boot source error: {e}"))?;
            }
            "/machine-config" => {
                let vcpus = body.get("vcpu_count").and_then(Value::as_u64).unwrap_or(0);
                if flag("smt") && vcpus != 1 && vcpus % 2 == 1 {
                    let why = "The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is enabled.";
                    return Err(format!("Machine config error: {why}"));
                }
                self.track_dirty = flag("track_dirty_pages");
            }
            "/vsock" => {
                let bound = UnixListener::bind(text("uds_path"));
                self.vsock = Some(bound.map_err(|e| format!("Vsock config error: Cannot create backend: {e}"))?);
            }
            "/balloon" if amount(body) > self.memory_mib() => {
                return Err("Balloon config error: Requested balloon size is too large".to_owned());
            }
            path if path.starts_with("/drives/") => opens(body).map_err(|e| format!("Drive config error: {e}"))?,
            path if path.starts_with("/network-interfaces/") => {
                self.link(&text("host_dev_name"), &text("guest_mac"))?
            }
            _ => {}
        }
        self.config.insert(path.to_owned(), body.clone());
        Ok(())
    }

    fn memory_mib(&self) -> u64 {
        self.config.get("/machine-config").and_then(|c| c.get("mem_size_mib")).and_then(Value::as_u64).unwrap_or(128)
    }

    fn link(&self, tap: &str, mac: &str) -> Result<(), String> {
        let bytes: Vec<&str> = mac.split(':').collect();
        if bytes.len() != 6 || bytes.iter().any(|byte| byte.len() != 2 || u8::from_str_radix(byte, 16).is_err()) {
            return Err(format!("Network config error: invalid MAC address {mac}"));
        }
        if sys::has_link(tap) { Ok(()) } else { Err(format!("Network config error: Cannot open TAP device {tap}")) }
    }

    fn act(&mut self, action: &str) -> Result<(), String> {
        match (action, self.stage) {
            ("InstanceStart", Stage::NotStarted) => self.start(),
            ("InstanceStart", _) => Err(AFTER.to_owned()),
            (_, Stage::NotStarted) => Err(BEFORE.to_owned()),
            _ => Ok(()),
        }
    }

    fn start(&mut self) -> Result<(), String> {
        if !self.config.contains_key("/boot-source") {
            return Err("Start microvm error: Cannot start microvm without kernel configuration.".to_owned());
        }
        let roots = self.config.values().filter(|body| body.get("is_root_device") == Some(&Value::Bool(true))).count();
        if roots > 1 {
            return Err("Drive config error: A root block device already exists!".to_owned());
        }
        self.stage = Stage::Running;
        self.guest.serve(self.vsock.take().ok_or("this stand-in wants a vsock device")?);
        self.guest.run(true);
        Ok(())
    }

    fn change_state(&mut self, body: &Value) -> Result<(), String> {
        let resumed = body.get("state").and_then(Value::as_str) == Some("Resumed");
        self.stage = if resumed { Stage::Running } else { Stage::Paused };
        self.guest.run(resumed);
        Ok(())
    }

    fn create_snapshot(&mut self, body: &Value) -> Result<(), String> {
        let failed = |why: String| format!("Create snapshot error: {why}");
        if self.stage != Stage::Paused {
            return Err(failed(
                "Cannot save microvm state: Operation not allowed: the vCPUs are not paused".to_owned(),
            ));
        }
        let diff = body.get("snapshot_type").and_then(Value::as_str) == Some("Diff");
        // Later versions look at which pages are there instead.
        if diff && !self.track_dirty && self.script.minor() < 13 {
            return Err(failed("Diff snapshots are not allowed on uVMs with dirty page tracking disabled".to_owned()));
        }
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = if diff { "Diff" } else { "Full" }.to_owned();
        let state = State { version: self.script.version.clone(), kind, config: self.config.clone() };
        state.write(text("snapshot_path")).map_err(failed)?;
        let length = (self.memory_mib() << 20) + u64::from(self.script.says("long-memory"));
        self.guest.remember().write(text("mem_file_path"), length, !diff).map_err(failed)?;
        // Whoever is connected learns of it when the machine goes on.
        self.guest.reset();
        Ok(())
    }

    fn load_snapshot(&mut self, body: &Value) -> Result<(), String> {
        if self.boots {
            let why = "Loading a microVM snapshot not allowed after configuring boot-specific resources.";
            return Err(format!("Load snapshot error: {why}"));
        }
        let memory = match (body.get("mem_file_path"), body.get("mem_backend")) {
            (Some(path), None) => path,
            (None, Some(backend)) if backend.get("backend_type") == Some(&json!("File")) => {
                backend.get("backend_path").unwrap_or(&Value::Null)
            }
            (None, Some(_)) => return Err("this stand-in serves no page faults".to_owned()),
            (None, None) => return Err("missing field: either `mem_backend` or `mem_file_path` is required".to_owned()),
            (Some(_), Some(_)) => {
                return Err(
                    "too many fields: either `mem_backend` or `mem_file_path` exclusively is required".to_owned()
                );
            }
        };
        let state = body.get("snapshot_path").and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or(false);
        let (resume, track) = (flag("resume_vm"), flag("track_dirty_pages") || flag("enable_diff_snapshots"));
        let loaded = self.restore(&state, memory.as_str().unwrap_or_default());
        self.lost = loaded.is_err();
        loaded.map_err(|why| format!("Load snapshot error: Failed to restore from snapshot: {why}"))?;
        self.track_dirty = track;
        self.stage = if resume { Stage::Running } else { Stage::Paused };
        self.guest.run(resume);
        Ok(())
    }

    fn restore(&mut self, state: &str, memory: &str) -> Result<(), String> {
        let state = State::read(state)?;
        let minor = |version: &str| version.split('.').nth(1).map(str::to_owned);
        if minor(&state.version) != minor(&self.script.version) {
            return Err(format!(
                "the snapshot's version {} is not supported by {}",
                state.version, self.script.version
            ));
        }
        // Where things are said is not kept.
        let diagnostics: Vec<_> =
            ["/logger", "/metrics"].iter().filter_map(|path| self.config.remove_entry(*path)).collect();
        self.config = state.config;
        self.config.extend(diagnostics);
        let (remembered, file) = Memory::read(memory, self.memory_mib() << 20)?;
        self.mapped = Some(file);
        for (path, body) in &self.config {
            let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
            if path.starts_with("/drives/") {
                opens(body)?;
            } else if path.starts_with("/network-interfaces/") && !sys::has_link(text("host_dev_name")) {
                return Err(format!("Cannot open TAP device {}", text("host_dev_name")));
            }
        }
        let vsock = self.config.get("/vsock").and_then(|body| body.get("uds_path")).and_then(Value::as_str);
        let listener = UnixListener::bind(vsock.unwrap_or_default()).map_err(|e| format!("vsock: {e}"))?;
        self.guest.recall(remembered);
        self.guest.serve(listener);
        Ok(())
    }

    fn inflate(&mut self, body: &Value) -> Result<(), String> {
        let amount = amount(body);
        if amount > self.memory_mib() {
            return Err("Balloon update error: Requested balloon size is too large".to_owned());
        }
        let balloon =
            self.config.get_mut("/balloon").and_then(Value::as_object_mut).ok_or("No balloon device found.")?;
        balloon.insert("amount_mib".to_owned(), json!(amount));
        Ok(())
    }
}

/// Size of a balloon.
fn amount(body: &Value) -> u64 {
    body.get("amount_mib").and_then(Value::as_u64).unwrap_or(0)
}

/// A disk, with the rights it is asked for.
fn opens(body: &Value) -> Result<(), String> {
    let path = body.get("path_on_host").and_then(Value::as_str).unwrap_or_default();
    let read_only = body.get("is_read_only").and_then(Value::as_bool).unwrap_or(false);
    let opened = OpenOptions::new().read(true).write(!read_only).open(path);
    opened.map(drop).map_err(|e| format!("Unable to open the block device backing file {path}: {e}"))
}

/// Somewhere to write to without ever waiting: these are pipes.
fn writes(path: &str) -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
    let kind = opened.metadata().map_err(|e| e.to_string())?.file_type();
    if kind.is_fifo() { Ok(()) } else { Err(format!("{path}: this stand-in wants a pipe, as anything else grows")) }
}

fn starts_with(path: &str, magic: &[u8]) -> Result<(), String> {
    let mut found = vec![0; magic.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut found));
    read.map_err(|e| format!("{path}: {e}"))?;
    if found == magic { Ok(()) } else { Err(format!("{path}: invalid magic number")) }
}
