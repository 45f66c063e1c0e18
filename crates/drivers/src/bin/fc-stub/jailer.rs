//! The jailer: its options, and what it does in which order.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fault::Script;
use crate::sys;

/// Its own, and those that end its list.
#[derive(Debug, Default)]
struct Options {
    id: String,
    exec_file: PathBuf,
    uid: u32,
    gid: u32,
    base: PathBuf,
    new_pid_ns: bool,
    limits: Vec<(Resource, u64)>,
    rest: Vec<String>,
}

pub fn main(script: &Script, words: &[String]) -> Result<(), String> {
    if words.first().is_some_and(|word| word == "--version") {
        println!("Jailer v{}", script.version);
        return Ok(());
    }
    if script.says("hang") {
        loop {
            std::thread::park();
        }
    }
    if script.says("fail") {
        return Err("Failed to create the jail root directory: it was asked to fail".to_owned());
    }
    let options = Options::read(words)?;
    let program = options.exec_file.canonicalize().map_err(|e| format!("Failed to canonicalize exec file: {e}"))?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.contains("firecracker") {
        return Err(format!(
            "Invalid filename. The filename of `--exec-file` option must contain \"firecracker\": {name}"
        ));
    }
    let root = options.base.join(&name).join(&options.id).join("root");
    fs::create_dir_all(&root).map_err(|e| format!("Failed to create {}: {e}", root.display()))?;
    fs::copy(&program, root.join(&name)).map_err(|e| format!("Failed to copy exec file: {e}"))?;
    for (resource, value) in &options.limits {
        let limit = Rlimit { current: Some(*value), maximum: Some(*value) };
        setrlimit(*resource, limit).map_err(|e| format!("Failed to set a limit: {e}"))?;
    }
    rustix::process::chroot(&root).map_err(|e| format!("Failed to chroot: {e}"))?;
    std::env::set_current_dir("/").map_err(|e| format!("Failed to change directory: {e}"))?;
    furnish(&options).map_err(|e| format!("Failed to build the jail: {e}"))?;
    if !options.new_pid_ns {
        return Err("this stand-in wants --new-pid-ns".to_owned());
    }
    match sys::fork_into_new_pid_namespace().map_err(|e| format!("Failed to clone: {e}"))? {
        0 => Err(become_firecracker(&options, &name)),
        pid => fs::write(format!("/{name}.pid"), pid.to_string()).map_err(|e| format!("Failed to write the pid: {e}")),
    }
}

/// What is in the root besides the program. What is there already is an error.
fn furnish(options: &Options) -> std::io::Result<()> {
    for dir in ["/dev/net", "/run"] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    for (path, major, minor) in [("/dev/kvm", 10, 232), ("/dev/net/tun", 10, 200)] {
        mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(major, minor))?;
        chown(path, Some(options.uid), Some(options.gid))?;
    }
    for dir in ["/", "/dev", "/dev/net", "/run"] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        chown(dir, Some(options.uid), Some(options.gid))?;
    }
    Ok(())
}

/// Returns only if it failed.
fn become_firecracker(options: &Options, name: &str) -> String {
    if let Err(error) = sys::become_user(options.uid, options.gid) {
        return format!("Failed to change user: {error}");
    }
    let times = ["--start-time-us=1".to_owned(), "--start-time-cpu-us=1".to_owned()];
    let program = Path::new("/").join(name);
    let mut command = Command::new(&program);
    let error = command.arg(format!("--id={}", options.id)).args(times).args(&options.rest).env_clear().exec();
    format!("Failed to exec into Firecracker: {error}")
}

impl Options {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut options = Self { base: PathBuf::from("/srv/jailer"), ..Self::default() };
        let mut given = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            given.push(word.as_str());
            let mut value = || words.next().cloned().ok_or_else(|| format!("The argument '{word}' requires a value"));
            let number = |text: String| text.parse().map_err(|_| format!("Invalid number: {text}"));
            match word.as_str() {
                "--id" => options.id = value()?,
                "--exec-file" => options.exec_file = value()?.into(),
                "--uid" => options.uid = number(value()?)?,
                "--gid" => options.gid = number(value()?)?,
                "--chroot-base-dir" => options.base = value()?.into(),
                "--resource-limit" => options.limits.push(limit(&value()?)?),
                "--new-pid-ns" => options.new_pid_ns = true,
                "--" => {
                    options.rest = words.cloned().collect();
                    break;
                }
                // The others there are would have this driver rely on what it does itself.
                other => {
                    return Err(format!(
                        "Found argument '{other}' which wasn't expected, or isn't valid in this context"
                    ));
                }
            }
        }
        for required in ["--id", "--exec-file", "--uid", "--gid"] {
            if !given.contains(&required) {
                return Err(format!("Argument '{required}' required, but not found"));
            }
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if options.id.is_empty() || options.id.len() > 64 || !options.id.chars().all(valid) {
            return Err(format!("Invalid instance ID: {}", options.id));
        }
        Ok(options)
    }
}

fn limit(text: &str) -> Result<(Resource, u64), String> {
    let invalid = || format!("Invalid format for resources limits: {text}");
    let (name, value) = text.split_once('=').ok_or_else(invalid)?;
    let resource = match name {
        "fsize" => Resource::Fsize,
        "no-file" => Resource::Nofile,
        _ => return Err(invalid()),
    };
    Ok((resource, value.parse().map_err(|_| invalid())?))
}
