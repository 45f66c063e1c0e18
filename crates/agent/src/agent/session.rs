//! One connection of the daemon: a handler for each stream it opens.

use std::rc::Rc;
use std::time::Duration;

use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::machine::{GuestSetup, Renewal};
use moat_agent::protocol::mux::{Mode, REQUESTS_MAX, Stream, drive};
use moat_agent::protocol::stream::{FrameReader, StreamError, write_frame, write_header};
use moat_agent::protocol::{Hello, MainState, Offsets, PROTOCOL_VERSION, Reply, Request, StreamName};
use moat_model::ErrorKind;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::channel::Connection;
use super::failure::Failure;
use super::files::Task;
use super::output::{Next, Window};
use super::{Agent, Station, connect, exec, files, main_process, procfs, spawned};
use crate::machine::Machine;

/// Forwarded connections that may wait for a stream at once; more wait in line.
const OPENS_MAX: usize = 16;
/// A stream begins with its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Verbs this agent knows, by the names they have in requests.
const VERBS: [&str; 18] = [
    "hello",
    "start",
    "wait",
    "output",
    "exec",
    "signal",
    "processes",
    "stats",
    "file",
    "pull",
    "push",
    "watch",
    "spawn",
    "spawned",
    "attach",
    "connect",
    "leash",
    "shutdown",
];

/// What the daemon says on a stream.
pub type Reader = FrameReader<ReadHalf<Stream>, DaemonFrame>;
/// Where it is answered.
pub type Writer = WriteHalf<Stream>;

/// Serves a connection until it ends. Dropping this hangs up on everything that depends on it.
pub async fn serve(station: Rc<Station>, connection: Box<dyn Connection>) {
    let (opens, mut opens_rx) = mpsc::channel(OPENS_MAX);
    station.opens.replace(Some(opens));
    let mut handlers = JoinSet::new();
    let inbound = |stream| {
        while handlers.try_join_next().is_some() {}
        // A stream beyond the bound is dropped, which resets it.
        if handlers.len() < REQUESTS_MAX {
            let station = station.clone();
            // What goes wrong on a stream concerns whoever opened it, and they see it end.
            handlers.spawn_local(async move { drop(handle(&station, stream).await) });
        }
    };
    // However it ends: the daemon connects again, or it does not.
    let _ = drive(connection, Mode::Server, &mut opens_rx, inbound).await;
}

async fn handle(station: &Rc<Station>, stream: Stream) -> Result<(), StreamError> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader: Reader = FrameReader::new(reader);
    let request = match timeout(REQUEST_DEADLINE, reader.header::<Request>()).await {
        Err(_) => return Ok(()),
        Ok(Err(StreamError::Frame(error))) => {
            let failure = Failure::new(ErrorKind::Unsupported, format!("request: {error}"));
            return answer(&mut writer, failure.into()).await;
        }
        Ok(request) => request?,
    };
    let reply = match request {
        Request::Hello => Ok(Reply::Hello(hello(station))),
        Request::Setup { setup } => set_up(station, *setup).await,
        Request::Quiesce => quiesce(station).await,
        Request::Renew { renewal } => renew(station, &renewal).await,
        Request::Proceed => proceed(station),
        request => match station.agent.get() {
            Some(agent) => return serve_request(station, agent, request, reader, writer).await,
            None => {
                Err(Failure::new(ErrorKind::Conflict, "this machine was not told yet what it is: setup comes first"))
            }
        },
    };
    answer(&mut writer, reply.unwrap_or_else(Reply::from)).await
}

/// Everything that needs an agent.
async fn serve_request(
    station: &Rc<Station>,
    agent: &Rc<Agent>,
    request: Request,
    mut reader: Reader,
    mut writer: Writer,
) -> Result<(), StreamError> {
    let reply = match request {
        Request::Output { from } => return output(agent, from, reader, writer).await,
        Request::Exec { spec } => return exec::serve(agent, &spec, reader, writer).await,
        Request::File { user, request } => {
            return files::serve(agent, user.as_deref(), Task::File(request), reader, writer).await;
        }
        Request::Pull { user, transfer } => {
            return files::serve(agent, user.as_deref(), Task::Pull(transfer), reader, writer).await;
        }
        Request::Push { user, transfer } => {
            return files::serve(agent, user.as_deref(), Task::Push(transfer), reader, writer).await;
        }
        Request::Watch { user, path, recursive } => {
            return files::serve(agent, user.as_deref(), Task::Watch { path, recursive }, reader, writer).await;
        }
        Request::Attach { pid, from } => return spawned::serve(agent, pid, from, reader, writer).await,
        Request::Connect { port } => return connect::serve(agent, port, reader, writer).await,
        Request::Spawn { spec } => spawn(agent, spec).await,
        Request::Spawned => Ok(Reply::Spawned { processes: agent.spawned.list() }),
        Request::Wait => {
            tokio::select! {
                exit = agent.main.wait() => exit.map(Reply::Exited),
                // The daemon sends nothing here; it closed the stream, or broke the protocol.
                _ = reader.next() => return Ok(()),
            }
        }
        Request::Shutdown => return shutdown(station, agent, writer).await,
        Request::Changes => return changes(station, reader, writer).await,
        Request::Hello | Request::Setup { .. } | Request::Quiesce | Request::Renew { .. } | Request::Proceed => {
            Err(Failure::new(ErrorKind::Internal, "answered before"))
        }
        Request::Start { process } => start(agent, process).await,
        Request::Signal { signal } => main_process::signal(agent, signal).map(|()| Reply::Done),
        Request::Leash { until_ms, within_ms } => {
            agent.leash.lengthen(agent, station.machine.is_some(), until_ms, within_ms);
            Ok(Reply::Done)
        }
        Request::Processes => Ok(Reply::Processes { processes: procfs::processes(agent.own_namespace) }),
        Request::Stats => Ok(Reply::Stats(procfs::stats(agent.own_namespace))),
    };
    answer(&mut writer, reply.unwrap_or_else(Reply::from)).await
}

/// Says the last thing on a stream.
pub async fn answer(writer: &mut Writer, reply: Reply) -> Result<(), StreamError> {
    write_header::<AgentFrame>(writer, &reply).await?;
    Ok(writer.shutdown().await?)
}

fn hello(station: &Station) -> Hello {
    let more = station.machine.is_some().then_some(crate::machine::VERBS).into_iter().flatten();
    let agent = station.agent.get();
    Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: VERBS.into_iter().chain(more).map(str::to_owned).collect(),
        main: agent.map_or(MainState::Idle, |agent| agent.main.state()),
        awaits_setup: agent.is_none(),
    }
}

async fn start(agent: &Rc<Agent>, process: moat_model::ProcessSpec) -> Result<Reply, Failure> {
    // A task of its own: a start that was begun is finished, even if the daemon dies meanwhile.
    let started = tokio::task::spawn_local(main_process::start(agent.clone(), process));
    let pid = started.await.map_err(|_| Failure::new(ErrorKind::Internal, "the start was interrupted"))??;
    Ok(Reply::Started { pid })
}

async fn spawn(agent: &Rc<Agent>, spec: moat_model::spec::ExecSpec) -> Result<Reply, Failure> {
    // A task of its own, for the same reason.
    let started = tokio::task::spawn_local(spawned::spawn(agent.clone(), spec));
    let pid = started.await.map_err(|_| Failure::new(ErrorKind::Internal, "the start was interrupted"))??;
    Ok(Reply::Started { pid })
}

async fn shutdown(station: &Station, agent: &Agent, mut writer: Writer) -> Result<(), StreamError> {
    agent.children.kill_all(agent.own_namespace).await;
    let answered = answer(&mut writer, Reply::Done).await;
    station.quit.notify_one();
    answered
}

async fn set_up(station: &Rc<Station>, setup: GuestSetup) -> Result<Reply, Failure> {
    // A task of its own: what is half a machine serves nobody.
    let station = station.clone();
    let done = tokio::task::spawn_local(async move { station.set_up(setup).await });
    done.await.map_err(|_| Failure::new(ErrorKind::Internal, "the setup was interrupted"))??;
    Ok(Reply::Done)
}

async fn quiesce(station: &Station) -> Result<Reply, Failure> {
    station.machine()?.quiesce().await?;
    Ok(Reply::Done)
}

/// The user's processes stand still until whoever asked has seen the proof and says so.
async fn renew(station: &Station, renewal: &Renewal) -> Result<Reply, Failure> {
    let renewed = station.machine()?.renew(renewal).await?;
    if let Some(agent) = station.agent.get().filter(|_| renewal.identity.is_some()) {
        // What was said before belongs to the one it was copied from.
        agent.main.begin_anew();
        agent.output_turn.send_modify(|turn| *turn = turn.wrapping_add(1));
    }
    Ok(Reply::Renewed(renewed))
}

fn proceed(station: &Station) -> Result<Reply, Failure> {
    station.machine()?.proceed()?;
    Ok(Reply::Done)
}

async fn changes(station: &Station, reader: Reader, mut writer: Writer) -> Result<(), StreamError> {
    match station.machine().and_then(Machine::changes) {
        Ok(directory) => files::serve_changes(directory, reader, writer).await,
        Err(failure) => answer(&mut writer, failure.into()).await,
    }
}

/// Sends the main process's output and hears what is safe. The newest reader is the only one.
async fn output(agent: &Agent, from: Offsets, mut reader: Reader, mut writer: Writer) -> Result<(), StreamError> {
    if let Err(failure) = agent.main.check(from) {
        return answer(&mut writer, failure.into()).await;
    }
    let turn = agent.output_turn.borrow().wrapping_add(1);
    agent.output_turn.send_replace(turn);
    let mut turns = agent.output_turn.subscribe();
    write_header::<AgentFrame>(&mut writer, &Reply::Output).await?;
    let hearing = async {
        while let Some(frame) = reader.next().await? {
            match frame {
                DaemonFrame::Acknowledge(upto) => agent.main.acknowledge(upto),
                _ => return Err(StreamError::Unexpected),
            }
        }
        Ok(())
    };
    let telling = async {
        tell(agent, from, &mut writer).await?;
        // Acknowledgements of the last bytes are still to come.
        std::future::pending().await
    };
    tokio::select! {
        result = hearing => result,
        result = telling => result,
        _ = turns.wait_for(|now| *now != turn) => Ok(()),
    }
}

/// One stream on its way to a reader.
struct Telling<'a> {
    name: StreamName,
    window: &'a Window,
    offset: u64,
    ended: bool,
}

impl Telling<'_> {
    /// Sends one frame if there is something to say; false if not.
    async fn step(&mut self, writer: &mut Writer) -> Result<bool, StreamError> {
        let (stream, offset) = (self.name, self.offset);
        let frame = match self.window.next(offset) {
            _ if self.ended => return Ok(false),
            Next::Nothing => return Ok(false),
            Next::Data(bytes) => {
                self.offset += bytes.len() as u64;
                AgentFrame::Data { stream, offset, bytes }
            }
            Next::End => {
                self.ended = true;
                AgentFrame::End { stream, offset }
            }
        };
        write_frame(writer, &frame).await?;
        Ok(true)
    }
}

async fn tell(agent: &Agent, from: Offsets, writer: &mut Writer) -> Result<(), StreamError> {
    let (out, err) = (&agent.main.stdout, &agent.main.stderr);
    let mut changed = (out.subscribe(), err.subscribe());
    let mut stdout = Telling { name: StreamName::Stdout, window: out, offset: from.stdout, ended: false };
    let mut stderr = Telling { name: StreamName::Stderr, window: err, offset: from.stderr, ended: false };
    while !(stdout.ended && stderr.ended) {
        changed.0.mark_unchanged();
        changed.1.mark_unchanged();
        // In turn, so that a loud stream does not keep a quiet one from being heard.
        let (said_out, said_err) = (stdout.step(writer).await?, stderr.step(writer).await?);
        if !said_out && !said_err {
            tokio::select! {
                _ = changed.0.changed() => {}
                _ = changed.1.changed() => {}
            }
        }
    }
    Ok(())
}
