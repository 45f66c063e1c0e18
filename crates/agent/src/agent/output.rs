//! Output of the main process, kept until the daemon says that it has it.
//!
//! A bounded window over an endless stream: its end is what was read from the pipe, its beginning what was acknowledged.
//! When the window is full the pipe is not read, so the program is slowed down and nothing grows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use tokio::sync::watch;

use super::io::{Port, Read};

/// Memory is taken and given back in pieces of this size.
const PIECE_LEN: usize = 16 << 10;

/// The kept part of one stream.
#[derive(Debug)]
pub struct Window {
    kept: RefCell<Kept>,
    bound: usize,
    /// Marked when anything about it changes.
    changed: watch::Sender<()>,
    /// Whatever can be read without waiting is all that still counts.
    finishing: Cell<bool>,
}

/// A part of a stream, from some offset on.
#[derive(Debug, Default)]
pub struct Kept {
    /// All full but the last, so an offset leads straight to its piece; the first may begin before `begin`.
    pieces: VecDeque<Vec<u8>>,
    /// Offset of the first byte of the first piece.
    base: u64,
    /// Everything before it may be forgotten.
    begin: u64,
    end: u64,
    ended: bool,
}

/// What comes next for a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Bytes at the reader's offset.
    Data(Bytes),
    /// The stream ended there.
    End,
    /// Nothing yet.
    Nothing,
}

impl Kept {
    /// Offsets that can be read from.
    pub fn range(&self) -> Range<u64> {
        self.begin..self.end
    }

    /// Appends.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.end += bytes.len() as u64;
        while !bytes.is_empty() {
            let full = self.pieces.back().is_none_or(|piece| piece.len() == PIECE_LEN);
            if full {
                self.pieces.push_back(Vec::new());
            }
            if let Some(piece) = self.pieces.back_mut() {
                let (now, later) = bytes.split_at(bytes.len().min(PIECE_LEN - piece.len()));
                piece.extend_from_slice(now);
                bytes = later;
            }
        }
    }

    /// Everything before an offset is needed no more.
    pub fn forget(&mut self, upto: u64) {
        self.begin = self.begin.max(upto.min(self.end));
        while let Some(first) = self.pieces.front() {
            let next = self.base + first.len() as u64;
            if next > self.begin {
                break;
            }
            self.base = next;
            self.pieces.pop_front();
        }
    }

    /// What there is at an offset, in one piece.
    pub fn at(&self, offset: u64) -> Option<&[u8]> {
        let distance = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.pieces.get(distance / PIECE_LEN)?.get(distance % PIECE_LEN..).filter(|bytes| !bytes.is_empty())
    }
}

impl Window {
    /// An empty one that keeps at most `bound` bytes.
    pub fn new(bound: usize) -> Self {
        let changed = watch::Sender::new(());
        Self { kept: RefCell::default(), bound: bound.max(1), changed, finishing: Cell::new(false) }
    }

    /// Offsets that can be read from.
    pub fn range(&self) -> Range<u64> {
        self.kept.borrow().range()
    }

    /// Told of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What a reader at `offset` gets.
    pub fn next(&self, offset: u64) -> Next {
        let kept = self.kept.borrow();
        match kept.at(offset) {
            Some(bytes) => Next::Data(Bytes::copy_from_slice(bytes)),
            None if kept.ended => Next::End,
            None => Next::Nothing,
        }
    }

    /// Everything before `upto` is safe.
    pub fn acknowledge(&self, upto: u64) {
        self.kept.borrow_mut().forget(upto);
        self.changed.send_replace(());
    }

    /// Forgets everything, offsets included.
    pub fn begin_anew(&self) {
        let mut kept = self.kept.borrow_mut();
        *kept = Kept { ended: kept.ended, ..Kept::default() };
        drop(kept);
        self.changed.send_replace(());
    }

    /// No writer is left that counts: what is in the pipe is read, then the stream ends.
    pub fn finish(&self) {
        self.finishing.set(true);
        self.changed.send_replace(());
    }

    /// Resolves when the stream has ended.
    pub async fn ended(&self) {
        let mut changed = self.subscribe();
        while !self.kept.borrow().ended {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn room(&self) -> usize {
        let kept = self.kept.borrow();
        self.bound.saturating_sub(usize::try_from(kept.end - kept.begin).unwrap_or(usize::MAX))
    }

    /// Fills the window from a pipe until its end. `scratch` is shared by everything that reads.
    pub async fn fill(&self, port: Port, scratch: &RefCell<Vec<u8>>) {
        let mut changed = self.subscribe();
        loop {
            changed.mark_unchanged();
            let (room, finishing) = (self.room(), self.finishing.get());
            if room == 0 {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if !finishing {
                tokio::select! {
                    () = port.readable() => {}
                    _ = changed.changed() => continue,
                }
            }
            match self.read_from(&port, room, finishing, &mut scratch.borrow_mut()) {
                Read::Bytes(_) => {
                    self.changed.send_replace(());
                }
                Read::Nothing if !finishing => {}
                Read::End | Read::Nothing => return self.end(),
            }
        }
    }

    fn read_from(&self, port: &Port, room: usize, finishing: bool, scratch: &mut [u8]) -> Read {
        let len = room.min(scratch.len());
        let buffer = scratch.get_mut(..len).unwrap_or_default();
        let read = if finishing { port.read_now(buffer) } else { port.read(buffer) };
        if let Read::Bytes(n) = read {
            self.kept.borrow_mut().push(buffer.get(..n).unwrap_or_default());
        }
        read
    }

    fn end(&self) {
        self.kept.borrow_mut().ended = true;
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(window: &Window, mut offset: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while let Next::Data(bytes) = window.next(offset) {
            offset += bytes.len() as u64;
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[test]
    fn what_is_not_acknowledged_can_be_read_again() {
        let window = Window::new(1 << 20);
        let text: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        for part in text.chunks(777) {
            window.kept.borrow_mut().push(part);
        }
        assert_eq!(drain(&window, 0), text);
        for upto in [1, 16_384, 16_385, 40_000] {
            window.acknowledge(upto);
            assert_eq!(window.range(), upto..50_000);
            let from = usize::try_from(upto).unwrap();
            assert_eq!(drain(&window, upto), text[from..], "from {upto}");
        }
        window.acknowledge(40);
        assert_eq!(window.range(), 40_000..50_000, "an acknowledgement cannot be taken back");
        window.acknowledge(u64::MAX);
        assert_eq!(window.range(), 50_000..50_000, "nor be given in advance");
        assert_eq!(window.kept.borrow().pieces.len(), 0, "what is acknowledged takes no memory");
        window.kept.borrow_mut().push(b"tail");
        assert_eq!(window.next(50_000), Next::Data(Bytes::from_static(b"tail")));
        assert_eq!(window.next(50_004), Next::Nothing);
        window.end();
        assert_eq!(window.next(50_004), Next::End);
    }
}
