//! What parent and child say to each other over one socket: bounded frames, each a length and JSON.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{Ids, Limits, NetworkPolicy};
use crate::error::FetchErrorKind;
use crate::origin::Plan;

/// Longest frame. Headers and keys of a job stay far below.
const FRAME_MAX: usize = 1 << 20;

/// Most descriptors that come with an order: the staging directory and a file.
const DESCRIPTORS_MAX: usize = 2;

/// What the child shall do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub plan: Plan,
    pub limits: Limits,
    pub network: NetworkPolicy,
    /// Whom it becomes; nobody else if the daemon is not root.
    pub ids: Option<Ids>,
    /// Landlock is asked for.
    pub isolate: bool,
    pub extra_paths: Vec<PathBuf>,
    pub ssh_known_hosts: Option<PathBuf>,
    /// The staging directory's path, for a child that cannot give it one of its own.
    pub staging: PathBuf,
    /// A second descriptor is the bytes.
    pub given: bool,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// How far it is.
    Progress { bytes: u64, total: Option<u64> },
    /// All is in the staging directory.
    Done { staged: Staged, downloaded: u64 },
    /// It is not.
    Failed { kind: FetchErrorKind, detail: String },
}

/// What lies in the staging directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Staged {
    /// The bytes as they came, in [`DOWNLOAD`].
    Raw,
    /// One file that was unpacked, in [`FILE`].
    File,
    /// A directory, in [`TREE`].
    Tree,
}

/// Name of the bytes as they came.
pub(crate) const DOWNLOAD: &str = "download";
/// Name of one unpacked file.
pub(crate) const FILE: &str = "file";
/// Name of a directory.
pub(crate) const TREE: &str = "tree";

/// Sends an order and the descriptors it is about.
pub(crate) fn send_order(
    mut socket: impl Write + AsFd,
    order: &Order,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    rustix::net::sendmsg(&socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    write_frame(&mut socket, order)
}

/// Receives what [`send_order`] sent.
pub(crate) fn receive_order(mut socket: impl Read + AsFd) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes != 1 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let order = read_frame(&mut socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((order, descriptors))
}

/// Writes one frame.
pub(crate) fn write_frame(socket: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame is too long"))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    socket.write_all(&bytes)
}

/// Reads one frame; nothing if the other side is gone.
pub(crate) fn read_frame<T: DeserializeOwned>(socket: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_claims_to_be_long_is_not_waited_for() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 1];
        assert!(read_frame::<Report>(&mut bytes).is_err());
        let mut nothing: &[u8] = &[];
        assert!(read_frame::<Report>(&mut nothing).unwrap().is_none());
        let mut cut: &[u8] = &[0, 0, 0, 9, 1];
        assert!(read_frame::<Report>(&mut cut).is_err());
    }
}
