//! Cases about files, and about processes that belong to no connection.

use bytes::Bytes;
use moat_agent::protocol::Offsets;
use moat_model::file::{FileKind, FileReply, FileRequest, Transfer, WatchKind};
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, Exit};
use tokio::time::timeout;

use super::bed::{Bed, plain};
use super::patience::soon;
use super::{Fault, Verdict, ensure, ensure_kind};
use crate::error::Result;
use crate::guest::{AttachOutput, Attachment, ExecInput, Guest, Pushed};

/// A place in the sandbox that everybody in it may write to.
const PLACE: &str = "/tmp/moat-conformance";

fn at(name: &str) -> String {
    format!("{PLACE}-{}/{name}", std::process::id())
}

async fn push(guest: &dyn Guest, transfer: &Transfer, content: &[u8]) -> Result<Pushed> {
    let mut sink = guest.push(None, transfer).await?;
    for piece in content.chunks(100_000) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn pull(guest: &dyn Guest, transfer: &Transfer) -> Result<Vec<u8>> {
    let mut pieces = guest.pull(None, transfer).await?;
    let mut all = Vec::new();
    while let Some(piece) = pieces.recv().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

fn write(path: String) -> Transfer {
    Transfer::Write { path, mode: Some(0o640) }
}

async fn clear(guest: &dyn Guest) {
    // It may not be there.
    let _ = guest.file(None, &FileRequest::Remove { path: at(""), recursive: true }).await;
}

pub async fn round_trip(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    let content: Vec<u8> = (0..700_001_u32).flat_map(u32::to_le_bytes).collect();
    let pushed = push(guest, &write(at("a/b")), &content).await?;
    ensure(pushed == Pushed { bytes: content.len() as u64, entries: 1 }, || format!("{pushed:?}"))?;
    for (offset, length) in [(0, None), (1_000_000, None), (17, Some(100_000)), (9_000_000, None)] {
        let read = pull(guest, &Transfer::Read { path: at("a/b"), offset, length }).await?;
        let from = usize::try_from(offset).unwrap_or(0).min(content.len());
        let expected = content.iter().skip(from).take(length.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0)));
        ensure(read.iter().eq(expected), || format!("{} bytes from {offset}", read.len()))?;
    }
    clear(guest).await;
    Ok(())
}

pub async fn questions(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    push(guest, &write(at("d/f")), b"12345").await?;
    let stat = FileRequest::Stat { path: at("d/f") };
    match guest.file(None, &stat).await? {
        FileReply::Entry(e) if e.size == 5 && e.mode == 0o640 && e.kind == FileKind::File && e.path == at("d/f") => {}
        other => return Err(Fault::Failed(format!("{other:?}"))),
    }
    guest.file(None, &FileRequest::MakeDir { path: at("d/e"), mode: None }).await?;
    guest.file(None, &FileRequest::Move { from: at("d/f"), to: at("d/g") }).await?;
    match guest.file(None, &FileRequest::List { path: at("d"), depth: 1 }).await? {
        FileReply::Entries { entries, truncated: false } => {
            let paths: Vec<_> = entries.into_iter().map(|entry| entry.path).collect();
            ensure(paths == [at("d/e"), at("d/g")], || format!("{paths:?}"))?;
        }
        other => return Err(Fault::Failed(format!("{other:?}"))),
    }
    ensure_kind(guest.file(None, &stat).await, ErrorKind::NotFound, "look at what was moved away")?;
    let remove = |recursive| FileRequest::Remove { path: at("d"), recursive };
    ensure_kind(guest.file(None, &remove(false)).await, ErrorKind::Conflict, "remove what is not empty")?;
    let relative = FileRequest::Stat { path: "d".to_owned() };
    ensure_kind(guest.file(None, &relative).await, ErrorKind::InvalidSpec, "look at a relative path")?;
    let directory = Transfer::Read { path: at("d"), offset: 0, length: None };
    ensure_kind(guest.pull(None, &directory).await, ErrorKind::Conflict, "read a directory")?;
    let removed = guest.file(None, &remove(true)).await?;
    ensure(removed == FileReply::Removed, || format!("{removed:?}"))?;
    clear(guest).await;
    Ok(())
}

pub async fn abandoned(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    push(guest, &write(at("old")), b"old").await?;
    for name in ["old", "new"] {
        let mut sink = guest.push(None, &write(at(name))).await?;
        sink.send(Bytes::from_static(b"half")).await?;
    }
    let old = pull(guest, &Transfer::Read { path: at("old"), offset: 0, length: None }).await?;
    ensure(old == b"old", || format!("{old:?}"))?;
    match guest.file(None, &FileRequest::List { path: at(""), depth: 9 }).await? {
        FileReply::Entries { entries, .. } => ensure(entries.len() == 1, || format!("{entries:?}"))?,
        other => return Err(Fault::Failed(format!("{other:?}"))),
    }
    clear(guest).await;
    Ok(())
}

pub async fn watch(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    let directory = at("w");
    guest.file(None, &FileRequest::MakeDir { path: directory.clone(), mode: None }).await?;
    let mut events = guest.watch(None, &directory, true).await?;
    push(guest, &write(at("w/f")), b"x").await?;
    guest.file(None, &FileRequest::Remove { path: at("w/f"), recursive: false }).await?;
    let mut appeared = false;
    loop {
        let event = timeout(soon(), events.recv()).await.ok().flatten();
        let Some(event) = event else { return Err(Fault::Failed("the removal was not told".to_owned())) };
        // A file may appear by being made or by being renamed into place.
        appeared |= event.path == at("w/f") || event.to.as_deref() == Some(at("w/f").as_str());
        if event.kind == WatchKind::Removed && event.path == at("w/f") {
            break;
        }
    }
    clear(guest).await;
    ensure(appeared, || "its appearance was not told".to_owned())
}

async fn hear(mut attachment: Attachment) -> std::result::Result<(Vec<u8>, Option<Exit>), Fault> {
    let mut said = Vec::new();
    loop {
        match timeout(soon(), attachment.output.recv()).await {
            Ok(Some(AttachOutput::Data(chunk))) => said.extend_from_slice(&chunk.bytes),
            Ok(Some(AttachOutput::Exited { exit, .. })) => return Ok((said, Some(exit))),
            Ok(Some(AttachOutput::Skipped { .. })) => {}
            Ok(None) => return Ok((said, None)),
            Err(_) => return Err(Fault::Failed("a follower hears nothing".to_owned())),
        }
    }
}

pub async fn spawned(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    let spec = ExecSpec { stdin: true, ..plain(bed.script("echo first; cat; exit 3")?) };
    let pid = guest.spawn(&spec).await?;
    // Never reads.
    let stuck = guest.attach(pid, Offsets::default()).await?;
    let (one, two) = (guest.attach(pid, Offsets::default()).await?, guest.attach(pid, Offsets::default()).await?);
    for input in [ExecInput::Stdin(Bytes::from_static(b"second\n")), ExecInput::CloseStdin] {
        one.input.send(input).await.map_err(|_| Fault::Failed("it takes no input".to_owned()))?;
    }
    let all_of_it = |(said, exit): (Vec<u8>, Option<Exit>)| {
        ensure(said.ends_with(b"second\n") && exit == Some(Exit::code(3)), || format!("{said:?} {exit:?}"))
    };
    all_of_it(hear(one).await?)?;
    all_of_it(hear(two).await?)?;
    // Only now is it certain that so much was written.
    all_of_it(hear(guest.attach(pid, Offsets { stdout: 6, stderr: 0 }).await?).await?)?;
    drop(stuck);
    let listed = guest.spawned().await?;
    let ended = listed.iter().any(|one| one.pid == pid && one.exit == Some(Exit::code(3)));
    ensure(ended, || format!("{listed:?}"))?;
    ensure_kind(guest.attach(pid + 1000, Offsets::default()).await, ErrorKind::NotFound, "follow what is not there")?;
    Ok(())
}

pub async fn archive(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    let guest = sandbox.guest.as_ref();
    push(guest, &write(at("from/a/file")), b"content").await?;
    let packed = match pull(guest, &Transfer::TarOut { path: at("from") }).await {
        Err(error) if error.kind == ErrorKind::Unsupported => return Err(Fault::NotSupported(error.chain())),
        packed => packed?,
    };
    let pushed = push(guest, &Transfer::TarIn { path: at("to") }, &packed).await?;
    ensure(pushed == Pushed { bytes: 7, entries: 2 }, || format!("{pushed:?}"))?;
    let read = pull(guest, &Transfer::Read { path: at("to/a/file"), offset: 0, length: None }).await?;
    ensure(read == b"content", || format!("{read:?}"))?;
    // By way of a link that leads out of it, nothing is unpacked.
    let outside = Transfer::TarIn { path: at("to/a/file") };
    ensure_kind(push(guest, &outside, &packed).await, ErrorKind::Conflict, "unpack into a file")?;
    clear(guest).await;
    Ok(())
}
