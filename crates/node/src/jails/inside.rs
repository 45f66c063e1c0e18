//! What steps of templates do inside a jail: programs run as its root, and files changed by its agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_agent::protocol::StreamName;
use moat_engine::Guest;
use moat_engine::guest::ExecOutput;
use moat_model::file::{FileKind, FileReply, FileRequest, Transfer};
use moat_model::jail::JailEvent;
use moat_model::jail::steps::CopySource;
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, ProcessSpec, SandboxId};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

use super::events::Events;
use super::table::Claim;
use super::tree::{Shape, Top};
use super::{life, plan};

/// Largest file that is changed by line or by value.
const TEXT_BYTES_MAX: usize = 16 << 20;
/// How deep `RENDER` looks.
const RENDER_DEPTH: u32 = 32;
/// Pieces of an archive that wait on their way into a jail: a quarter of a MiB.
const PIECES_WAITING: usize = 4;
const PIECE: usize = 64 << 10;

/// The sandbox of a jail that is up.
fn sandbox(claim: &Claim) -> Result<SandboxId> {
    let record = claim.record()?;
    let id = record.sandbox.clone().filter(|_| life::is_up(&claim.shared, &record));
    id.ok_or_else(|| {
        let what = format!("jail {}: is down; moat jail start {} first", claim.key.1, claim.key.1);
        Error::new(ErrorKind::Conflict, what)
    })
}

async fn guest(claim: &Claim) -> Result<Arc<dyn Guest>> {
    claim.shared.base.engine.guest(&sandbox(claim)?).await
}

/// Runs a program as root of the jail, and tells what it writes.
pub(super) async fn run(claim: &Claim, program: &str, args: &[String], events: &Events) -> Result<()> {
    let id = sandbox(claim)?;
    let env = std::collections::BTreeMap::new();
    let process = ProcessSpec { command: program.to_owned(), args: args.to_vec(), env, cwd: None, user: None };
    let spec = ExecSpec { process, pty: None, stdin: false, timeout: None };
    let mut session = claim.shared.base.engine.exec(&id, &spec).await?;
    let most = claim.shared.base.config.output_bytes_max;
    let mut written = 0_u64;
    while let Some(output) = session.output.recv().await {
        match output {
            ExecOutput::Data(stream, bytes) => {
                written += bytes.len() as u64;
                if written > most {
                    let what = format!("{program}: wrote more than {most} bytes (jails.output_max) and was ended");
                    return Err(Error::new(ErrorKind::Exhausted, what));
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                events.tell(JailEvent::Output { stderr: stream == StreamName::Stderr, text }).await;
                if !events.are_heard() {
                    return Err(Error::new(ErrorKind::Conflict, format!("{program}: nobody listens any more: ended")));
                }
            }
            ExecOutput::Exited { exit, .. } if exit.success() => return Ok(()),
            ExecOutput::Exited { exit, .. } => {
                let how = match exit.signal {
                    Some(signal) => format!("was ended by signal {signal}"),
                    None => format!("ended with exit code {}", exit.code),
                };
                let memory = if exit.oom_killed { ", out of memory" } else { "" };
                return Err(Error::new(ErrorKind::Conflict, format!("{program}: {how}{memory}")));
            }
        }
    }
    Err(Error::new(ErrorKind::Unavailable, format!("{program}: its end was not told; the jail may have gone down")))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::invalid("path", format!("{path:?} is not UTF-8")))
}

/// What is at a path inside, links followed at its end; none if nothing is.
async fn kind(guest: &Arc<dyn Guest>, path: &str) -> Result<Option<FileKind>> {
    match guest.file(None, &FileRequest::Stat { path: path.to_owned() }).await {
        Ok(FileReply::Entry(entry)) if entry.kind == FileKind::Symlink => {
            // A link to a directory, such as /sbin of most roots, is as good as one.
            let inside = FileRequest::List { path: format!("{path}/."), depth: 1 };
            Ok(Some(if guest.file(None, &inside).await.is_ok() { FileKind::Directory } else { FileKind::File }))
        }
        Ok(FileReply::Entry(entry)) => Ok(Some(entry.kind)),
        Ok(_) => Err(Error::new(ErrorKind::Internal, "look at a file inside")),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies into the jail as `cp -a` does, everything root's there.
pub(super) async fn copy(claim: &Claim, source: &CopySource, contents: bool, target: &Path, into: bool) -> Result<()> {
    let (top, path) = match source {
        CopySource::Template { template, path } => (claim.shared.place.template(&claim.key.0, template), path.clone()),
        CopySource::Host(path) => {
            let real = plan::allowed(&claim.shared, path)?;
            let parent = real.parent().unwrap_or(Path::new("/")).to_owned();
            (parent, real.file_name().map(PathBuf::from).unwrap_or_default())
        }
    };
    let shown = path.display().to_string();
    let looked = path.clone();
    let opened = crate::outlet::blocking("open what is copied", move || {
        let top = Top::open(&top)?;
        let shape = top.shape(&looked)?;
        Ok((top, shape))
    });
    let (top, shape) = opened.await?;
    let Some(shape) = shape else {
        return Err(Error::new(ErrorKind::NotFound, format!("{shown}: there is no such file to copy")));
    };
    let guest = guest(claim).await?;
    let is_dir = into || kind(&guest, &text(target)?).await? == Some(FileKind::Directory);
    let base = path.file_name().map(PathBuf::from).unwrap_or_default();
    let (below, name) = match (shape, is_dir) {
        (Shape::Directory, _) if contents => (target.to_owned(), PathBuf::new()),
        (_, true) => (target.to_owned(), base),
        // The directory becomes the target.
        (Shape::Directory, false) => (target.to_owned(), PathBuf::new()),
        (_, false) => (
            target.parent().unwrap_or(Path::new("/")).to_owned(),
            target.file_name().map(PathBuf::from).unwrap_or_default(),
        ),
    };
    push(&guest, top, path, name, &text(&below)?).await
}

/// The end of a channel that blocking work writes to.
struct Pipe(mpsc::Sender<bytes::Bytes>);

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(bytes::Bytes::copy_from_slice(piece)).map_err(gone)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Streams files of the host into a directory inside.
async fn push(guest: &Arc<dyn Guest>, top: Top, path: PathBuf, name: PathBuf, below: &str) -> Result<()> {
    let mut sink = guest.push(None, &Transfer::TarIn { path: below.to_owned() }).await?;
    let (writer, mut pieces) = mpsc::channel(PIECES_WAITING);
    // Ends when the other half is dropped: then nobody reads what it writes.
    let packing = tokio::task::spawn_blocking(move || {
        let out = std::io::BufWriter::with_capacity(PIECE, Pipe(writer));
        top.pack(&path, &name, out)
    });
    while let Some(piece) = pieces.recv().await {
        sink.send(piece).await?;
    }
    let packed = packing.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "copy files", e))?;
    packed.map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, "read what is copied", e))?;
    sink.finish().await.map(drop)
}

/// A whole file; none if there is none.
async fn read(guest: &Arc<dyn Guest>, path: &str) -> Result<Option<Vec<u8>>> {
    let transfer = Transfer::Read { path: path.to_owned(), offset: 0, length: None };
    let mut pieces = match guest.pull(None, &transfer).await {
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        pieces => pieces?,
    };
    let mut body = Vec::new();
    while let Some(piece) = pieces.recv().await {
        body.extend_from_slice(&piece?);
        if body.len() > TEXT_BYTES_MAX {
            let what = format!("{path}: has more than {TEXT_BYTES_MAX} bytes, too many to be changed by a template");
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
    }
    Ok(Some(body))
}

async fn write(guest: &Arc<dyn Guest>, path: &str, body: Vec<u8>) -> Result<()> {
    let mut sink = guest.push(None, &Transfer::Write { path: path.to_owned(), mode: None }).await?;
    let body = bytes::Bytes::from(body);
    let mut at = 0;
    while at < body.len() {
        let end = (at + PIECE).min(body.len());
        sink.send(body.slice(at..end)).await?;
        at = end;
    }
    sink.finish().await.map(drop)
}

/// Adds a line unless it is there.
pub(super) async fn line_in_file(claim: &Claim, line: &str, path: &Path) -> Result<()> {
    let (guest, path) = (guest(claim).await?, text(path)?);
    let mut body = read(&guest, &path).await?.unwrap_or_default();
    if body.split(|byte| *byte == b'\n').any(|there| there == line.as_bytes()) {
        return Ok(());
    }
    if body.last().is_some_and(|last| *last != b'\n') {
        body.push(b'\n');
    }
    body.extend_from_slice(line.as_bytes());
    body.push(b'\n');
    write(&guest, &path, body).await
}

/// Fills values into a file, or into every file below a directory.
pub(super) async fn render(claim: &Claim, path: &Path, values: &[(String, String)], events: &Events) -> Result<()> {
    let (guest, path) = (guest(claim).await?, text(path)?);
    match kind(&guest, &path).await? {
        None => {
            events.note(format!("{path}: there is nothing to render")).await;
            Ok(())
        }
        Some(FileKind::Directory) => {
            let request = FileRequest::List { path: path.clone(), depth: RENDER_DEPTH };
            let FileReply::Entries { entries, truncated } = guest.file(None, &request).await? else {
                return Err(Error::new(ErrorKind::Internal, "list a directory inside"));
            };
            if truncated {
                let what = format!("{path}: has too many files to render all of them");
                return Err(Error::new(ErrorKind::Exhausted, what));
            }
            for entry in entries.iter().filter(|e| e.kind == FileKind::File && !e.path.contains("/.git/")) {
                fill(&guest, &entry.path, values).await?;
            }
            Ok(())
        }
        Some(_) => fill(&guest, &path, values).await,
    }
}

async fn fill(guest: &Arc<dyn Guest>, path: &str, values: &[(String, String)]) -> Result<()> {
    let Some(body) = read(guest, path).await? else { return Ok(()) };
    // What is no text has no names in it.
    let Ok(body) = String::from_utf8(body) else { return Ok(()) };
    let filled = filled(&body, values);
    if filled == body { Ok(()) } else { write(guest, path, filled.into_bytes()).await }
}

/// Every known `${NAME}` replaced, once: a value is not looked through again.
fn filled(body: &str, values: &[(String, String)]) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find("${") {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let name = found.get(2..).and_then(|inner| inner.split_once('}')).map(|(name, _)| name);
        match name.and_then(|name| values.iter().find(|(known, _)| known == name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = found.get(name.len() + 3..).unwrap_or_default();
            }
            None => {
                out.push_str("${");
                rest = found.get(2..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_in_once_and_the_unknown_stays() {
        let values = [("A".to_owned(), "${B}".to_owned()), ("B".to_owned(), "b".to_owned())];
        assert_eq!(filled("${A} ${B} ${C} ${ $${B}} ${", &values), "${B} b ${C} ${ $b} ${");
        assert_eq!(filled("ä${B}ö", &values), "äbö");
    }
}
