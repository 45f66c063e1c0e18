//! What nodes ask of each other about allocations: `$NEX.ALLOC.<ns>.<node>`, answered by the node that runs them.
//!
//! Any node takes a user's request; the one that has the allocation carries it out. Bytes (a program's, a log's, a file's)
//! travel as an exec's do ([`crate::stream`]): the asker names a stream and listens, the answer says that it begins, and
//! credit bounds what is under way. Whoever may publish on these subjects acts for any namespace, as with DEPLOY: they are
//! for nodes, not for workloads.

use moat_model::AllocId;
use moat_model::spec::{ExecSpec, Signal};
use serde::{Deserialize, Serialize};

use crate::WireError;
use crate::stream::StreamId;

/// A request about one allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationRequest {
    /// Which.
    pub allocation: AllocId,
    /// What.
    pub verb: AllocationVerb,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum AllocationVerb {
    /// Runs a program beside a task; answered by [`StreamBegun`].
    Exec {
        /// Which; the only one if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
        /// What to run.
        spec: ExecSpec,
        /// The caller may run programs on the bare host too.
        bare_host: bool,
        /// Stream the asker chose, and whose output it already listens to.
        stream: StreamId,
    },
    /// What a task wrote; answered by [`StreamBegun`].
    Logs {
        /// Which; the only one if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
        /// Standard error.
        stderr: bool,
        /// Where to begin.
        from: Origin,
        /// Until the task is dead.
        follow: bool,
        /// As with `exec`.
        stream: StreamId,
    },
    /// Content of a file; answered by [`StreamBegun`].
    Read {
        /// Relative to the allocation's directory.
        path: String,
        /// Where to begin.
        from: Origin,
        /// Most bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
        /// When it grows, too.
        follow: bool,
        /// As with `exec`.
        stream: StreamId,
    },
    /// A directory; answered by `AllocationFiles`.
    List {
        /// Relative to the allocation's directory.
        path: String,
    },
    /// A file; answered by `AllocationFile`.
    Stat {
        /// Relative to the allocation's directory.
        path: String,
    },
    /// Sends a signal; answered by `Done`.
    Signal {
        /// To which; to all that run if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
        /// Which signal.
        signal: Signal,
    },
    /// Starts tasks again; answered by `Done`.
    Restart {
        /// Which; all that run if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
    },
    /// What its tasks use; answered by `AllocationStats`.
    Stats,
}

/// Where to begin in a log or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// So many bytes after its beginning.
    Start(u64),
    /// So many bytes before its end.
    End(u64),
    /// So many lines before its end.
    Lines(u64),
}

impl AllocationRequest {
    /// Reads a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(bytes).map_err(|e| WireError::invalid(format!("allocation request: {e}")))
    }
}

/// The stream begins; its last frame says how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBegun {
    /// Process id, of an exec.
    #[serde(default)]
    pub pid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let id = "11111111-2222-3333-4444-555555555555";
        let good = format!(r#"{{"allocation":"{id}","verb":{{"op":"restart","task":"web"}}}}"#);
        let read = AllocationRequest::decode(good.as_bytes()).unwrap();
        assert_eq!(read.verb, AllocationVerb::Restart { task: Some("web".to_owned()) });
        for bad in [
            good.replace("web\"", "web\",\"all\":true"),
            good.replace("restart", "erase"),
            good.replace(id, "../x"),
            "{}".to_owned(),
        ] {
            assert!(AllocationRequest::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
