//! The agent behind the vsock socket: it says what it was told, keeps its promises, and breaks one where it was asked to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::machine::{AGENT_VSOCK_PORT, Renewal, Renewed};
use moat_agent::protocol::mux::{Mode, OpenReply, Stream, drive};
use moat_agent::protocol::stream::{FrameReader, write_frame, write_header};
use moat_agent::protocol::{Hello, MainState, PROTOCOL_VERSION, Reply, Request, StreamName};
use moat_model::file::Transfer;
use moat_model::{ErrorKind, Exit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::fault::Script;
use crate::memory::Memory;

/// How far a clock is off that was asked to be.
const SKEW_NANOS: i64 = 1_000_000_000;
/// Longest line that asks for a port.
const ASKED_LEN_MAX: usize = 32;

type Done<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One machine's inside.
#[derive(Debug)]
pub struct Guest {
    script: Script,
    memory: Mutex<Memory>,
    /// Processors run.
    running: watch::Sender<bool>,
    /// Counts up when every connection ends.
    resets: watch::Sender<u64>,
}

/// An initramfs with something to start in it, and whole.
pub fn check_initramfs(path: &str) -> Result<(), String> {
    let content = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let has = |needle: &[u8]| content.windows(needle.len()).any(|window| window == needle);
    if content.starts_with(b"070701") && has(b"init\0") && has(b"TRAILER!!!\0") {
        Ok(())
    } else {
        Err(format!("{path}: no initramfs with an init"))
    }
}

impl Guest {
    pub fn new(script: &Script) -> Arc<Self> {
        Arc::new(Self {
            script: script.clone(),
            memory: Mutex::default(),
            running: watch::Sender::new(false),
            resets: watch::Sender::new(0),
        })
    }

    pub fn run(&self, running: bool) {
        self.running.send_replace(running);
    }

    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    pub fn remember(&self) -> Memory {
        self.memory().clone()
    }

    pub fn recall(&self, memory: Memory) {
        *self.memory() = memory;
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes connections for as long as the monitor lives.
    pub fn serve(self: &Arc<Self>, listener: UnixListener) {
        let guest = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let guest = guest.clone();
                tokio::spawn(async move {
                    let mut resets = guest.resets.subscribe();
                    tokio::select! {
                        // How it ended, the other side knows.
                        _ = guest.clone().connection(socket) => {}
                        _ = resets.changed() => {}
                    }
                });
            }
        });
    }

    /// Waits until processors run: a machine that stands still says nothing.
    async fn awake(&self) {
        let mut running = self.running.subscribe();
        // It fails only when the monitor ends.
        let _ = running.wait_for(|running| *running).await;
    }

    async fn connection(self: Arc<Self>, mut socket: UnixStream) -> Done<()> {
        let mut asked = Vec::new();
        loop {
            match socket.read_u8().await? {
                b'\n' => break,
                _ if asked.len() == ASKED_LEN_MAX => return Ok(()),
                byte => asked.push(byte),
            }
        }
        self.awake().await;
        if asked != format!("CONNECT {AGENT_VSOCK_PORT}").as_bytes() {
            // Nobody listens there: the connection just ends.
            return Ok(());
        }
        socket.write_all(b"OK 1073741824\n").await?;
        if self.script.says("mute") {
            std::future::pending::<()>().await;
        }
        if self.script.says("babble") {
            loop {
                socket.write_all(&[0xfe; 4096]).await?;
            }
        }
        let (_opens, mut opens_rx) = mpsc::channel::<OpenReply>(1);
        drive(socket, Mode::Server, &mut opens_rx, |stream| {
            let guest = self.clone();
            tokio::spawn(async move {
                let (reader, mut writer) = tokio::io::split(stream);
                let mut reader = FrameReader::new(reader);
                // A stream that breaks is the daemon's to notice.
                let _ = guest.verb(&mut reader, &mut writer).await;
            });
        })
        .await?;
        Ok(())
    }

    async fn verb(
        &self,
        reader: &mut FrameReader<ReadHalf<Stream>, DaemonFrame>,
        writer: &mut WriteHalf<Stream>,
    ) -> Done<()> {
        let request: Request = reader.header().await?;
        self.awake().await;
        let reply = match request {
            Request::Hello => self.hello(),
            Request::Setup { setup } => self.set_up(*setup),
            Request::Quiesce => {
                let mut memory = self.memory();
                (memory.quiesced, memory.renewed) = (true, false);
                Reply::Done
            }
            Request::Renew { renewal } => self.renew(*renewal),
            Request::Proceed => self.proceed(),
            _ if self.memory().setup.is_none() => refusal(ErrorKind::Conflict, "it was not set up"),
            Request::Push { transfer: Transfer::Write { path, .. }, .. } => {
                return self.push(path, reader, writer).await;
            }
            Request::Changes => return changes(writer).await,
            _ if self.memory().quiesced => refusal(ErrorKind::Conflict, "everything of the user stands still"),
            Request::Exec { spec } => return self.exec(&spec.process.command, &spec.process.args, writer).await,
            Request::Start { .. } => self.start(),
            Request::Signal { .. } => self.end_main(),
            Request::Shutdown => {
                write_header::<AgentFrame>(writer, &Reply::Done).await?;
                std::process::exit(0);
            }
            other => refusal(ErrorKind::Unsupported, &format!("a scripted agent does not know {other:?}")),
        };
        write_header::<AgentFrame>(writer, &reply).await?;
        writer.shutdown().await?;
        Ok(())
    }

    fn hello(&self) -> Reply {
        let memory = self.memory();
        Reply::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            version: "scripted".to_owned(),
            capabilities: Vec::new(),
            main: memory.main,
            awaits_setup: memory.setup.is_none(),
        })
    }

    fn set_up(&self, setup: moat_agent::protocol::machine::GuestSetup) -> Reply {
        let mut memory = self.memory();
        if memory.setup.is_some() {
            return refusal(ErrorKind::Conflict, "it was set up before");
        }
        memory.seeds.push(setup.moment.entropy.clone());
        memory.identity = Some(setup.identity.clone());
        memory.setup = Some(setup);
        Reply::Done
    }

    fn renew(&self, renewal: Renewal) -> Reply {
        let mut memory = self.memory();
        // Told twice it is as if told once.
        if memory.setup.is_none() || !(memory.quiesced || memory.renewed) {
            return refusal(ErrorKind::Conflict, "it was not quiesced");
        }
        memory.quiesced = true;
        if memory.seeds.contains(&renewal.moment.entropy) {
            return refusal(ErrorKind::InvalidSpec, "moment.entropy: it had that before");
        }
        memory.seeds.push(renewal.moment.entropy.clone());
        if let Some(identity) = renewal.identity
            && !self.script.says("same-identity")
        {
            memory.identity = Some(identity);
        }
        let identity = memory.identity.clone();
        memory.renewed = true;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let skew = if self.script.says("skewed") { SKEW_NANOS } else { 0 };
        Reply::Renewed(Renewed {
            reseeded: !self.script.says("unseeded"),
            unix_nanos: i64::try_from(now).unwrap_or(i64::MAX) - skew,
            machine_id: identity.as_ref().map_or_else(String::new, |identity| identity.machine_id.clone()),
            hostname: identity.as_ref().map_or_else(String::new, |identity| identity.hostname.clone()),
            link: identity.and_then(|identity| identity.network).map(|network| (network.mac, network.address)),
        })
    }

    fn proceed(&self) -> Reply {
        let mut memory = self.memory();
        if !memory.renewed {
            return refusal(ErrorKind::Conflict, "it was not renewed since it was quiesced");
        }
        memory.quiesced = false;
        Reply::Done
    }

    fn start(&self) -> Reply {
        let mut memory = self.memory();
        if memory.main != MainState::Idle {
            return refusal(ErrorKind::Conflict, "the main process was started before");
        }
        memory.main = MainState::Running { pid: 2 };
        Reply::Started { pid: 2 }
    }

    fn end_main(&self) -> Reply {
        self.memory().main = MainState::Exited { exit: Exit::unknown() };
        Reply::Done
    }

    async fn push(
        &self,
        path: String,
        reader: &mut FrameReader<ReadHalf<Stream>, DaemonFrame>,
        writer: &mut WriteHalf<Stream>,
    ) -> Done<()> {
        write_header::<AgentFrame>(writer, &Reply::Content).await?;
        let mut content = Vec::new();
        while let Some(frame) = reader.next().await? {
            match frame {
                DaemonFrame::Content(bytes) => content.extend_from_slice(&bytes),
                DaemonFrame::Finish => break,
                _ => return Ok(()),
            }
        }
        let bytes = content.len() as u64;
        self.memory().files.insert(path, content);
        write_frame(writer, &AgentFrame::Done { bytes, entries: 1 }).await?;
        writer.shutdown().await?;
        Ok(())
    }

    /// Knows one program: `cat` of what it remembers.
    async fn exec(&self, command: &str, args: &[String], writer: &mut WriteHalf<Stream>) -> Done<()> {
        let said = match (command, args) {
            ("cat", [path]) => self.read(path),
            _ => None,
        };
        write_header::<AgentFrame>(writer, &Reply::Started { pid: 7 }).await?;
        let exit = Exit::code(i32::from(said.is_none()));
        let bytes = Bytes::from(said.unwrap_or_default());
        write_frame(writer, &AgentFrame::Data { stream: StreamName::Stdout, offset: 0, bytes }).await?;
        write_frame(writer, &AgentFrame::Exit { exit, timed_out: false }).await?;
        writer.shutdown().await?;
        Ok(())
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let memory = self.memory();
        let identity = memory.identity.as_ref()?;
        match path {
            "/etc/machine-id" => Some(identity.machine_id.clone().into_bytes()),
            "/etc/hostname" => Some(identity.hostname.clone().into_bytes()),
            "/proc/seeds" => Some(memory.seeds.join("\n").into_bytes()),
            "/proc/link" => Some(format!("{:?}", identity.network).into_bytes()),
            other => memory.files.get(other).cloned(),
        }
    }
}

/// An archive with nothing in it.
async fn changes(writer: &mut WriteHalf<Stream>) -> Done<()> {
    write_header::<AgentFrame>(writer, &Reply::Content).await?;
    let end = Bytes::from_static(&[0; 1024]);
    write_frame(writer, &AgentFrame::Content(end)).await?;
    write_frame(writer, &AgentFrame::Done { bytes: 1024, entries: 0 }).await?;
    writer.shutdown().await?;
    Ok(())
}

fn refusal(kind: ErrorKind, message: &str) -> Reply {
    Reply::Failed { kind, message: message.to_owned() }
}
