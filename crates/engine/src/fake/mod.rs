//! A driver and a network without a kernel, for tests of everything above them.
//!
//! [`FakeWorld`] is the host: what exists in it outlives a daemon, so dropping an engine and opening another on the same
//! world is a crash and a restart. [`FakeConfig`] scripts what goes wrong. Main processes and execs are programs in a few
//! words of shell (see [`program`]), run by paused or real tokio time.

mod driver;
mod fabric;
mod files;
mod guest;
mod machine;
pub mod program;
mod spawned;
mod world;

use std::time::Duration;

use moat_model::Isolation;

pub use driver::FakeDriver;
pub use fabric::FakeFabric;
pub use world::FakeWorld;

/// How the sandboxes created from now on behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeConfig {
    /// Name the driver is registered under.
    pub name: &'static str,
    /// What it claims to give.
    pub isolation: Isolation,
    /// It can pause.
    pub freezer: bool,
    /// It can capture.
    pub capturer: bool,
    /// It can change limits.
    pub tuner: bool,
    /// It can have sandboxes lie on disk.
    pub stower: bool,
    /// It can keep whole machines, and make others from them.
    pub snapshotter: bool,
    /// What it claims to be made faster by.
    pub accelerator: Option<&'static str>,
    /// What `/etc/machine-id` says inside: given by the world to each sandbox.
    pub identity: u64,
    /// One made from a machine that was kept has the identity of that, which it must not.
    pub same_identity: bool,
    /// How long a main process that is not a script runs; for ever if absent.
    pub run_for: Option<Duration>,
    /// What it ends with then.
    pub exit_code: i32,
    /// What it writes to standard output at its start, one line each.
    pub lines: Vec<String>,
    /// Ports inside on which something answers with what it hears, then `bye`.
    pub echo_ports: Vec<u16>,
    /// It ends by SIGKILL only.
    pub ignores_signals: bool,
    /// `create` fails.
    pub create_error: Option<String>,
    /// `start` fails.
    pub start_error: Option<String>,
    /// The agent cannot start the main process.
    pub main_error: Option<String>,
    /// Freezing fails.
    pub freeze_error: Option<String>,
    /// Thawing fails.
    pub thaw_error: Option<String>,
    /// It runs while it is being kept or written to disk, and is frozen again at the end: if that is not reached, it runs on.
    pub kept_awake: bool,
    /// How long a capture takes.
    pub capture_takes: Duration,
    /// How long writing it to disk takes.
    pub stow_takes: Duration,
    /// Writing it to disk fails.
    pub stow_error: Option<String>,
    /// It dies when it is to be written to disk.
    pub dies_in_stow: bool,
    /// Reading it from disk fails, and what lay there is of no use any more.
    pub unstow_loses: bool,
    /// Reading it from disk fails.
    pub unstow_error: Option<String>,
    /// Capturing fails.
    pub capture_error: Option<String>,
    /// Changing limits fails.
    pub tune_error: Option<String>,
    /// Attaching to the network fails, half done.
    pub attach_error: Option<String>,
    /// Changing the network fails.
    pub change_error: Option<String>,
    /// How long a change of the network takes.
    pub change_takes: Duration,
    /// So many changes of the network are never answered, though they are in force.
    pub change_hangs: u32,
    /// How often detaching each sandbox from the network fails before it succeeds.
    pub detach_failures: u32,
    /// Putting the network in order fails.
    pub restore_error: Option<String>,
    /// The agent dies this long after it started the main process.
    pub die_after: Option<Duration>,
    /// This step never returns.
    pub hang_at: Option<FakeStep>,
    /// How often each release fails before it succeeds.
    pub release_failures: u32,
    /// How often `kill` fails before it succeeds.
    pub kill_failures: u32,
    /// What `recover` says.
    pub recover: FakeRecover,
    /// What `usage` says of kills for memory.
    pub oom_kills: u64,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            name: "fake",
            isolation: Isolation::Container,
            freezer: true,
            capturer: true,
            tuner: true,
            stower: true,
            snapshotter: true,
            accelerator: None,
            identity: 0,
            same_identity: false,
            run_for: None,
            exit_code: 0,
            lines: Vec::new(),
            echo_ports: vec![program::ECHO_PORT],
            ignores_signals: false,
            create_error: None,
            start_error: None,
            main_error: None,
            freeze_error: None,
            thaw_error: None,
            kept_awake: false,
            capture_takes: Duration::ZERO,
            stow_takes: Duration::ZERO,
            stow_error: None,
            dies_in_stow: false,
            unstow_loses: false,
            unstow_error: None,
            capture_error: None,
            tune_error: None,
            attach_error: None,
            change_error: None,
            change_takes: Duration::ZERO,
            change_hangs: 0,
            detach_failures: 0,
            restore_error: None,
            die_after: None,
            hang_at: None,
            release_failures: 0,
            kill_failures: 0,
            recover: FakeRecover::Truth,
            oom_kills: 0,
        }
    }
}

/// A step that can be made to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeStep {
    /// The driver's `create`, after half of it was made.
    Create,
    /// The driver's `start`.
    Start,
    /// The agent's `start_main`, after the process was started.
    StartMain,
    /// The driver's `recover`.
    Recover,
    /// The driver's `kill`, before it did anything.
    Kill,
    /// The driver's `freeze`, after it froze.
    Freeze,
    /// The driver's `stow`, after it lies on disk.
    Stow,
    /// The driver's `unstow`, half-way.
    Unstow,
    /// The driver's `tune`, before it did anything.
    Tune,
    /// The agent's `shutdown`.
    Shutdown,
    /// The network's `attach`, after half of it was made.
    Attach,
    /// The network's `change`, before it did anything.
    Change,
    /// The network's `detach`, before it did anything.
    Detach,
}

/// What `recover` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FakeRecover {
    /// What is true.
    Truth,
    /// That it could not find out.
    Fails,
    /// That nothing is left.
    Gone,
}
