//! Standard input of an exec: a bounded queue between the daemon and a process that may not read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use moat_agent::protocol::STDIN_WINDOW;
use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::stream::StreamError;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::sync::{mpsc, watch};

use super::super::io::Port;

/// Written at once; one pipe's atomic unit would be too little, its whole capacity more than a copy is worth.
const WRITE_LEN_MAX: usize = 16 << 10;
/// How often the daemon is told, when it sends without a pause.
const TELL_EVERY: u64 = STDIN_WINDOW / 4;

/// Where input goes.
#[derive(Debug)]
pub enum Sink {
    /// The process has no input; what is sent is thrown away.
    Nowhere,
    /// A pipe; closing it is end of file.
    Pipe(Port),
    /// A terminal; its end of file is a character.
    Terminal(Rc<Port>),
}

/// The queue.
#[derive(Debug)]
pub struct Input {
    queue: RefCell<VecDeque<u8>>,
    received: Cell<u64>,
    taken: Cell<u64>,
    closed: Cell<bool>,
    changed: watch::Sender<()>,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            queue: RefCell::default(),
            received: Cell::new(0),
            taken: Cell::new(0),
            closed: Cell::new(false),
            changed: watch::Sender::new(()),
        }
    }
}

impl Input {
    /// Appends what the daemon sent. It keeps to the window or breaks the protocol.
    pub fn push(&self, bytes: &[u8]) -> Result<(), StreamError> {
        let received = self.received.get().saturating_add(bytes.len() as u64);
        if received - self.taken.get() > STDIN_WINDOW || self.closed.get() {
            return Err(StreamError::Unexpected);
        }
        self.append(bytes);
        Ok(())
    }

    /// Appends, and returns how much must have been taken for this to be taken. Whoever calls it bounds it.
    pub fn append(&self, bytes: &[u8]) -> u64 {
        if self.closed.get() {
            return 0;
        }
        let received = self.received.get().saturating_add(bytes.len() as u64);
        self.received.set(received);
        self.queue.borrow_mut().extend(bytes);
        self.changed.send_replace(());
        received
    }

    /// Bytes taken so far.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// No more will come.
    pub fn close(&self) {
        self.closed.set(true);
        self.changed.send_replace(());
    }

    /// Feeds the process, and tells the daemon what it took, until the end.
    pub async fn feed(&self, mut sink: Sink, frames: &mpsc::Sender<AgentFrame>) {
        let mut told = 0;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let piece: Vec<u8> = self.queue.borrow().iter().take(WRITE_LEN_MAX).copied().collect();
            if piece.is_empty() {
                if self.closed.get() {
                    return end(sink).await;
                }
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let written = write(&mut sink, &piece).await;
            self.queue.borrow_mut().drain(..written);
            self.taken.set(self.taken.get() + written as u64);
            let taken = self.taken.get();
            if taken - told >= TELL_EVERY || self.queue.borrow().is_empty() {
                told = taken;
                if frames.send(AgentFrame::StdinTaken(taken)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// How much was taken. A process that closed its input takes everything, so that nobody waits for it.
async fn write(sink: &mut Sink, piece: &[u8]) -> usize {
    let written = match sink {
        Sink::Nowhere => Ok(piece.len()),
        Sink::Pipe(port) => port.write(piece).await,
        Sink::Terminal(port) => port.write(piece).await,
    };
    written.map_or_else(
        |_| {
            *sink = Sink::Nowhere;
            piece.len()
        },
        |n| n.min(piece.len()),
    )
}

async fn end(sink: Sink) {
    if let Sink::Terminal(port) = sink
        && let Ok(mode) = tcgetattr(port.as_ref())
        && mode.local_modes.contains(LocalModes::ICANON)
    {
        let _ = port.write(&[mode.special_codes[SpecialCodeIndex::VEOF]]).await;
    }
}
