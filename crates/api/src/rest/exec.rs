//! Running programs in a sandbox.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most output of a buffered exec if `max_output` does not say.
pub const MAX_OUTPUT_DEFAULT: u64 = 1 << 20;
/// Most that `max_output` may say: the answer is held in memory.
pub const MAX_OUTPUT_MAX: u64 = 64 << 20;

/// A program to run. No shell: `command` is the program, `args` its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Program.
    pub command: String,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment over the sandbox's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `name`, `uid` or `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Text for its standard input, which then ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Bytes for its standard input in base64, instead of `stdin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
    /// Leaves its standard input open for whoever attaches. Detached only, and not together with `stdin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_stdin: bool,
    /// After this long it and everything it started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most bytes of output kept of each stream; more is counted and thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// Gives it a terminal. Streaming and detached only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// What a buffered exec came to. A time-out is told by `timed_out`, never by a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Its exit code; 128 + n if signal n ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output. Bytes that are not UTF-8 are replaced here; they are whole in `stdout_base64`.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Present if standard output is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// Present if standard error is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// How long it took.
    pub duration_ms: f64,
    /// Its time was up, and it was killed.
    pub timed_out: bool,
    /// There was more output than `max_output`.
    pub truncated: bool,
    /// Bytes it wrote to standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes it wrote to standard error, kept or not.
    pub stderr_bytes: u64,
}

/// One line of a streaming exec, or one text message of a WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum ExecEvent {
    /// The first.
    Started {
        /// Process id inside.
        pid: u32,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout {
        /// The bytes, if they are UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The bytes, if they are not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        /// Bytes of this stream before these.
        offset: u64,
    },
    /// It wrote to standard error.
    Stderr {
        /// The bytes, if they are UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The bytes, if they are not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        /// Bytes of this stream before these.
        offset: u64,
    },
    /// Output up to an offset is gone for this reader.
    Skipped {
        /// `stdout` or `stderr`.
        stream: String,
        /// Where it goes on.
        to: u64,
    },
    /// Nothing happened for a while; the line is alive.
    Keepalive,
    /// The last: it ended.
    Exited {
        /// Its exit code.
        exit_code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Its time was up.
        timed_out: bool,
        /// How long it took; absent for one that had ended before it was followed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<f64>,
    },
    /// The last: it was lost, because the sandbox ended for one.
    Failed {
        /// Why.
        error: super::ErrorBody,
    },
}

/// One text message to a running exec over a WebSocket. Binary messages are standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "input", deny_unknown_fields)]
pub enum ExecControl {
    /// The first message: what to run. Not for an attachment.
    Start {
        /// What.
        exec: Exec,
    },
    /// Text for its standard input.
    Stdin {
        /// The text.
        text: String,
    },
    /// End of its standard input.
    CloseStdin,
    /// New size of its terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// A signal for its process group.
    Signal {
        /// `SIGTERM`, `term` or `15`.
        signal: String,
    },
}

/// A process that was started detached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetachedExec {
    /// Process id inside, its name in `/execs/{pid}`.
    pub pid: u32,
    /// Program and arguments.
    pub command: Vec<String>,
    /// When.
    pub started_at: String,
    /// It has a terminal.
    pub pty: bool,
    /// Bytes of standard output so far.
    pub stdout_bytes: u64,
    /// Bytes of standard error so far.
    pub stderr_bytes: u64,
    /// It runs.
    pub running: bool,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// Its time was up.
    pub timed_out: bool,
}

/// All of them, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetachedList {
    /// The list.
    pub execs: Vec<DetachedExec>,
}

/// Signals a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalProcess {
    /// `SIGTERM`, `term` or `15`.
    pub signal: String,
}

/// A process in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Process id inside.
    pub pid: u32,
    /// Parent inside.
    pub ppid: u32,
    /// User id inside.
    pub uid: u32,
    /// Program and arguments.
    pub command: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// CPU time.
    pub cpu_usec: u64,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    /// The list.
    pub processes: Vec<Process>,
}
