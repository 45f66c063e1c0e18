//! The sockets: who may ask, how much, and what comes back.
//!
//! `hickory-server` would start a task for whatever arrives and for every connection; here, nothing is started for what is not
//! waited for, and what waits has a place.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Core, Look};
use super::shares::Place;
use super::wire::{Answer, Question, Reading, read, write};
use crate::table::Attached;

/// Longest question read: a name, a type and EDNS with room.
const QUESTION_MAX: usize = 4096;
/// Longest answer over TCP: its length has 16 bits.
const STREAM_MAX: usize = 65_535;
/// How long a connection may say nothing, how long it may take to take an answer, and how long it may last.
const STREAM_IDLE: Duration = Duration::from_secs(10);
const STREAM_WRITE: Duration = Duration::from_secs(5);
const STREAM_LIFE: Duration = Duration::from_secs(120);
/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 128;
/// Rest after a socket failed: what is wrong then, such as no descriptors, does not get better by trying at once.
const REST: Duration = Duration::from_millis(50);

/// Both sockets of a resolver.
#[derive(Debug)]
pub(super) struct Sockets {
    datagrams: UdpSocket,
    streams: TcpListener,
}

impl Sockets {
    /// Binds both at one address, which need not be there yet.
    pub fn bind(at: SocketAddr) -> Result<Self> {
        let failed = |what: &'static str| {
            move |error: io::Error| {
                let hint = "is another resolver there? network.gateway can be another address";
                Error::caused_by(ErrorKind::Unavailable, format!("listening for names at {at}/{what}: {hint}"), error)
            }
        };
        let datagrams = socket(at, SocketType::DGRAM).and_then(|fd| UdpSocket::from_std(fd.into()));
        let datagrams = datagrams.map_err(failed("udp"))?;
        // A test's port is the kernel's choice, and the same for both.
        let at = datagrams.local_addr().map_err(failed("udp"))?;
        let streams = socket(at, SocketType::STREAM).and_then(|fd| TcpListener::from_std(fd.into()));
        Ok(Self { datagrams, streams: streams.map_err(failed("tcp"))? })
    }

    /// Where.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.datagrams.local_addr()
    }

    /// Answers until this is dropped.
    pub fn serve(self, core: Arc<Core>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::new(self.datagrams), core.clone()));
        tasks.spawn(streams(self.streams, core));
        tasks
    }
}

fn socket(at: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // Not for datagrams: two sockets at one address would both be bound, and one of them would hear nothing.
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    sockopt::set_ip_freebind(&fd, true)?;
    rustix::net::bind(&fd, &at)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

/// Whom a packet is from, if that is somebody who may ask now.
fn asker(core: &Core, from: SocketAddr) -> Option<Arc<Attached>> {
    let IpAddr::V4(address) = from.ip() else { return None };
    let asker = core.table.with_address(address).filter(|one| !one.attachment.pooled)?;
    core.shares.tick(asker.lease.slot, Instant::now()).then_some(asker)
}

async fn datagrams(socket: Arc<UdpSocket>, core: Arc<Core>) {
    // Bounded by the places of those that wait.
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUESTION_MAX];
    loop {
        let (length, from) = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "receiving a question");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            },
            Some(_) = waiting.join_next() => continue,
        };
        let Some(bytes) = buffer.get(..length) else { continue };
        match step(&core, bytes, from, Question::datagram) {
            Step::Nothing => {}
            // Like any datagram, one that has no room is lost, and asked for again.
            Step::Reply(reply) => drop(socket.try_send_to(&reply, from)),
            Step::Wait(work) => {
                let (socket, core) = (socket.clone(), core.clone());
                waiting.spawn(async move {
                    let answer = core.finish(&work.asker, &work.question, work.look).await;
                    if let Some(reply) = write(&work.question, &answer, work.question.datagram()) {
                        drop(socket.try_send_to(&reply, from));
                    }
                });
            }
        }
    }
}

/// What to do about some bytes.
enum Step {
    Nothing,
    Reply(Vec<u8>),
    Wait(Box<Work>),
}

/// A question that waits for somebody.
struct Work {
    asker: Arc<Attached>,
    question: Question,
    look: Look,
    _place: Place,
}

fn step(core: &Core, bytes: &[u8], from: SocketAddr, limit: impl Fn(&Question) -> usize) -> Step {
    let Some(asker) = asker(core, from) else { return Step::Nothing };
    let question = match read(bytes) {
        Reading::Question(question) => question,
        Reading::Refusal(reply) => return Step::Reply(reply),
        Reading::Nothing => return Step::Nothing,
    };
    let answer = match core.look(&asker, &question) {
        Look::Said(answer) => answer,
        look => match core.shares.wait(asker.lease.slot) {
            Some(place) => return Step::Wait(Box::new(Work { asker, question, look, _place: place })),
            None => Answer::empty(ResponseCode::ServFail),
        },
    };
    write(&question, &answer, limit(&question)).map_or(Step::Nothing, Step::Reply)
}

async fn streams(listener: TcpListener, core: Arc<Core>) {
    // Bounded by the places for connections.
    let mut open = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection for names");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            },
            Some(_) = open.join_next() => continue,
        };
        let Some(asker) = asker(&core, from) else { continue };
        let Some(place) = core.shares.stream(asker.lease.slot) else { continue };
        let core = core.clone();
        open.spawn(async move {
            let _place = place;
            // However it ends, it is the asker's to ask again.
            drop(timeout(STREAM_LIFE, converse(stream, from, &core)).await);
        });
    }
}

/// One question after the other: what is asked at once on one connection waits in line.
async fn converse(mut stream: TcpStream, from: SocketAddr, core: &Core) -> io::Result<()> {
    let mut buffer = vec![0; QUESTION_MAX];
    loop {
        let length = usize::from(timeout(STREAM_IDLE, stream.read_u16()).await??);
        let Some(bytes) = buffer.get_mut(..length) else { return Ok(()) };
        timeout(STREAM_IDLE, stream.read_exact(bytes)).await??;
        let reply = match step(core, bytes, from, |_| STREAM_MAX) {
            Step::Nothing => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Wait(work) => {
                let answer = core.finish(&work.asker, &work.question, work.look).await;
                let Some(reply) = write(&work.question, &answer, STREAM_MAX) else { return Ok(()) };
                reply
            }
        };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        timeout(STREAM_WRITE, stream.write_all(&framed)).await??;
    }
}
