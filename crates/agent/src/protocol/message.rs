//! The JSON headers: what is asked and what is answered.

use super::machine::{GuestSetup, Renewal, Renewed};
use moat_model::file::{FileReply, FileRequest, Transfer};
use moat_model::spec::{ExecSpec, Signal};
use moat_model::{Exit, ProcessSpec};
use serde::{Deserialize, Serialize};

/// First frame of a stream, daemon to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Request {
    /// Who are you.
    Hello,
    /// Start the main process.
    Start {
        /// What to run.
        process: ProcessSpec,
    },
    /// Answer when the main process has ended.
    Wait,
    /// Send the main process's output from these offsets on, as data frames; acknowledgement frames come back.
    Output {
        /// Where to begin.
        from: Offsets,
    },
    /// Run another process; frames both ways follow.
    Exec {
        /// What to run and how.
        spec: ExecSpec,
    },
    /// Signal the main process.
    Signal {
        /// Which.
        signal: Signal,
    },
    /// List processes.
    Processes,
    /// Measure.
    Stats,
    /// One question about files.
    File {
        /// Who asks; the default user if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// What.
        request: FileRequest,
    },
    /// Send a file or an archive; content frames follow.
    Pull {
        /// Who reads; the default user if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// What.
        transfer: Transfer,
    },
    /// Take a file or an archive; content frames come back.
    Push {
        /// Who writes; the default user if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// What.
        transfer: Transfer,
    },
    /// Tell what happens to files; event frames follow.
    Watch {
        /// Who looks; the default user if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// A file or a directory.
        path: String,
        /// Also below the directories in it.
        recursive: bool,
    },
    /// Run a process that belongs to no connection.
    Spawn {
        /// What to run and how.
        spec: ExecSpec,
    },
    /// List what was spawned.
    Spawned,
    /// Follow what was spawned; frames both ways follow.
    Attach {
        /// Its process id inside.
        pid: u32,
        /// Where to begin.
        from: Offsets,
    },
    /// Connect to a TCP port of the sandbox's own loopback; content frames both ways follow.
    Connect {
        /// Which.
        port: u16,
    },
    /// Everything inside stands still from this moment on, until this is said again with a later one: whoever says it may
    /// die, and nobody would know what runs here.
    Leash {
        /// The moment, in milliseconds since the kernel of the daemon was started, time asleep included.
        until_ms: u64,
        /// The same from now on, for an agent that has another kernel.
        within_ms: u64,
    },
    /// First process of a machine only: become what this says. Once; nothing else but `hello` is answered before.
    Setup {
        /// What.
        setup: Box<GuestSetup>,
    },
    /// First process of a machine only: stop everything of the user, write what is cached. The machine is about to be kept.
    Quiesce,
    /// First process of a machine only: time has passed, and perhaps it is another from now on. Everything of the user stands
    /// still until `proceed`.
    Renew {
        /// As what.
        renewal: Box<Renewal>,
    },
    /// First process of a machine only: whoever asked for the renewal believes its proof. What was stopped goes on.
    Proceed,
    /// First process of a machine only: everything changed above the layers of the root, as a tar archive of an OCI layer;
    /// content frames follow.
    Changes,
    /// End everything, then yourself.
    Shutdown,
}

/// First frame of a stream the agent opens, agent to daemon. The daemon answers with one byte, 1 for connected or 0 for
/// refused; after a 1 the stream carries raw bytes both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum GuestRequest {
    /// A program inside connected to one of the forwarded ports.
    Forward {
        /// The port it connected to.
        port: u16,
    },
}

/// Second frame of a stream, agent to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// To `hello`.
    Hello(Hello),
    /// To `start`, `exec` and `spawn`: it runs.
    Started {
        /// Process id inside.
        pid: u32,
    },
    /// To `wait`.
    Exited(Exit),
    /// To `output`: data frames follow.
    Output,
    /// To `processes`.
    Processes {
        /// The list.
        processes: Vec<GuestProcess>,
    },
    /// To `stats`.
    Stats(GuestStats),
    /// To `file`.
    File {
        /// The answer.
        answer: FileReply,
    },
    /// To `pull` and `push`: content frames follow, or may come.
    Content,
    /// To `watch`: event frames follow. Everything that happens from now on is told.
    Watching,
    /// To `spawned`.
    Spawned {
        /// The list, oldest first.
        processes: Vec<Spawned>,
    },
    /// To `attach`: data frames follow.
    Attached,
    /// To `connect`: content frames follow.
    Connected,
    /// To `renew`: it is done, and this is the proof.
    Renewed(Renewed),
    /// To `signal`, `leash`, `setup`, `quiesce`, `proceed` and `shutdown`.
    Done,
    /// To anything.
    Failed {
        /// What the caller may decide by.
        kind: moat_model::ErrorKind,
        /// For people; names the field or the path at fault.
        message: String,
    },
}

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Version of the agent program.
    pub version: String,
    /// Verbs it knows.
    pub capabilities: Vec<String>,
    /// What the main process is doing.
    pub main: MainState,
    /// It is the first process of a machine and waits for `setup`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_setup: bool,
}

/// What the main process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum MainState {
    /// None was started.
    Idle,
    /// It runs.
    Running {
        /// Its process id inside.
        pid: u32,
    },
    /// It ended.
    Exited {
        /// How.
        exit: Exit,
    },
}

/// Places in the two output streams of the main process, in bytes since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// Standard output.
    pub stdout: u64,
    /// Standard error.
    pub stderr: u64,
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamName {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A process inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcess {
    /// Process id inside.
    pub pid: u32,
    /// Parent inside.
    pub ppid: u32,
    /// User id inside.
    pub uid: u32,
    /// Program and arguments; at most 4 KiB, lossy.
    pub command: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// CPU time, user and system.
    pub cpu_usec: u64,
}

/// A process that was spawned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawned {
    /// Process id inside, its name here.
    pub pid: u32,
    /// Program and arguments.
    pub command: Vec<String>,
    /// When, by the sandbox's clock, milliseconds since 1970.
    pub started_ms: i64,
    /// How far its output has come.
    pub written: Offsets,
    /// Whether it has a terminal.
    pub pty: bool,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// Because its time was up.
    pub timed_out: bool,
}

/// Measurements from inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Processes inside, agent included.
    pub processes: u64,
    /// Sum of their resident memory.
    pub rss_bytes: u64,
    /// Sum of their CPU time.
    pub cpu_usec: u64,
    /// The agent's own resident memory.
    pub agent_rss_bytes: u64,
}
