//! A tar stream, read once: content into the root file, all else into the index.
//!
//! An own reader, because the common one collects extended headers of any length in memory, and because what two readers of
//! tar understand differently has to be refused here, not guessed.

use std::io::Read;

use moat_model::ErrorKind;

use super::attributes::kept;
use super::data::{Extent, Space, Streamer};
use super::decompress::{Stream, truncated};
use super::header::{Header, RECORD, invalid};
use super::index::{Attributes, Entry, Node, What};
use super::limits::{Budget, about};
use super::path::{Marked, checked, marks};
use super::pax::{EXTENDED_MAX, Extended, says_nothing};
use crate::error::{Error, Result};

/// The longest target of a symbolic link: the kernel's.
const TARGET_LEN_MAX: usize = 4095;

/// Pieces of one sparse file.
const PIECES_MAX: usize = 1 << 16;

/// Reads a layer.
pub(super) struct Archive<'a, R: Read> {
    stream: Stream<'a, R>,
    budget: &'a Budget,
    out: Streamer<'a>,
    entries: Vec<Entry>,
    dropped: u64,
}

/// What was in it.
pub(super) struct Contents<'a, R: Read> {
    pub(super) entries: Vec<Entry>,
    /// Devices and sockets, which a root does not keep.
    pub(super) dropped: u64,
    /// At its end.
    pub(super) stream: Stream<'a, R>,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(super) fn new(stream: Stream<'a, R>, budget: &'a Budget, space: &'a Space) -> Self {
        Self { stream, budget, out: Streamer::new(space), entries: Vec::new(), dropped: 0 }
    }

    /// All of it.
    pub(super) fn read(mut self) -> Result<Contents<'a, R>> {
        let mut extended = Extended::default();
        let mut header = Header([0; RECORD]);
        while self.stream.read_whole(&mut header.0)? {
            if header.is_zero() {
                self.padding()?;
                break;
            }
            let name = header.name();
            let named = |error| about(extended.path.as_deref().unwrap_or(&name), error);
            header.check().map_err(named)?;
            match header.kind() {
                b'x' | b'g' | b'L' | b'K' => {
                    self.extend(&header, &mut extended).map_err(|e| about(&name, e))?;
                }
                _ => self.entry(&header, std::mem::take(&mut extended))?,
            }
        }
        if extended.any {
            return Err(invalid("layer: it ends with an extended header and no entry"));
        }
        self.out.finish()?;
        Ok(Contents { entries: self.entries, dropped: self.dropped, stream: self.stream })
    }

    /// Behind the end there are zeros only: some readers stop there, others do not.
    fn padding(&mut self) -> Result<()> {
        loop {
            let piece = self.stream.peek(u64::MAX)?;
            if piece.is_empty() {
                return Ok(());
            }
            if piece.iter().any(|b| *b != 0) {
                return Err(invalid("layer: there is something behind the end of the archive"));
            }
            let count = piece.len();
            self.stream.consume(count);
        }
    }

    /// A header about the next entry.
    fn extend(&mut self, header: &Header, extended: &mut Extended) -> Result<()> {
        let size = header.size()?;
        if size > EXTENDED_MAX {
            let what = format!("an extended header of more than {EXTENDED_MAX} bytes");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        let mut bytes = vec![0; size as usize];
        if size > 0 && !self.stream.read_whole(&mut bytes)? {
            return Err(truncated());
        }
        self.stream.pass(padding(size))?;
        let text = || bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        match header.kind() {
            b'x' => extended.add(&bytes, &self.budget.limits)?,
            b'g' if !says_nothing(&bytes)? => {
                return Err(invalid(
                    "a header for all entries that changes them: readers of layers do not agree on it",
                ));
            }
            b'g' => {}
            kind => {
                extended.any = true;
                let place = if kind == b'L' { &mut extended.path } else { &mut extended.link };
                // What pax says comes first.
                place.get_or_insert_with(text);
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<()> {
        let name = extended.path.clone().unwrap_or_else(|| header.name());
        let named = |error| about(&name, error);
        let path = checked(&name, &self.budget.limits)?;
        self.budget.entry().map_err(named)?;
        let size = match extended.size {
            Some(size) => size,
            None => header.size().map_err(named)?,
        };
        match marks(&path)? {
            Marked::No => self.node(header, extended, &name, path, size).map_err(named),
            mark => {
                if let Marked::Yes(path, what) = mark {
                    self.push(path, what).map_err(named)?;
                }
                if has_content(header.kind()) {
                    self.stream.pass(size.saturating_add(padding(size))).map_err(named)?;
                }
                Ok(())
            }
        }
    }

    fn node(&mut self, header: &Header, extended: Extended, name: &[u8], path: Box<[u8]>, size: u64) -> Result<()> {
        let link = extended.link.clone().unwrap_or_else(|| header.link().to_vec());
        let node = match header.kind() {
            0 if name.ends_with(b"/") && size == 0 => Node::Directory,
            0 | b'0' | b'7' => Node::File(self.content(size)?),
            b'S' => Node::File(self.sparse(header, size)?),
            b'1' => {
                let target = checked(&link, &self.budget.limits)?;
                return self.push(path, What::Link(target));
            }
            b'2' => Node::Symlink(target(&link)?),
            // A device 0/0 is no whiteout in a layer: those have names.
            b'3' | b'4' => {
                header.device()?;
                self.dropped += 1;
                return Ok(());
            }
            b'5' => Node::Directory,
            b'6' => Node::Pipe,
            kind => {
                let kind = kind.escape_ascii();
                return Err(invalid(&format!("entries of type '{kind}' are not part of OCI layers")));
            }
        };
        if path.is_empty() && node != Node::Directory {
            return Err(invalid("the root is a directory"));
        }
        let (mtime, mtime_nsec) = match extended.mtime {
            Some(time) => time,
            None => (header.mtime()?, 0),
        };
        let attributes = Attributes {
            mode: header.mode()?,
            uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
            mtime,
            mtime_nsec,
            xattrs: kept(extended.xattrs, &node)?,
        };
        self.push(path, What::Node(attributes, node))
    }

    fn push(&mut self, path: Box<[u8]>, what: What) -> Result<()> {
        let entry = Entry { path, what };
        self.budget.index(entry.weight())?;
        self.entries.push(entry);
        Ok(())
    }

    fn content(&mut self, size: u64) -> Result<Extent> {
        if size > self.budget.limits.bytes_max {
            let most = self.budget.limits.bytes_max;
            return Err(Error::new(ErrorKind::Exhausted, format!("larger than the {most} bytes of an image")));
        }
        let extent = self.out.begin(size)?;
        self.copy(size)?;
        self.stream.pass(padding(size))?;
        Ok(extent)
    }

    fn copy(&mut self, mut size: u64) -> Result<()> {
        while size > 0 {
            let piece = self.stream.peek(size)?;
            if piece.is_empty() {
                return Err(truncated());
            }
            let count = piece.len();
            self.out.write(piece)?;
            self.stream.consume(count);
            size -= count as u64;
        }
        Ok(())
    }

    /// A sparse file of GNU tar: a list of pieces, then the pieces.
    fn sparse(&mut self, header: &Header, size: u64) -> Result<Extent> {
        let real = header.real_size()?;
        let mut pieces = Vec::new();
        let mut more = header.pieces(&mut pieces)?;
        let mut block = Header([0; RECORD]);
        while more {
            if pieces.len() > PIECES_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("a sparse file of more than {PIECES_MAX} pieces"),
                ));
            }
            if !self.stream.read_whole(&mut block.0)? {
                return Err(truncated());
            }
            more = block.more_pieces(&mut pieces)?;
        }
        let mut at = 0_u64;
        let mut content = 0_u64;
        for (offset, length) in &pieces {
            let end = offset.checked_add(*length).filter(|end| *offset >= at && *end <= real);
            at = end.ok_or_else(|| invalid("the pieces of a sparse file do not lie in order within it"))?;
            content += length;
        }
        if content != size {
            return Err(invalid("the pieces of a sparse file are not as long as its content"));
        }
        // Holes cost nothing here, but whoever reads the file reads them.
        self.budget.bytes(real - content)?;
        let extent = self.out.begin(real)?;
        let mut at = 0;
        for (offset, length) in pieces {
            self.out.skip(offset - at)?;
            self.copy(length)?;
            at = offset + length;
        }
        self.stream.pass(padding(size))?;
        Ok(extent)
    }
}

/// What of these kinds says about its size is about nothing that follows.
fn has_content(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % RECORD as u64
}

fn target(link: &[u8]) -> Result<Box<[u8]>> {
    if link.is_empty() || link.len() > TARGET_LEN_MAX || link.contains(&0) {
        let why = format!("the target of a symbolic link has 1 to {TARGET_LEN_MAX} bytes, none of them zero");
        return Err(invalid(&why));
    }
    Ok(link.into())
}
