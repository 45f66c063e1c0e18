//! What a snapshot of differences makes of the one before: one whole file, so that no machine ever needs a chain of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use crate::vm::disk::next_data;

/// One piece that is copied.
const PIECE_LEN: usize = 1 << 20;

/// Writes everything that `changes` has over `whole`. Where `changes` has a hole, nothing was written since `whole` was made.
pub async fn merge(changes: File, whole: &Path) -> Result<()> {
    let path = whole.to_owned();
    let work = move || {
        let merged = File::options().write(true).open(&path).and_then(|whole| merge_now(&changes, &whole));
        merged
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("merge the memory into {}", path.display()), e))
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::caused_by(ErrorKind::Internal, "merge the memory", e))?
}

fn merge_now(changes: &File, whole: &File) -> io::Result<()> {
    let length = whole.metadata()?.len();
    let changed = changes.metadata()?.len();
    if changed != length {
        // Of another machine, or no memory at all.
        let what = format!("the changes are of a memory of {changed} bytes, the one before has {length}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut piece = vec![0; PIECE_LEN];
    let mut at = 0;
    while let Some((start, end)) = next_data(changes, at, length)? {
        at = end.min(length);
        copy(changes, whole, start, at, &mut piece)?;
    }
    Ok(())
}

fn copy(from: &File, to: &File, mut start: u64, end: u64, piece: &mut [u8]) -> io::Result<()> {
    while start < end {
        let wanted = usize::try_from(end - start).unwrap_or(usize::MAX).min(piece.len());
        let Some(room) = piece.get_mut(..wanted) else { return Ok(()) };
        let read = from.read_at(room, start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(room.get(..read).unwrap_or_default(), start)?;
        start += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, length: u64, parts: &[(u64, &[u8])]) -> File {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join(name)).unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[tokio::test]
    async fn holes_leave_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let page = |byte: u8| vec![byte; 4096];
        let length = 4 << 20;
        let _ = file(dir.path(), "whole", length, &[(0, &page(1)), (1 << 20, &page(1)), (length - 4096, &page(1))]);
        let changes = file(dir.path(), "changes", length, &[(1 << 20, &page(2)), (2 << 20, &page(0))]);
        merge(changes, &dir.path().join("whole")).await.unwrap();
        let merged = std::fs::read(dir.path().join("whole")).unwrap();
        assert_eq!((merged[0], merged[1 << 20], merged[2 << 20]), (1, 2, 0));
        assert_eq!((merged.len() as u64, merged.last()), (length, Some(&1)));
    }

    #[tokio::test]
    async fn changes_of_another_memory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _ = file(dir.path(), "whole", 1 << 20, &[]);
        let changes = file(dir.path(), "changes", 2 << 20, &[]);
        let refusal = merge(changes, &dir.path().join("whole")).await.unwrap_err();
        assert!(refusal.chain().contains("2097152"), "{}", refusal.chain());
    }
}
