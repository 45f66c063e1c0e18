//! What is kept of a workload: one file each, on a tmpfs.
//!
//! The file is written before the effect it announces, and again when the effect is there. It holds the environment in
//! clear text, because a restart needs it: it is readable by the daemon's user only, lies on a tmpfs by default, and the
//! environment is wiped from it when the workload has ended.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_model::lifecycle::{SandboxView, Step};
use moat_model::workload::{RestartPolicy, Verdict, WorkloadKind};
use moat_model::{
    Cause, ErrorKind, Exit, GivenIsolation, Namespace, NodeId, SandboxId, SandboxSpec, Timestamp, WorkloadId,
    WorkloadName,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Result};
use crate::guard::make_private;
use crate::logfile::WorkloadRef;
use crate::outlet::Judge;

/// Version of the format. A record of another version is left alone and reported.
const VERSION: u32 = 1;

/// The claims a workload was started with: what a stop is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartClaims {
    /// Who signed.
    pub issuer: String,
    /// About which name.
    pub subject: WorkloadName,
    /// Their id.
    pub jti: String,
    /// When, Unix seconds.
    pub issued_at: i64,
}

/// Where a workload is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// Its sandbox is about to be made, or perhaps half made.
    Starting {
        /// Which.
        sandbox: SandboxId,
    },
    /// Its program was seen running, and whoever deployed it may have been told.
    Running {
        /// In this sandbox.
        sandbox: SandboxId,
    },
    /// It failed and will be started again.
    Waiting {
        /// Then.
        until: Timestamp,
    },
    /// It will not run again.
    Ended {
        /// Since.
        at: Timestamp,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Status of the program; unknown if it never ran.
    pub exit: Exit,
    /// Why.
    pub cause: Cause,
}

/// Everything that is kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct WorkloadRecord {
    version: u32,
    /// Its id: the same for all attempts.
    pub id: WorkloadId,
    /// Its name.
    pub name: WorkloadName,
    /// For people.
    pub description: String,
    /// What it is for.
    pub kind: WorkloadKind,
    /// `native`.
    pub workload_type: String,
    /// Started again when it fails; cleared by lame duck.
    pub essential: bool,
    /// Started by the node itself.
    pub autostart: bool,
    /// It was stopped for good, and that is being carried out.
    #[serde(default)]
    pub stopping: bool,
    /// What it was started with.
    pub claims: StartClaims,
    /// What runs, in each attempt.
    pub spec: SandboxSpec,
    /// Bytes of its program.
    pub artifact_bytes: u64,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// Which start this is: 1 the first time.
    pub attempt: u32,
    /// Failures in a row.
    pub failures: u32,
    /// When the current attempt began running.
    pub started_at: Option<Timestamp>,
    /// When the last restart was.
    pub retried_at: Option<Timestamp>,
    /// Driver of the last attempt.
    pub driver: Option<String>,
    /// Isolation of the last attempt.
    pub isolation: Option<GivenIsolation>,
    /// Sandbox of the last attempt.
    pub sandbox: Option<SandboxId>,
    /// How the last attempt ended.
    pub ending: Option<Ending>,
    /// What happened to the sandbox of the last attempt, once it has ended.
    #[serde(default)]
    pub timeline: Vec<Step>,
    /// Where it is.
    pub stage: Stage,
}

impl std::fmt::Debug for WorkloadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadRecord")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("attempt", &self.attempt)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// What is known of a workload before its first attempt.
#[derive(Debug)]
pub struct NewWorkload {
    /// Its id.
    pub id: WorkloadId,
    /// Its name.
    pub name: WorkloadName,
    /// For people.
    pub description: String,
    /// What it is for.
    pub kind: WorkloadKind,
    /// `native`.
    pub workload_type: String,
    /// Started again when it fails.
    pub essential: bool,
    /// Started by the node itself.
    pub autostart: bool,
    /// What it was signed with.
    pub claims: StartClaims,
    /// What runs.
    pub spec: SandboxSpec,
    /// Bytes of its program.
    pub artifact_bytes: u64,
}

impl WorkloadRecord {
    /// A workload whose first attempt is about to be made.
    pub fn new(new: NewWorkload, sandbox: SandboxId, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            id: new.id,
            name: new.name,
            description: new.description,
            kind: new.kind,
            workload_type: new.workload_type,
            essential: new.essential,
            autostart: new.autostart,
            stopping: false,
            claims: new.claims,
            spec: new.spec,
            artifact_bytes: new.artifact_bytes,
            created_at: now,
            attempt: 1,
            failures: 0,
            started_at: None,
            retried_at: None,
            driver: None,
            isolation: None,
            sandbox: Some(sandbox.clone()),
            ending: None,
            timeline: Vec::new(),
            stage: Stage::Starting { sandbox },
        }
    }

    /// Tenant.
    pub fn namespace(&self) -> &Namespace {
        &self.spec.namespace
    }

    /// Its name to the outlet.
    pub fn reference(&self, node: &NodeId) -> WorkloadRef {
        WorkloadRef {
            namespace: self.namespace().clone(),
            name: self.name.clone(),
            id: self.id.clone(),
            node: node.clone(),
        }
    }

    /// Digest of its program.
    pub fn sha256(&self) -> &str {
        self.spec.artifact.as_ref().map_or("", |a| a.sha256.as_str())
    }

    /// It will not run again.
    pub fn ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// Its first start was never seen through, so nobody can have been told that it runs.
    pub fn unacknowledged(&self) -> bool {
        self.attempt == 1 && matches!(self.stage, Stage::Starting { .. })
    }

    /// The program runs.
    pub fn running(&mut self, view: &SandboxView) {
        self.started_at = view.started_at;
        self.driver = Some(view.driver.clone());
        self.isolation = Some(view.into());
        self.sandbox = Some(view.id.clone());
        self.stage = Stage::Running { sandbox: view.id.clone() };
    }

    /// A new attempt is about to be made.
    pub fn starting(&mut self, sandbox: SandboxId, now: Timestamp) {
        self.attempt = self.attempt.saturating_add(1);
        self.retried_at = Some(now);
        self.started_at = None;
        self.sandbox = Some(sandbox.clone());
        self.stage = Stage::Starting { sandbox };
    }

    /// It is another sandbox this attempt is about to be made in.
    pub fn starting_in(&mut self, sandbox: SandboxId) {
        self.sandbox = Some(sandbox.clone());
        self.stage = Stage::Starting { sandbox };
    }

    /// The attempt ended and another will follow.
    pub fn waiting(&mut self, ending: Ending, failures: u32, until: Timestamp) {
        self.ending = Some(ending);
        self.failures = failures;
        self.stage = Stage::Waiting { until };
    }

    /// It will not run again: nothing needs the environment any more.
    pub fn end(&mut self, ending: Option<Ending>, at: Timestamp) {
        if ending.is_some() {
            self.ending = ending;
        }
        self.stage = Stage::Ended { at };
        self.wipe();
    }

    /// How long the attempt ran.
    pub fn ran_for(&self, until: Timestamp) -> Duration {
        self.started_at.map_or(Duration::ZERO, |at| until.since(at))
    }

    /// What follows an attempt that ended like this.
    pub fn verdict(&self, ending: &Ending, now: Timestamp, policy: &RestartPolicy) -> Verdict {
        // Somebody wanted these ends.
        let wanted =
            matches!(ending.cause, Cause::Stopped | Cause::StopTimedOut | Cause::Killed | Cause::TimedOut { .. });
        if self.stopping || wanted || !self.essential {
            return Verdict::Finished;
        }
        policy.decide(ending.exit, self.ran_for(now), self.failures)
    }

    fn wipe(&mut self) {
        if let Some(main) = &mut self.spec.main {
            for value in main.env.values_mut() {
                value.zeroize();
            }
            main.env.clear();
        }
    }
}

impl Drop for WorkloadRecord {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Ending {
    /// As a terminal view tells it.
    pub fn of(view: &SandboxView) -> Self {
        Self { exit: view.exit.unwrap_or(Exit::unknown()), cause: view.cause.clone().unwrap_or(Cause::Exited) }
    }
}

/// Tells the outlet whether an ended attempt is followed by another. It reads the records, so it can judge before the
/// actors are up.
#[derive(Debug)]
pub struct RecordJudge {
    /// Where they are.
    pub store: RecordStore,
    /// How failures are answered.
    pub policy: RestartPolicy,
}

impl Judge for RecordJudge {
    fn restarts(&self, workload: &WorkloadRef, view: &SandboxView) -> bool {
        let Ok(record) = read(&self.store.path(&workload.id)) else { return false };
        if record.sandbox.as_ref() != Some(&view.id) {
            return true;
        }
        match record.stage {
            Stage::Waiting { .. } => true,
            Stage::Ended { .. } => false,
            // A first start that fails is undone.
            Stage::Starting { .. } if record.attempt == 1 => false,
            Stage::Starting { .. } | Stage::Running { .. } => {
                let at = view.ended_at.unwrap_or_default();
                matches!(record.verdict(&Ending::of(view), at, &self.policy), Verdict::Restart { .. })
            }
        }
    }
}

/// The records of this node, `<id>.json` in one directory.
#[derive(Debug, Clone)]
pub struct RecordStore {
    dir: PathBuf,
}

impl RecordStore {
    /// Opens the directory, making it, and forgets what an earlier daemon had half written.
    pub fn open(dir: &Path) -> Result<Self> {
        make_private(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Every record that can be read. One that cannot is set aside and reported: its sandbox will be found without an
    /// owner and ended, which is the safe side.
    pub fn read_all(&self) -> Result<Vec<WorkloadRecord>> {
        let entries = std::fs::read_dir(&self.dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("list {}", self.dir.display()), e))?;
        let mut records = Vec::new();
        for path in entries.flatten().map(|e| e.path()) {
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => match read(&path) {
                    Ok(record) => records.push(record),
                    Err(why) => {
                        tracing::error!(path = %path.display(), %why, "workload record cannot be read; set aside");
                        let _ = std::fs::rename(&path, path.with_extension("unreadable"));
                    }
                },
                Some("new") => {
                    let _ = std::fs::remove_file(&path);
                }
                _ => {}
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    /// Writes a record. Written beside and renamed, so that there is always a whole one; no sync, because it must survive
    /// the daemon and not the power. A few kilobytes on a tmpfs: done on the spot.
    pub fn write(&self, record: &WorkloadRecord) -> Result<()> {
        let path = self.path(&record.id);
        let beside = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let bytes = Zeroizing::new(serde_json::to_vec(record)?);
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&bytes)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|e| Error::caused_by(ErrorKind::Unavailable, format!("write {}", path.display()), e))
    }

    /// Forgets a record; one that is not there is forgotten already.
    pub fn remove(&self, id: &WorkloadId) -> Result<()> {
        let path = self.path(id);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::caused_by(ErrorKind::Unavailable, format!("remove {}", path.display()), e)),
        }
    }

    fn path(&self, id: &WorkloadId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> std::result::Result<WorkloadRecord, String> {
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|e| e.to_string())?);
    let record: WorkloadRecord = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if record.version != VERSION {
        return Err(format!("format version {}, this daemon writes {VERSION}", record.version));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::spec::RootSpec;
    use moat_model::{Isolation, ProcessSpec};
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    fn record() -> WorkloadRecord {
        let spec = SandboxSpec {
            main: Some(ProcessSpec {
                command: "a".to_owned(),
                args: Vec::new(),
                env: BTreeMap::from([("TOKEN".to_owned(), "hunter2".to_owned())]),
                cwd: None,
                user: None,
            }),
            ..SandboxSpec::new(Namespace::default_namespace(), Isolation::Container, RootSpec::Host)
        };
        let name = WorkloadName::parse("a").unwrap();
        let new = NewWorkload {
            id: WorkloadId::parse("cq1v8k3q7d2c73f0a9g0").unwrap(),
            name: name.clone(),
            description: String::new(),
            kind: WorkloadKind::Service,
            workload_type: "native".to_owned(),
            essential: true,
            autostart: false,
            claims: StartClaims { issuer: "A".to_owned(), subject: name, jti: "j".to_owned(), issued_at: 1 },
            spec,
            artifact_bytes: 1,
        };
        WorkloadRecord::new(new, SandboxId::from_parts(Timestamp::from_millis(1), [0; 10]), Timestamp::from_millis(5))
    }

    #[test]
    fn records_are_private_whole_and_wiped_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecordStore::open(dir.path()).unwrap();
        let mut record = record();
        store.write(&record).unwrap();
        let path = store.path(&record.id);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&path).unwrap().contains("hunter2"));
        assert!(!format!("{record:?}").contains("hunter2"));
        let read = store.read_all().unwrap();
        assert_eq!(read.len(), 1);
        assert!(read[0].unacknowledged() && read[0].stage == record.stage);

        let ending = Ending { exit: Exit::code(3), cause: Cause::Exited };
        record.end(Some(ending), Timestamp::from_millis(9));
        store.write(&record).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
        store.remove(&record.id).unwrap();
        store.remove(&record.id).unwrap();
        assert!(store.read_all().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = RecordStore::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("x.json"), "{").unwrap();
        std::fs::write(dir.path().join("y.new"), "{").unwrap();
        let newer = serde_json::to_string(&record()).unwrap().replace("\"version\":1", "\"version\":2");
        std::fs::write(dir.path().join("z.json"), newer).unwrap();
        assert!(store.read_all().unwrap().is_empty());
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["x.unreadable", "z.unreadable"]);
    }
}
