//! The launcher's side of its standard input: one packet in with descriptors, one packet out.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use moat_agent::launch::{DESCRIPTORS_MAX, LaunchConfig, LaunchReply};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::LaunchError;

/// Largest configuration: a thousand binds with long paths and a generous seccomp filter stay far below.
const CONFIG_LEN_MAX: u32 = 16 << 20;

/// Receives the configuration and the descriptors of the payload.
pub fn receive() -> Result<(LaunchConfig, Vec<OwnedFd>), LaunchError> {
    let mut length = [0_u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        recvmsg(rustix::stdio::stdin(), &mut [IoSliceMut::new(&mut length)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|e| LaunchError::new("receive configuration", e))?;
    if got.bytes != length.len() {
        return Err(LaunchError::new("receive configuration", format!("packet of {} bytes instead of 4", got.bytes)));
    }
    let mut descriptors = control
        .drain()
        .filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten();
    let Some(memfd) = descriptors.next() else {
        return Err(LaunchError::new("receive configuration", "the packet carries no descriptor"));
    };
    Ok((read_config(&memfd, u32::from_le_bytes(length))?, descriptors.collect()))
}

fn read_config(memfd: &OwnedFd, length: u32) -> Result<LaunchConfig, LaunchError> {
    if length > CONFIG_LEN_MAX {
        return Err(LaunchError::new("read configuration", format!("{length} bytes are over {CONFIG_LEN_MAX}")));
    }
    let mut text = vec![0_u8; length as usize];
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(memfd, rest, filled as u64) {
            Ok(0) => return Err(LaunchError::new("read configuration", format!("ends after {filled} bytes"))),
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(LaunchError::new("read configuration", e)),
        }
    }
    serde_json::from_slice(&text).map_err(|e| LaunchError::new("read configuration", e))
}

/// Sends the one answer.
pub fn reply(reply: &LaunchReply, pidfd: Option<BorrowedFd<'_>>) -> Result<(), LaunchError> {
    let text = serde_json::to_vec(reply).map_err(|e| LaunchError::new("reply", e))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = pidfd.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(LaunchError::new("reply", "no room for the descriptor"));
    }
    sendmsg(rustix::stdio::stdin(), &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)
        .map_err(|e| LaunchError::new("reply", e))?;
    Ok(())
}
