//! Questions about files with one answer.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use moat_agent::protocol::HEADER_LEN_MAX;
use moat_model::ErrorKind;
use moat_model::file::{FileEntry, FileKind, FileReply, FileRequest, LIST_ENTRIES_MAX};

use super::path::{absolute, entry, permissions, refused};
use crate::agent::failure::Failure;

/// Permissions of a directory unless others are asked for.
const DIRECTORY_MODE: u32 = 0o755;
/// Of the answer's length, what is left for everything but the entries.
const LIST_LEN_MAX: usize = HEADER_LEN_MAX - (4 << 10);

/// Does what is asked.
pub fn answer(request: &FileRequest) -> Result<FileReply, Failure> {
    match request {
        FileRequest::Stat { path } => stat(absolute("path", path)?),
        FileRequest::List { path, depth } => list(absolute("path", path)?, *depth),
        FileRequest::MakeDir { path, mode } => make_dir(absolute("path", path)?, *mode),
        FileRequest::Move { from, to } => rename(absolute("from", from)?, absolute("to", to)?),
        FileRequest::Remove { path, recursive } => remove(absolute("path", path)?, *recursive),
        FileRequest::SetMode { path, mode } => set_mode(absolute("path", path)?, *mode),
    }
}

fn stat(path: &Path) -> Result<FileReply, Failure> {
    let metadata = fs::symlink_metadata(path).map_err(|e| refused("look at", path.display(), e))?;
    Ok(FileReply::Entry(entry(path, &metadata)))
}

fn list(path: &Path, depth: u32) -> Result<FileReply, Failure> {
    if depth == 0 {
        return Err(Failure::invalid("depth: at least 1, which is the directory itself"));
    }
    let mut listing = Listing { entries: Vec::new(), room: LIST_LEN_MAX, truncated: false };
    let mut waiting = VecDeque::from([(path.to_owned(), 1)]);
    // Nearest first, so that what is cut off is what is deepest.
    while let Some((directory, level)) = waiting.pop_front() {
        let below = match listing.add(&directory) {
            Ok(below) => below,
            // What cannot be looked into, or is gone meanwhile, is listed by its name alone.
            Err(_) if level > 1 => continue,
            Err(error) => return Err(refused("list", directory.display(), error)),
        };
        if level < depth && !listing.truncated {
            waiting.extend(below.into_iter().map(|directory| (directory, level + 1)));
        }
    }
    listing.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(FileReply::Entries { entries: listing.entries, truncated: listing.truncated })
}

struct Listing {
    entries: Vec<FileEntry>,
    room: usize,
    truncated: bool,
}

impl Listing {
    /// Adds what one directory holds; returns the directories among it.
    fn add(&mut self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut below = Vec::new();
        for item in fs::read_dir(directory)? {
            let path = item?.path();
            // Gone since it was named.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let told = entry(&path, &metadata);
            let len = serde_json::to_vec(&told).map_or(0, |text| text.len() + 1);
            if self.entries.len() == LIST_ENTRIES_MAX || len > self.room {
                self.truncated = true;
                break;
            }
            self.room -= len;
            if told.kind == FileKind::Directory {
                below.push(path);
            }
            self.entries.push(told);
        }
        Ok(below)
    }
}

fn make_dir(path: &Path, mode: Option<u32>) -> Result<FileReply, Failure> {
    let mode = permissions(mode.unwrap_or(DIRECTORY_MODE))?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| refused("make the directory", parent.display(), e))?;
    }
    match fs::create_dir(path) {
        // The process's mask must not take away what was asked for.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|e| refused("set permissions of", path.display(), e))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(refused("make the directory", path.display(), error)),
    }
    stat(path)
}

fn rename(from: &Path, to: &Path) -> Result<FileReply, Failure> {
    fs::rename(from, to).map_err(|error| {
        let failure = refused("move", format_args!("{} to {}", from.display(), to.display()), error);
        if failure.kind == ErrorKind::Conflict && on_different_mounts(from, to) {
            let hint = "they are on different file systems; copy it and remove it instead";
            return Failure::new(ErrorKind::Conflict, format!("{} ({hint})", failure.message));
        }
        failure
    })?;
    stat(to)
}

fn on_different_mounts(from: &Path, to: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.parent().and_then(|parent| fs::metadata(parent).ok()).map(|m| m.dev());
    device(from) != device(to)
}

fn remove(path: &Path, recursive: bool) -> Result<FileReply, Failure> {
    // `..` at the end would name something else than it says, and the root has no name.
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/.") {
        return Err(Failure::invalid(format!("path: {} has no name of its own to be removed by", path.display())));
    }
    let failed = |error| refused("remove", path.display(), error);
    let is_directory = fs::symlink_metadata(path).map_err(failed)?.is_dir();
    let removed = match (is_directory, recursive) {
        // By descriptors, without following links.
        (true, true) => fs::remove_dir_all(path),
        (true, false) => fs::remove_dir(path),
        (false, _) => fs::remove_file(path),
    };
    removed.map_err(failed)?;
    Ok(FileReply::Removed)
}

fn set_mode(path: &Path, mode: u32) -> Result<FileReply, Failure> {
    let mode = fs::Permissions::from_mode(permissions(mode)?);
    fs::set_permissions(path, mode).map_err(|e| refused("set permissions of", path.display(), e))?;
    let metadata = fs::metadata(path).map_err(|e| refused("look at", path.display(), e))?;
    Ok(FileReply::Entry(entry(path, &metadata)))
}
