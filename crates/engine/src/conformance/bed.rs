//! What cases stand on: sandboxes made straight from the driver, and their removal whatever happened.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::spec::ExecSpec;
use moat_model::{Exit, ProcessSpec, Resource, SandboxId, SandboxSpec};

use super::patience::soon;
use super::{Fault, HostProfile};
use crate::clock::Clock;
use crate::driver::{Driver, Place, Record};
use crate::error::Error;
use crate::guest::{ExecOutput, ExecSession, Guest};

/// Ids in the range of one sandbox.
const UIDS: u32 = 65_536;

/// The ground one case stands on.
#[derive(Debug)]
pub struct Bed {
    pub driver: Arc<dyn Driver>,
    pub profile: HostProfile,
    made: Mutex<Vec<Made>>,
    count: AtomicU32,
}

/// Something to be cleared away.
#[derive(Debug, Clone)]
struct Made {
    record: Option<Record>,
    resources: Vec<Resource>,
}

/// A sandbox whose agent answers.
#[derive(Debug)]
pub struct Sandbox {
    pub spec: SandboxSpec,
    pub record: Record,
    pub guest: Arc<dyn Guest>,
    pub resources: Vec<Resource>,
}

/// What an exec came to.
#[derive(Debug, Default)]
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Option<Exit>,
    pub timed_out: bool,
}

impl Bed {
    pub fn new(driver: Arc<dyn Driver>, profile: HostProfile) -> Self {
        Self { driver, profile, made: Mutex::default(), count: AtomicU32::new(0) }
    }

    /// Fresh ground for the next case.
    pub fn next(self) -> Self {
        Self { made: Mutex::default(), ..self }
    }

    /// A place no sandbox of this run was in before.
    pub fn place(&self) -> Place {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let mut random = [0u8; 10];
        if let Some(tail) = random.last_chunk_mut::<8>() {
            *tail = (u64::from(std::process::id()) << 32 | u64::from(n)).to_be_bytes();
        }
        let id = SandboxId::from_parts(Clock::start().now(), random);
        let base = self.profile.uid_base;
        Place {
            run_dir: self.profile.run_dir.join(id.as_str()),
            data_dir: self.profile.data_dir.join(id.as_str()),
            // A few ranges in turn are enough: cases come one after the other.
            uid_base: if base == 0 { 0 } else { base.saturating_add(n % 16 * UIDS) },
            network: None,
            id,
        }
    }

    /// A process that runs a script.
    pub fn script(&self, script: &str) -> Result<ProcessSpec, Fault> {
        let Some([command, args @ ..]) = self.profile.shell.as_deref() else {
            return Err(Fault::NotRun("the profile names no shell inside the sandbox".to_owned()));
        };
        Ok(ProcessSpec {
            command: command.clone(),
            args: args.iter().cloned().chain([script.to_owned()]).collect(),
            env: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/local".to_owned())].into(),
            cwd: None,
            user: None,
        })
    }

    /// The program that listens on a port.
    pub fn listener(&self) -> Result<ProcessSpec, Fault> {
        let Some([command, args @ ..]) = self.profile.listener.as_deref() else {
            return Err(Fault::NotRun("the profile names no program that listens inside the sandbox".to_owned()));
        };
        Ok(ProcessSpec { command: command.clone(), args: args.to_vec(), env: [].into(), cwd: None, user: None })
    }

    /// Only with a whole shell.
    pub fn needs_full_shell(&self) -> Result<(), Fault> {
        if self.profile.full_shell {
            Ok(())
        } else {
            Err(Fault::NotRun("the profile names no whole shell inside the sandbox".to_owned()))
        }
    }

    /// The spec of the profile with this main process.
    pub fn spec(&self, main: Option<ProcessSpec>) -> SandboxSpec {
        SandboxSpec { main, ..self.profile.spec.clone() }
    }

    /// A path on the host at which nothing is yet, below the data directories.
    pub fn fresh_path(&self, name: &str) -> Result<PathBuf, Fault> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let dir = &self.profile.data_dir;
        let made = std::fs::create_dir_all(dir);
        made.map_err(|error| Fault::Failed(format!("create {}: {error}", dir.display())))?;
        Ok(dir.join(format!("{name}-{}-{n}", std::process::id())))
    }

    /// Notes what a create may leave behind, before it is begun.
    pub fn plan(&self, place: &Place, spec: &SandboxSpec) -> Vec<Resource> {
        let resources: Vec<Resource> = self
            .driver
            .plan(place, spec)
            .into_iter()
            .filter(|resource| !matches!(resource, Resource::UidRange { .. }))
            .collect();
        self.note(Made { record: None, resources: resources.clone() });
        resources
    }

    /// Creates and starts a sandbox; its main process is not started.
    pub async fn open(&self, spec: SandboxSpec) -> Result<Sandbox, Fault> {
        self.driver.validate(&spec)?;
        let place = self.place();
        let resources = self.plan(&place, &spec);
        let record = self.driver.create(&place, &spec).await?;
        self.note(Made { record: Some(record.clone()), resources: resources.clone() });
        let guest = self.driver.start(&record).await?;
        Ok(Sandbox { spec, record, guest, resources })
    }

    /// A sandbox whose main process runs this script.
    pub async fn running(&self, script: &str) -> Result<Sandbox, Fault> {
        let sandbox = self.open(self.spec(Some(self.script(script)?))).await?;
        sandbox.start_main().await?;
        Ok(sandbox)
    }

    /// A sandbox in which nothing but the agent runs.
    pub async fn idle(&self) -> Result<Sandbox, Fault> {
        self.open(self.spec(None)).await
    }

    fn note(&self, made: Made) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(made);
    }

    /// Kills and releases everything that was made.
    pub async fn clear(&self) -> Result<(), String> {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = Vec::new();
        for Made { record, resources } in made.into_iter().rev() {
            if let Some(record) = &record
                && let Err(error) = within(self.driver.kill(record)).await
            {
                left.push(format!("kill: {}", error.chain()));
            }
            for resource in resources.iter().rev() {
                if let Err(error) = within(self.driver.release(resource)).await {
                    left.push(format!("{resource:?}: {}", error.chain()));
                }
                if let Resource::Directory { path } = resource
                    && path.exists()
                {
                    left.push(format!("{} still exists", path.display()));
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }
}

impl Sandbox {
    /// Starts the main process of the spec.
    pub async fn start_main(&self) -> Result<u32, Fault> {
        let main = self.spec.main.as_ref().ok_or_else(|| Fault::Failed("the case has no main process".to_owned()))?;
        Ok(within(self.guest.start_main(main)).await?)
    }

    /// Waits for the end of the main process.
    pub async fn wait(&self) -> Result<Exit, Fault> {
        Ok(within(self.guest.wait_main()).await?)
    }

    /// Reads everything the main process wrote, to its end, and acknowledges it.
    pub async fn read_all(&self) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
        let mut reader = within(self.guest.output(Offsets::default())).await?;
        while let Some(chunk) = within(reader.next()).await? {
            let to = if chunk.stream == StreamName::Stdout { &mut stdout } else { &mut stderr };
            if chunk.offset != to.len() as u64 {
                return Err(Fault::Failed(format!("a chunk at {} where {} was due", chunk.offset, to.len())));
            }
            to.extend_from_slice(&chunk.bytes);
            let upto = Offsets { stdout: stdout.len() as u64, stderr: stderr.len() as u64 };
            within(reader.acknowledge(upto)).await?;
        }
        Ok((stdout.to_vec(), stderr.to_vec()))
    }

    /// Begins an exec of a script.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, Fault> {
        Ok(within(self.guest.exec(&spec)).await?)
    }

    /// Waits until no process inside has `word` in its command.
    pub async fn until_gone(&self, word: &str) -> Result<(), Fault> {
        let deadline = tokio::time::Instant::now() + soon();
        let mut wait = Duration::from_millis(5);
        loop {
            let left: Vec<String> = within(self.guest.processes())
                .await?
                .into_iter()
                .map(|process| process.command)
                .filter(|command| command.contains(word))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Fault::Failed(format!("still running: {left:?}")));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }
}

/// An exec of this process, with nothing else asked for.
pub fn plain(process: ProcessSpec) -> ExecSpec {
    ExecSpec { process, pty: None, stdin: false, timeout: None }
}

/// Collects what an exec says until it has ended.
pub async fn finish(session: &mut ExecSession) -> Result<Ran, Fault> {
    let mut ran = Ran::default();
    let collect = async {
        while let Some(output) = session.output.recv().await {
            match output {
                ExecOutput::Data(_, _) if ran.exit.is_some() => {
                    return Err(Fault::Failed("output after the exit was told".to_owned()));
                }
                ExecOutput::Data(StreamName::Stdout, bytes) => ran.stdout.extend_from_slice(&bytes),
                ExecOutput::Data(StreamName::Stderr, bytes) => ran.stderr.extend_from_slice(&bytes),
                ExecOutput::Exited { exit, timed_out } => {
                    ran.exit = Some(exit);
                    ran.timed_out = timed_out;
                }
            }
        }
        Ok(())
    };
    match tokio::time::timeout(soon(), collect).await {
        Ok(done) => done?,
        Err(_) => return Err(Fault::Failed("the exec did not end".to_owned())),
    }
    Ok(ran)
}

/// Fails what does not come soon.
pub async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(soon(), call).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(moat_model::ErrorKind::Deadline, format!("no answer within {} s", soon().as_secs()))),
    }
}

/// Where a host directory of a place lies; used to see that nothing is left.
pub fn directories(resources: &[Resource]) -> Vec<PathBuf> {
    resources
        .iter()
        .filter_map(|resource| match resource {
            Resource::Directory { path } => Some(path.clone()),
            _ => None,
        })
        .collect()
}
