//! Attempts at a network that is not the sandbox's to change.

#![expect(unsafe_code, reason = "raw system calls, as an attacker would make them")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;

use crate::attempt::{errno_name, outcome};

/// Names `probe try` knows.
pub const NAMES: [&str; 4] = ["bind", "link-down", "new-address", "new-route"];

/// Makes the attempt and says how it ended.
pub fn attempt(call: &str, argument: &str) -> anyhow::Result<String> {
    Ok(match call {
        "bind" => outcome(std::net::TcpListener::bind(argument)),
        "link-down" => said(link_down(argument)),
        "new-address" => said(new_address(argument.parse().context("new-address needs an interface's number")?)),
        "new-route" => said(new_route(argument.parse().context("new-route needs an interface's number")?)),
        _ => anyhow::bail!("no such call: {call}"),
    })
}

fn said(done: io::Result<()>) -> String {
    done.map_or_else(|error| errno_name(&error), |()| "ok".to_owned())
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; a descriptor it returns is nobody else's.
    unsafe {
        let fd = libc::socket(family, kind, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes every flag of an interface away, the one that it is up among them.
fn link_down(name: &str) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request names an interface and outlives the call, which only reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A netlink request for something new, and the kernel's answer to it.
fn ask(kind: u16, body: &[u8]) -> io::Result<()> {
    const FLAGS: i32 = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&u16::try_from(FLAGS).unwrap_or(u16::MAX).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    let mut answer = [0_u8; 512];
    // SAFETY: both buffers outlive the calls and their lengths go with them.
    let received = unsafe {
        if libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    if received < 20 {
        return Err(io::Error::last_os_error());
    }
    // An acknowledgement is an error of number zero.
    let [_, _, _, _, number, ..] = answer.as_chunks::<4>().0 else { return Err(io::ErrorKind::InvalidData.into()) };
    match i32::from_ne_bytes(*number) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

/// An attribute of four bytes.
fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
    [8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat().into_iter().chain(value).collect()
}

/// 203.0.113.9/32.
fn new_address(interface: u32) -> io::Result<()> {
    let mut body = vec![2, 32, 0, 0];
    body.extend_from_slice(&interface.to_ne_bytes());
    body.extend(attribute(libc::IFA_LOCAL, [203, 0, 113, 9]));
    ask(libc::RTM_NEWADDR, &body)
}

/// 198.51.100.0/24 by that interface.
fn new_route(interface: u32) -> io::Result<()> {
    let mut body = vec![2, 24, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RT_SCOPE_LINK, libc::RTN_UNICAST];
    body.extend_from_slice(&[0; 4]);
    body.extend(attribute(libc::RTA_DST, [198, 51, 100, 0]));
    body.extend(attribute(libc::RTA_OIF, interface.to_ne_bytes()));
    ask(libc::RTM_NEWROUTE, &body)
}
