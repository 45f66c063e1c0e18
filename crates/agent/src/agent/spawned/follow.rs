//! One follower of a spawned process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError, write_frame, write_header};
use moat_agent::protocol::{Offsets, Reply, STDIN_WINDOW, StreamName};
use moat_model::ErrorKind;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::{Agent, Detached, Live};
use crate::agent::exec::resize;
use crate::agent::failure::Failure;

type Reader = FrameReader<ReadHalf<Stream>, DaemonFrame>;
type Writer = WriteHalf<Stream>;

/// Serves one from its request to the exit, or until it hangs up, which changes nothing.
pub async fn serve(
    agent: &Agent,
    pid: u32,
    from: Offsets,
    reader: Reader,
    mut writer: Writer,
) -> Result<(), StreamError> {
    let one = match find(agent, pid, from) {
        Ok(one) => one,
        Err(failure) => {
            write_header::<AgentFrame>(&mut writer, &Reply::from(failure)).await?;
            return Ok(writer.shutdown().await?);
        }
    };
    write_header::<AgentFrame>(&mut writer, &Reply::Attached).await?;
    let sent = Sent::default();
    let hearing = async {
        let live = one.live.borrow().clone();
        match obey(reader, live.as_ref(), &sent).await {
            // Whoever says no more may still listen.
            Ok(()) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    tokio::select! {
        result = hearing => result,
        result = tell(&one, from, &sent, &mut writer) => result,
    }
}

fn find(agent: &Agent, pid: u32, from: Offsets) -> Result<Rc<Detached>, Failure> {
    let missing = || Failure::new(ErrorKind::NotFound, format!("no spawned process {pid} runs or is remembered"));
    let one = agent.spawned.find(pid).ok_or_else(missing)?;
    for (name, offset, kept) in [("stdout", from.stdout, &one.stdout), ("stderr", from.stderr, &one.stderr)] {
        let end = kept.borrow().range().end;
        if offset > end {
            return Err(Failure::invalid(format!("{name}: offset {offset} is beyond what was written, {end}")));
        }
    }
    Ok(one)
}

/// Input of one follower that the process has not taken yet.
#[derive(Debug, Default)]
struct Sent {
    /// How much the process must have taken in all, and how much of that is ours.
    waiting: RefCell<VecDeque<(u64, u64)>>,
}

impl Sent {
    /// Within the window, or the protocol is broken.
    fn push(&self, live: Option<&Live>, bytes: &[u8]) -> Result<(), StreamError> {
        let len = bytes.len() as u64;
        let mut waiting = self.waiting.borrow_mut();
        if waiting.iter().map(|(_, len)| len).sum::<u64>() + len > STDIN_WINDOW {
            return Err(StreamError::Unexpected);
        }
        waiting.push_back((live.map_or(0, |live| live.input.append(bytes)), len));
        Ok(())
    }

    /// How much more has been taken by now.
    fn taken(&self, one: &Detached) -> u64 {
        // A process that has ended takes everything.
        let upto = one.live.borrow().as_ref().map_or(u64::MAX, |live| live.input.taken());
        let mut waiting = self.waiting.borrow_mut();
        let mut taken = 0;
        while let Some((_, len)) = waiting.pop_front_if(|(end, _)| *end <= upto) {
            taken += len;
        }
        taken
    }
}

async fn obey(mut reader: Reader, live: Option<&Live>, sent: &Sent) -> Result<(), StreamError> {
    while let Some(frame) = reader.next().await? {
        match (frame, live) {
            (DaemonFrame::Stdin(bytes), live) => sent.push(live, &bytes)?,
            (DaemonFrame::StdinEnd, Some(live)) => live.input.close(),
            (DaemonFrame::Resize(size), Some(live)) => {
                if let Some(terminal) = &live.terminal {
                    resize(terminal, size);
                }
            }
            (DaemonFrame::Signal(signal), Some(live)) => live.supervision.order(u8::from(signal)),
            // It has ended already.
            (DaemonFrame::StdinEnd | DaemonFrame::Resize(_) | DaemonFrame::Signal(_), None) => {}
            _ => return Err(StreamError::Unexpected),
        }
    }
    Ok(())
}

async fn tell(one: &Detached, from: Offsets, sent: &Sent, writer: &mut Writer) -> Result<(), StreamError> {
    let mut changed = one.changed.subscribe();
    let (mut stdout, mut stderr, mut taken) = (from.stdout, from.stderr, 0);
    loop {
        changed.mark_unchanged();
        // In turn, so that a loud stream does not keep a quiet one from being heard.
        let frames = [next(one, StreamName::Stdout, &mut stdout), next(one, StreamName::Stderr, &mut stderr)];
        let more = sent.taken(one);
        taken += more;
        let input = (more > 0).then_some(AgentFrame::StdinTaken(taken));
        let mut said = false;
        for frame in frames.into_iter().chain([input]).flatten() {
            write_frame(writer, &frame).await?;
            said = true;
        }
        if said {
            continue;
        }
        if let Some((exit, timed_out)) = one.exit.get() {
            write_frame(writer, &AgentFrame::Exit { exit, timed_out }).await?;
            return Ok(writer.shutdown().await?);
        }
        if changed.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// What a follower at an offset is told, and where it is then.
fn next(one: &Detached, stream: StreamName, at: &mut u64) -> Option<AgentFrame> {
    let kept = one.kept(stream).borrow();
    let begin = kept.range().start;
    if *at < begin {
        *at = begin;
        return Some(AgentFrame::Skipped { stream, to: begin });
    }
    let bytes = Bytes::copy_from_slice(kept.at(*at)?);
    let offset = *at;
    *at += bytes.len() as u64;
    Some(AgentFrame::Data { stream, offset, bytes })
}
