//! A program ready to be executed: everything looked up and converted before the fork.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use moat_agent::launch::AgentConfig;
use moat_model::{ErrorKind, ProcessSpec};

use super::failure::Failure;
use super::resolve::resolve;
use super::user::{Database, User};
use crate::launcher::clone::{Side, clone3};
use crate::sys::{Filter, Fork, fork};

/// What every program is confined by.
#[derive(Debug)]
pub struct Confinement {
    /// Capabilities as a bit mask; `None` leaves them alone.
    pub capabilities: Option<u64>,
    /// Set no_new_privs.
    pub no_new_privs: bool,
    /// Applied in order.
    pub seccomp: Vec<Filter>,
    /// RLIMIT_NOFILE.
    pub nofile: u64,
    /// How soon the kernel chooses it when memory is out, if that is not the agent's own.
    pub oom_score_adj: u16,
    /// A sandbox, not the host: no core dumps, for they would be written by a helper of the host.
    pub sandboxed: bool,
    /// The control group whatever works for the user is born into; otherwise that of the agent.
    pub group: Option<OwnedFd>,
}

impl Confinement {
    /// From the launcher's configuration.
    pub fn new(config: &AgentConfig, group: Option<OwnedFd>) -> Result<Self, Failure> {
        let seccomp: Option<Vec<Filter>> = config.seccomp.iter().map(|bytes| Filter::from_bytes(bytes)).collect();
        Ok(Self {
            capabilities: config.capabilities,
            no_new_privs: config.no_new_privs,
            seccomp: seccomp
                .ok_or_else(|| Failure::new(ErrorKind::Internal, "seccomp: not an array of sock_filter"))?,
            nofile: config.nofile,
            oom_score_adj: config.oom_score_adj,
            sandboxed: config.task_dir.is_none(),
            group,
        })
    }

    /// Whether the kernel has killed something of the user because there was no memory left, where it says so.
    pub fn killed_for_memory(&self) -> bool {
        self.group.as_ref().is_some_and(|group| crate::machine::killed_for_memory(group.as_fd()))
    }

    /// Forks what works for the user.
    pub fn fork(&self) -> io::Result<Fork> {
        let Some(group) = &self.group else { return fork() };
        match clone3(0, Some(group.as_fd()))? {
            Side::Child => Ok(Fork::Child),
            Side::Parent { pid, .. } => Ok(Fork::Parent(pid)),
        }
    }
}

/// A program ready to be executed.
#[derive(Debug)]
pub struct Program {
    /// The file.
    pub path: CString,
    /// Its arguments, its own name first.
    pub argv: Vec<CString>,
    /// Its environment.
    pub envp: Vec<CString>,
    /// Its working directory.
    pub cwd: CString,
    /// Who it runs as.
    pub user: User,
    /// What it is confined by.
    pub confinement: Rc<Confinement>,
}

impl Program {
    /// Looks everything up. The root is `/`: the agent has none but the sandbox's.
    pub fn prepare(config: &AgentConfig, confinement: Rc<Confinement>, spec: &ProcessSpec) -> Result<Self, Failure> {
        let root = Path::new("/");
        let path = resolve(root, config.task_dir.as_deref(), spec.env.get("PATH").map(String::as_str), &spec.command)?;
        let own = config.task_dir.as_deref().unwrap_or(root).join("local");
        if let Ok(below) = path.strip_prefix(&own) {
            super::executable::make(&own, below);
        }
        let asked = spec.user.as_deref().unwrap_or(&config.default_user);
        let user = Database::read(root).find(asked)?;
        let cwd = match (&spec.cwd, &config.task_dir) {
            (Some(cwd), _) if !cwd.starts_with('/') => {
                return Err(Failure::invalid(format!("cwd: {cwd:?} is not absolute")));
            }
            (Some(cwd), _) => PathBuf::from(cwd),
            (None, Some(task_dir)) => task_dir.clone(),
            (None, None) => root.to_owned(),
        };
        let mut argv = vec![c_string("command", &spec.command)?];
        for arg in &spec.args {
            argv.push(c_string("args", arg)?);
        }
        Ok(Self {
            path: c_string("command", &path.to_string_lossy())?,
            argv,
            envp: environment(spec, &user)?,
            cwd: c_string("cwd", &cwd.to_string_lossy())?,
            user,
            confinement,
        })
    }

    /// What a failed step of the child means to whoever asked.
    pub fn failure(&self, step: Step, errno: i32) -> Failure {
        let error = std::io::Error::from_raw_os_error(errno);
        let path = self.path.to_string_lossy();
        match (step, errno) {
            (Step::Execute, libc::ENOENT) => {
                Failure::invalid(format!("execute {path}: its interpreter or dynamic loader is not in this sandbox"))
            }
            (Step::Execute, libc::EACCES) => Failure::invalid(format!(
                "execute {path}: permission denied (not executable for user {:?}, or on a noexec mount)",
                self.user.name
            )),
            (Step::Execute, libc::ENOEXEC) => {
                Failure::invalid(format!("execute {path}: not a program for this machine"))
            }
            (Step::Execute, libc::E2BIG) => {
                Failure::invalid(format!("execute {path}: arguments and environment are too long"))
            }
            (Step::WorkingDirectory, _) => Failure::invalid(format!("cwd: {}: {error}", self.cwd.to_string_lossy())),
            _ => cannot_confine(&self.user, step, errno, &path),
        }
    }
}

/// What a failed step means that any child takes, whatever it then does.
pub fn cannot_confine(user: &User, step: Step, errno: i32, what_for: &str) -> Failure {
    match (step, errno) {
        (Step::User, libc::EINVAL) => Failure::invalid(format!(
            "user {:?}: {}:{} does not exist in this sandbox's range of ids",
            user.name, user.uid, user.gid
        )),
        (Step::User, libc::EPERM) => {
            Failure::new(ErrorKind::Denied, format!("user {:?}: not permitted to change to it", user.name))
        }
        _ => {
            let error = std::io::Error::from_raw_os_error(errno);
            Failure::internal(&format!("{} for {what_for}", step.name()), &error)
        }
    }
}

/// Where a child that did not become its program failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Session, signals, descriptors.
    Prepare,
    /// Its score for the kernel's choice of a victim.
    OomScore,
    /// Resource limits.
    Limits,
    /// User and groups.
    User,
    /// Working directory.
    WorkingDirectory,
    /// Capabilities.
    Capabilities,
    /// no_new_privs.
    NoNewPrivs,
    /// Seccomp.
    Seccomp,
    /// The exec itself.
    Execute,
    /// The fork of the process itself, by its supervisor.
    Fork,
}

/// All steps, in the order of their numbers on the pipe.
const STEPS: [(Step, &str); 10] = [
    (Step::Prepare, "set up the process"),
    (Step::OomScore, "reset oom_score_adj"),
    (Step::Limits, "set resource limits"),
    (Step::User, "change user"),
    (Step::WorkingDirectory, "change directory"),
    (Step::Capabilities, "set capabilities"),
    (Step::NoNewPrivs, "set no_new_privs"),
    (Step::Seccomp, "apply the seccomp filter"),
    (Step::Execute, "execute"),
    (Step::Fork, "fork"),
];

impl Step {
    /// Its number on the pipe.
    pub fn number(self) -> i32 {
        STEPS.iter().zip(0..).find(|((step, _), _)| *step == self).map_or(0, |(_, number)| number)
    }

    /// The step of a number.
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|n| STEPS.get(n)).map_or(Self::Prepare, |(step, _)| *step)
    }

    fn name(self) -> &'static str {
        STEPS.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }
}

/// The environment asked for, and the three variables every account has if it does not say otherwise.
fn environment(spec: &ProcessSpec, user: &User) -> Result<Vec<CString>, Failure> {
    let mut environment = Vec::with_capacity(spec.env.len() + 3);
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains('=') {
            return Err(Failure::invalid(format!("env: {name:?} is not a name")));
        }
        environment.push(c_string("env", &format!("{name}={value}"))?);
    }
    for (name, value) in [("USER", &user.name), ("LOGNAME", &user.name), ("HOME", &user.home)] {
        if !spec.env.contains_key(name) {
            environment.push(c_string("user", &format!("{name}={value}"))?);
        }
    }
    Ok(environment)
}

fn c_string(field: &str, text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::invalid(format!("{field}: a zero byte in it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(env: &[(&str, &str)]) -> ProcessSpec {
        ProcessSpec {
            command: "sh".into(),
            args: vec![],
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            cwd: None,
            user: None,
        }
    }

    fn ann() -> User {
        User { name: "ann".into(), uid: 7, gid: 7, groups: vec![7], home: "/home/ann".into() }
    }

    /// N16: the account's variables, unless the caller says otherwise; nothing else.
    #[test]
    fn n16_environment_of_the_account() {
        let text = |env: &[(&str, &str)]| -> Vec<String> {
            environment(&spec(env), &ann()).unwrap().into_iter().map(|c| c.into_string().unwrap()).collect()
        };
        assert_eq!(text(&[]), ["USER=ann", "LOGNAME=ann", "HOME=/home/ann"]);
        assert_eq!(text(&[("HOME", "/x"), ("A", "")]), ["A=", "HOME=/x", "USER=ann", "LOGNAME=ann"]);
        for bad in ["", "A=B", "A\0"] {
            assert!(environment(&spec(&[(bad, "v")]), &ann()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn steps_read_back() {
        for (step, _) in STEPS {
            assert_eq!(Step::from_number(step.number()), step);
        }
    }
}
