//! Files of a fake sandbox: names, bytes, permissions and whoever watches. No users, no links, no archives.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use moat_model::file::{
    FileEntry, FileKind, FileReply, FileRequest, LIST_ENTRIES_MAX, PATH_LEN_MAX, WatchEvent, WatchKind,
};
use moat_model::{ErrorKind, SandboxId};
use tokio::sync::mpsc;

use super::world::Link;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::guest::{PushSink, Pushed};

/// Events waiting for one who watches; more are lost, which the next one says.
const EVENTS_MAX: usize = 256;

/// What there is.
#[derive(Debug)]
pub(super) struct FakeFiles {
    nodes: BTreeMap<String, Node>,
    watches: Vec<Watch>,
}

/// A file, or a directory, which has no bytes.
#[derive(Debug, Clone)]
struct Node {
    bytes: Option<Bytes>,
    mode: u32,
    modified_ms: i64,
}

#[derive(Debug)]
struct Watch {
    path: String,
    recursive: bool,
    events: mpsc::Sender<WatchEvent>,
    overflown: bool,
}

impl Default for FakeFiles {
    fn default() -> Self {
        let directory = |path: &str| (path.to_owned(), Node::new(None, 0o755));
        Self { nodes: ["/", "/tmp"].map(directory).into(), watches: Vec::new() }
    }
}

impl Node {
    fn new(bytes: Option<Bytes>, mode: u32) -> Self {
        Self { bytes, mode, modified_ms: Clock::start().now().as_millis() }
    }

    fn entry(&self, path: &str) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            kind: if self.bytes.is_some() { FileKind::File } else { FileKind::Directory },
            size: self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            mode: self.mode,
            uid: 0,
            gid: 0,
            modified_ms: self.modified_ms,
            link_target: None,
        }
    }
}

fn fail(kind: ErrorKind, path: &str, why: &str) -> Error {
    Error::new(kind, format!("{path}: {why}"))
}

/// A path without a slash at its end, if it may be used.
fn checked(path: &str) -> Result<&str> {
    if !path.starts_with('/') || path.contains('\0') || path.len() >= PATH_LEN_MAX {
        return Err(fail(ErrorKind::InvalidSpec, "path", "not absolute, too long, or a zero byte in it"));
    }
    let path = path.trim_end_matches('/');
    Ok(if path.is_empty() { "/" } else { path })
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// How deep below a directory, 1 for what is in it; `None` if it is not below it.
fn depth(directory: &str, path: &str) -> Option<usize> {
    let rest =
        if directory == "/" { path.strip_prefix('/')? } else { path.strip_prefix(directory)?.strip_prefix('/')? };
    (!rest.is_empty()).then(|| rest.matches('/').count() + 1)
}

impl FakeFiles {
    fn node(&self, path: &str) -> Result<&Node> {
        self.nodes.get(path).ok_or_else(|| fail(ErrorKind::NotFound, path, "no such file or directory"))
    }

    fn entry(&self, path: &str) -> Result<FileReply> {
        Ok(FileReply::Entry(self.node(path)?.entry(path)))
    }

    /// Answers a question.
    pub fn answer(&mut self, request: &FileRequest) -> Result<FileReply> {
        match request {
            FileRequest::Stat { path } => self.entry(checked(path)?),
            FileRequest::List { path, depth } => self.list(checked(path)?, *depth),
            FileRequest::MakeDir { path, mode } => {
                let path = checked(path)?;
                self.make_dirs(path, mode.unwrap_or(0o755))?;
                self.entry(path)
            }
            FileRequest::Move { from, to } => self.rename(checked(from)?, checked(to)?),
            FileRequest::Remove { path, recursive } => self.remove(checked(path)?, *recursive),
            FileRequest::SetMode { path, mode } => {
                let path = checked(path)?;
                self.node(path)?;
                if let Some(node) = self.nodes.get_mut(path) {
                    node.mode = *mode & 0o7777;
                }
                self.tell(WatchKind::Changed, path, None);
                self.entry(path)
            }
        }
    }

    fn list(&self, path: &str, deep: u32) -> Result<FileReply> {
        if deep == 0 {
            return Err(fail(ErrorKind::InvalidSpec, "depth", "at least 1"));
        }
        if self.node(path)?.bytes.is_some() {
            return Err(fail(ErrorKind::Conflict, path, "not a directory"));
        }
        let within = |other: &str| depth(path, other).is_some_and(|level| level <= deep as usize);
        let mut entries: Vec<FileEntry> =
            self.nodes.iter().filter(|(other, _)| within(other)).map(|(path, node)| node.entry(path)).collect();
        let truncated = entries.len() > LIST_ENTRIES_MAX;
        entries.truncate(LIST_ENTRIES_MAX);
        Ok(FileReply::Entries { entries, truncated })
    }

    fn make_dirs(&mut self, path: &str, mode: u32) -> Result<()> {
        if let Some(parent) = parent(path) {
            self.make_dirs(parent, 0o755)?;
        }
        match self.nodes.entry(path.to_owned()) {
            Entry::Occupied(node) if node.get().bytes.is_some() => {
                Err(fail(ErrorKind::Conflict, path, "not a directory"))
            }
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => {
                place.insert(Node::new(None, mode));
                self.tell(WatchKind::Created, path, None);
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<FileReply> {
        self.node(from)?;
        if depth(from, to).is_some() || to == "/" {
            return Err(fail(ErrorKind::InvalidSpec, to, "below what is moved"));
        }
        if parent(to).is_none_or(|parent| !self.nodes.contains_key(parent)) {
            return Err(fail(ErrorKind::NotFound, to, "its directory is not there"));
        }
        if self.nodes.get(to).is_some_and(|node| node.bytes.is_none()) {
            return Err(fail(ErrorKind::Conflict, to, "is a directory"));
        }
        let moved: Vec<String> =
            self.nodes.keys().filter(|path| *path == from || depth(from, path).is_some()).cloned().collect();
        for path in moved {
            if let (Some(node), Some(rest)) = (self.nodes.remove(&path), path.strip_prefix(from)) {
                self.nodes.insert(format!("{to}{rest}"), node);
            }
        }
        self.tell(WatchKind::Renamed, from, Some(to));
        self.entry(to)
    }

    fn remove(&mut self, path: &str, recursive: bool) -> Result<FileReply> {
        self.node(path)?;
        if path == "/" {
            return Err(fail(ErrorKind::InvalidSpec, path, "cannot be removed"));
        }
        if !recursive && self.nodes.keys().any(|other| depth(path, other).is_some()) {
            return Err(fail(ErrorKind::Conflict, path, "directory not empty"));
        }
        self.nodes.retain(|other, _| other != path && depth(path, other).is_none());
        self.tell(WatchKind::Removed, path, None);
        Ok(FileReply::Removed)
    }

    /// The bytes of a file.
    pub fn read(&self, path: &str, offset: u64, length: Option<u64>) -> Result<Bytes> {
        let path = checked(path)?;
        let Some(bytes) = &self.node(path)?.bytes else {
            return Err(fail(ErrorKind::Conflict, path, "is a directory"));
        };
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(clamp(offset)..clamp(offset.saturating_add(length.unwrap_or(u64::MAX)))))
    }

    /// Whether a file can be put there.
    fn check_write(&self, path: &str) -> Result<()> {
        let path = checked(path)?;
        if self.nodes.get(path).is_some_and(|node| node.bytes.is_none()) {
            return Err(fail(ErrorKind::Conflict, path, "is a directory"));
        }
        Ok(())
    }

    fn write(&mut self, path: &str, mode: Option<u32>, bytes: Bytes) -> Result<()> {
        self.check_write(path)?;
        let path = checked(path)?;
        self.make_dirs(parent(path).unwrap_or("/"), 0o755)?;
        let old = self.nodes.get(path).map(|node| node.mode);
        self.nodes.insert(path.to_owned(), Node::new(Some(bytes), old.or(mode).unwrap_or(0o644)));
        if old.is_none() {
            self.tell(WatchKind::Created, path, None);
        }
        self.tell(WatchKind::Written, path, None);
        Ok(())
    }

    /// Whoever wants to know from now on.
    pub fn watch(&mut self, path: &str, recursive: bool) -> Result<mpsc::Receiver<WatchEvent>> {
        let path = checked(path)?;
        self.node(path)?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        self.watches.push(Watch { path: path.to_owned(), recursive, events, overflown: false });
        Ok(receiver)
    }

    fn tell(&mut self, kind: WatchKind, path: &str, to: Option<&str>) {
        let event = WatchEvent { kind, path: path.to_owned(), to: to.map(str::to_owned) };
        self.watches.retain_mut(|watch| {
            let level = depth(&watch.path, path);
            if path == watch.path || level == Some(1) || watch.recursive && level.is_some() {
                watch.tell(&event);
            }
            !watch.events.is_closed()
        });
    }
}

impl Watch {
    fn tell(&mut self, event: &WatchEvent) {
        if self.overflown {
            let overflow = WatchEvent { kind: WatchKind::Overflow, path: self.path.clone(), to: None };
            self.overflown = self.events.try_send(overflow).is_err();
        }
        self.overflown |= self.events.try_send(event.clone()).is_err();
    }
}

/// A file on its way into a fake sandbox.
pub(super) struct FakePush {
    link: Link,
    id: SandboxId,
    path: String,
    mode: Option<u32>,
    content: BytesMut,
}

impl FakePush {
    /// If it can be put there.
    pub fn start(files: &FakeFiles, link: Link, id: SandboxId, path: &str, mode: Option<u32>) -> Result<Self> {
        files.check_write(path)?;
        Ok(Self { link, id, path: path.to_owned(), mode, content: BytesMut::new() })
    }
}

#[async_trait]
impl PushSink for FakePush {
    async fn send(&mut self, bytes: Bytes) -> Result<()> {
        self.content.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Pushed> {
        let Self { link, id, path, mode, content } = *self;
        let bytes = content.len() as u64;
        link.act(|world| {
            let gone = || Error::new(ErrorKind::Unavailable, "the agent does not answer");
            let sandbox = world.sandboxes.get_mut(&id).filter(|sandbox| sandbox.agent_alive).ok_or_else(gone)?;
            sandbox.files.write(&path, mode, content.freeze())
        })
        .await?;
        Ok(Pushed { bytes, entries: 1 })
    }
}
