//! The agent of a fake sandbox.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{
    FRAME_LEN_MAX, GuestProcess, GuestStats, Hello, MainState, Offsets, PROTOCOL_VERSION, Spawned, StreamName,
};
use moat_model::file::{FileReply, FileRequest, Transfer, WatchEvent};
use moat_model::spec::{ExecSpec, Signal};
use moat_model::{ErrorKind, Exit, ProcessSpec, SandboxId};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::files::FakePush;
use super::program::{Program, Statement};
use super::spawned::FakeSpawned;
use super::world::{FakeMain, FakeSandbox, Link};
use super::{FakeConfig, FakeStep};
use crate::error::{Error, Result};
use crate::guest::{
    Attachment, BytesIn, BytesOut, Channel, Chunk, ExecInput, ExecOutput, ExecSession, Guest, OutputReader,
};
use crate::leash::Leash;

/// Process id of every fake exec.
const EXEC_PID: u32 = 3;
/// Process id of the first spawned process.
const SPAWNED_PID: u32 = 100;
/// Messages under way on each side of a fake exec.
const EXEC_QUEUE: usize = 16;

/// A live fake agent.
#[derive(Debug)]
pub(super) struct FakeGuest {
    link: Link,
    id: SandboxId,
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the agent does not answer")
}

impl FakeGuest {
    pub fn new(link: Link, id: SandboxId) -> Self {
        Self { link, id }
    }

    /// Asks a living agent something. One that is frozen does not answer until it is thawed.
    async fn ask<T>(&self, mut ask: impl FnMut(&mut FakeSandbox) -> Result<T>) -> Result<T> {
        self.link
            .until(&self.id, |sandbox| match sandbox {
                Some(sandbox) if sandbox.agent_alive && sandbox.frozen => None,
                Some(sandbox) if sandbox.agent_alive => Some(ask(sandbox)),
                _ => Some(Err(gone())),
            })
            .await
    }
}

#[async_trait]
impl Guest for FakeGuest {
    async fn hello(&self) -> Result<Hello> {
        let main = self.ask(|sandbox| Ok(sandbox.main_state())).await?;
        Ok(Hello {
            protocol: PROTOCOL_VERSION,
            version: "fake".to_owned(),
            capabilities: vec![],
            main,
            awaits_setup: false,
        })
    }

    async fn start_main(&self, process: &ProcessSpec) -> Result<u32> {
        self.ask(|_| Ok(())).await?;
        let hangs = self
            .link
            .act(|world| {
                let Some(sandbox) = world.sandboxes.get_mut(&self.id).filter(|s| s.agent_alive) else {
                    return Err(gone());
                };
                if sandbox.main.is_some() {
                    return Err(Error::new(ErrorKind::Conflict, "the main process was started already"));
                }
                if let Some(error) = &sandbox.config.main_error {
                    return Err(Error::new(ErrorKind::Guest, format!("start main: {error}")));
                }
                let program = Program::of(process, &sandbox.config).ok_or_else(|| no_program(process))?;
                sandbox.main = Some(FakeMain::start(&program, sandbox.config.die_after));
                let hangs = sandbox.config.hang_at == Some(FakeStep::StartMain);
                world.started_main(&self.id);
                Ok(hangs)
            })
            .await?;
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(2)
    }

    async fn wait_main(&self) -> Result<Exit> {
        self.link
            .until(&self.id, |sandbox| {
                let Some(sandbox) = sandbox.filter(|sandbox| sandbox.agent_alive) else { return Some(Err(gone())) };
                if sandbox.frozen {
                    return None;
                }
                match &mut sandbox.main {
                    None => Some(Err(Error::new(ErrorKind::Conflict, "no main process was started"))),
                    Some(main) => main.exit().map(Ok),
                }
            })
            .await
    }

    async fn lost(&self) -> String {
        self.link
            .until(&self.id, |sandbox| match sandbox {
                Some(sandbox) if sandbox.agent_alive => None,
                _ => Some("the agent ended".to_owned()),
            })
            .await
    }

    async fn output(&self, from: Offsets) -> Result<Box<dyn OutputReader>> {
        let id = self.id.clone();
        self.ask(|sandbox| {
            let kept = sandbox.main.as_ref().map_or(Offsets::default(), |main| main.acknowledged);
            if from.stdout < kept.stdout || from.stderr < kept.stderr {
                let what = format!("output from {from:?}: only what comes after {kept:?} is kept");
                return Err(Error::new(ErrorKind::Conflict, what));
            }
            Ok(())
        })
        .await?;
        Ok(Box::new(FakeReader { link: self.link.clone(), id, at: from }))
    }

    async fn exec(&self, spec: &ExecSpec) -> Result<ExecSession> {
        let config = self.ask(|sandbox| Ok(sandbox.config.clone())).await?;
        let program = Program::of(&spec.process, &FakeConfig { run_for: Some(Duration::ZERO), ..config })
            .ok_or_else(|| no_program(&spec.process))?;
        let (input, inputs) = mpsc::channel(EXEC_QUEUE);
        let (outputs, output) = mpsc::channel(EXEC_QUEUE);
        let process = Exec { inputs, outputs, open: spec.stdin, traps: Vec::new() };
        tokio::spawn(process.run(program, spec.timeout));
        Ok(ExecSession { pid: EXEC_PID, input, output })
    }

    async fn signal_main(&self, signal: Signal) -> Result<()> {
        self.ask(|_| Ok(())).await?;
        self.link
            .act(|world| {
                let main = world.sandboxes.get_mut(&self.id).and_then(|sandbox| sandbox.main.as_mut());
                match main.map(|main| (main.exit(), main)) {
                    Some((None, main)) => {
                        main.signal(signal.number());
                        Ok(())
                    }
                    _ => Err(Error::new(ErrorKind::Conflict, "the main process does not run")),
                }
            })
            .await
    }

    async fn leash(&self, leash: Leash) -> Result<()> {
        self.ask(|sandbox| {
            sandbox.leash = sandbox.leash.max(Some(leash.until));
            Ok(())
        })
        .await
    }

    async fn processes(&self) -> Result<Vec<GuestProcess>> {
        let main = self.ask(|sandbox| Ok(sandbox.main_state())).await?;
        let process = |pid, command: &str| GuestProcess {
            pid,
            ppid: pid - 1,
            uid: 0,
            command: command.to_owned(),
            rss_bytes: 1 << 20,
            cpu_usec: 100,
        };
        let mut all = vec![process(1, "agent")];
        if let MainState::Running { pid } = main {
            all.push(process(pid, "main"));
        }
        Ok(all)
    }

    async fn stats(&self) -> Result<GuestStats> {
        let processes = self.processes().await?.len() as u64;
        Ok(GuestStats { processes, rss_bytes: processes << 20, cpu_usec: 100, agent_rss_bytes: 1 << 20 })
    }

    async fn shutdown(&self) -> Result<()> {
        if self.ask(|sandbox| Ok(sandbox.config.hang_at == Some(FakeStep::Shutdown))).await? {
            std::future::pending::<()>().await;
        }
        self.link
            .act(|world| {
                if let Some(sandbox) = world.sandboxes.get_mut(&self.id) {
                    sandbox.kill();
                }
            })
            .await;
        Ok(())
    }

    async fn file(&self, _user: Option<&str>, request: &FileRequest) -> Result<FileReply> {
        self.ask(|sandbox| sandbox.files.answer(request)).await
    }

    async fn pull(&self, _user: Option<&str>, transfer: &Transfer) -> Result<BytesOut> {
        let Transfer::Read { path, offset, length } = transfer else { return Err(no_archives()) };
        let content = self.ask(|sandbox| sandbox.files.read(path, *offset, *length)).await?;
        let (out, pieces) = mpsc::channel(EXEC_QUEUE);
        tokio::spawn(async move {
            for piece in content.chunks(FRAME_LEN_MAX) {
                if out.send(Ok(Bytes::copy_from_slice(piece))).await.is_err() {
                    return;
                }
            }
        });
        Ok(pieces)
    }

    async fn push(&self, _user: Option<&str>, transfer: &Transfer) -> Result<BytesIn> {
        let Transfer::Write { path, mode } = transfer else { return Err(no_archives()) };
        let start = |sandbox: &mut FakeSandbox| {
            FakePush::start(&sandbox.files, self.link.clone(), self.id.clone(), path, *mode)
        };
        Ok(Box::new(self.ask(start).await?))
    }

    async fn watch(&self, _user: Option<&str>, path: &str, recursive: bool) -> Result<mpsc::Receiver<WatchEvent>> {
        self.ask(|sandbox| sandbox.files.watch(path, recursive)).await
    }

    async fn spawn(&self, spec: &ExecSpec) -> Result<u32> {
        let session = self.exec(spec).await?;
        let mut session = Some(session);
        self.ask(|sandbox| {
            let pid = SPAWNED_PID + u32::try_from(sandbox.spawned.len()).unwrap_or(0);
            sandbox.spawned.extend(session.take().map(|session| FakeSpawned::start(pid, spec, session)));
            Ok(pid)
        })
        .await
    }

    async fn spawned(&self) -> Result<Vec<Spawned>> {
        self.ask(|sandbox| Ok(sandbox.spawned.iter().map(FakeSpawned::told).collect())).await
    }

    async fn connect_port(&self, port: u16) -> Result<Box<dyn Channel>> {
        if !self.ask(|sandbox| Ok(sandbox.config.echo_ports.contains(&port))).await? {
            return Err(Error::new(ErrorKind::NotFound, format!("port {port}: nothing listens there")));
        }
        let (ours, theirs) = tokio::io::duplex(FRAME_LEN_MAX);
        tokio::spawn(async move {
            let (mut hears, mut says) = tokio::io::split(theirs);
            // Whoever has gone does not want to know.
            if tokio::io::copy(&mut hears, &mut says).await.is_ok() {
                let _ = says.write_all(b"bye").await;
                let _ = says.shutdown().await;
            }
        });
        Ok(Box::new(ours))
    }

    async fn attach(&self, pid: u32, from: Offsets) -> Result<Attachment> {
        self.ask(|sandbox| match sandbox.spawned.iter().find(|one| one.told().pid == pid) {
            Some(one) => Ok(one.attach(from)),
            None => Err(Error::new(ErrorKind::NotFound, format!("no spawned process {pid}"))),
        })
        .await
    }
}

fn no_archives() -> Error {
    Error::new(ErrorKind::Unsupported, "a fake sandbox has no archives")
}

fn no_program(process: &ProcessSpec) -> Error {
    Error::new(ErrorKind::Guest, format!("command: {:?} is not a program here", process.command))
}

/// Reads the schedule of a fake main process.
struct FakeReader {
    link: Link,
    id: SandboxId,
    at: Offsets,
}

#[async_trait]
impl OutputReader for FakeReader {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        let at = self.at;
        let chunk = self
            .link
            .until(&self.id, |sandbox| {
                let Some(sandbox) = sandbox.filter(|sandbox| sandbox.agent_alive) else { return Some(Err(gone())) };
                if sandbox.frozen {
                    return None;
                }
                let main = sandbox.main.as_mut()?;
                for (stream, from) in [(StreamName::Stdout, at.stdout), (StreamName::Stderr, at.stderr)] {
                    if let Some(bytes) = after(&main.written(stream), from) {
                        return Some(Ok(Some(Chunk { stream, offset: from, bytes })));
                    }
                }
                main.exit().map(|_| Ok(None))
            })
            .await?;
        if let Some(chunk) = &chunk {
            let end = chunk.offset + chunk.bytes.len() as u64;
            match chunk.stream {
                StreamName::Stdout => self.at.stdout = end,
                StreamName::Stderr => self.at.stderr = end,
            }
        }
        Ok(chunk)
    }

    async fn acknowledge(&mut self, upto: Offsets) -> Result<()> {
        self.link
            .act(|world| {
                if let Some(main) = world.sandboxes.get_mut(&self.id).and_then(|sandbox| sandbox.main.as_mut()) {
                    main.acknowledged = upto;
                }
            })
            .await;
        Ok(())
    }
}

fn after(written: &Bytes, from: u64) -> Option<Bytes> {
    let from = usize::try_from(from).ok()?;
    let end = written.len().min(from.saturating_add(FRAME_LEN_MAX));
    (from < end).then(|| written.slice(from..end))
}

/// A running fake exec. It ends when nobody listens any more.
struct Exec {
    inputs: mpsc::Receiver<ExecInput>,
    outputs: mpsc::Sender<ExecOutput>,
    open: bool,
    traps: Vec<i32>,
}

impl Exec {
    async fn run(mut self, program: Program, timeout: Option<Duration>) {
        let limit = timeout.unwrap_or(Duration::from_secs(1 << 32));
        let (exit, timed_out) = match tokio::time::timeout(limit, self.statements(program)).await {
            Ok(Some(exit)) => (exit, false),
            Ok(None) => return,
            Err(_) => (Exit::signal(9), true),
        };
        // Whoever has gone does not want to know.
        drop(self.outputs.send(ExecOutput::Exited { exit, timed_out }).await);
    }

    /// `None`: it was hung up.
    async fn statements(&mut self, program: Program) -> Option<Exit> {
        let mut status = 0;
        for statement in program.statements {
            match statement {
                Statement::Write(stream, bytes) => {
                    for piece in bytes.chunks(FRAME_LEN_MAX) {
                        let data = ExecOutput::Data(stream, Bytes::copy_from_slice(piece));
                        self.outputs.send(data).await.ok()?;
                    }
                }
                Statement::Sleep(span) => {
                    let until = tokio::time::Instant::now() + span.min(Duration::from_secs(1 << 32));
                    if let Some(signal) = self.listen_until(until).await? {
                        return Some(Exit::signal(signal));
                    }
                }
                Statement::Identity => {}
                Statement::Cat => {
                    if let Some(signal) = self.copy().await? {
                        return Some(Exit::signal(signal));
                    }
                }
                Statement::Trap(signals) => self.traps.extend(signals),
                Statement::Kill(signal) if self.traps.contains(&signal) => {}
                Statement::Kill(signal) => return Some(Exit::signal(signal)),
                Statement::Exit(code) => return Some(Exit::code(code)),
                Statement::Status(code) => {
                    status = code;
                    continue;
                }
            }
            status = 0;
        }
        Some(Exit::code(status))
    }

    /// The signal that ends it before `until`, if one does.
    async fn listen_until(&mut self, until: tokio::time::Instant) -> Option<Option<i32>> {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Some(None),
                input = self.inputs.recv() => match input? {
                    ExecInput::Signal(signal) if !self.traps.contains(&signal.number()) => {
                        return Some(Some(signal.number()));
                    }
                    ExecInput::CloseStdin => self.open = false,
                    _ => {}
                }
            }
        }
    }

    async fn copy(&mut self) -> Option<Option<i32>> {
        while self.open {
            match self.inputs.recv().await? {
                ExecInput::Stdin(bytes) => self.outputs.send(ExecOutput::Data(StreamName::Stdout, bytes)).await.ok()?,
                ExecInput::CloseStdin => self.open = false,
                ExecInput::Signal(signal) if !self.traps.contains(&signal.number()) => {
                    return Some(Some(signal.number()));
                }
                ExecInput::Signal(_) | ExecInput::Resize(_) => {}
            }
        }
        Some(None)
    }
}
