//! The tap of a machine: what its guest sends leaves by the slot's link, what comes for the link is the guest's.
//!
//! The guest has the link's address and hardware address, and the namespace has none: the host's rules, limits and routes are
//! those of any other slot. Frames go from one to the other before the namespace's own network looks at them, by filters on
//! what comes in (`u32`, which kernels have that have no other classifier). Only IPv4 goes, and who has the gateway may be
//! asked: no other frame of a guest ever gets to the host's link.

#![expect(unsafe_code, reason = "ioctl has no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use moat_model::network::NetworkLease;

use super::make::{self, INNER_INDEX};
use super::{naming, requests};
use crate::NetConfig;
use crate::netlink::{CREATE, EXCLUSIVE, Message, Netlink, attributes, number32};

const TUN: &str = "/dev/net/tun";
/// `IFF_VNET_HDR` of linux/if_tun.h.
const IFF_VNET_HDR: libc::c_int = 0x4000;

const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const NEW_FILTER: u16 = 44;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `ffff:`, which every queue of incoming packets has.
const INCOMING_HANDLE: u32 = 0xffff_0000;
const INCOMING_PARENT: u32 = 0xffff_fff1;
const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;
/// The filter ends the search.
const TERMINAL: u8 = 1;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARAMETERS: u16 = 2;
/// Nobody else looks at it.
const STOLEN: u32 = 4;
const EGRESS_REDIRECT: u32 = 1;
/// One filter for each protocol, so each has the same number in a table of its own.
const FILTER_HANDLE: u32 = 1;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;

/// Opens a tap of the namespace this thread is in, or makes it, for as long as it is open. Frames come and go with the header
/// of virtual machines before them (`struct virtio_net_hdr`, ten bytes).
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN);
    let tun = OwnedFd::from(tun.map_err(|e| io::Error::new(e.kind(), format!("open {TUN}: {e}")))?);
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request names an interface, says what is wanted of it and outlives the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) } {
        0 => Ok(tun),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes one that stays, and that this user may open.
fn make(name: &str, owner: u32) -> io::Result<()> {
    let tun = open(name)?;
    for (request, value) in [(libc::TUNSETOWNER, libc::c_ulong::from(owner)), (libc::TUNSETPERSIST, 1)] {
        // SAFETY: both requests take a number, no pointer.
        if unsafe { libc::ioctl(tun.as_raw_fd(), request, value) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has the namespace this thread is in be a machine's, with a tap of this user. Right again when it is done twice: what works
/// is left alone.
pub fn set(config: &NetConfig, lease: &NetworkLease, owner: u32) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    let tap = match make::index_of(&mut netlink, naming::TAP) {
        Ok(index) => index,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
            // Whatever led to an earlier one leads nowhere.
            forget(&mut netlink, INNER_INDEX)?;
            make(naming::TAP, owner)?;
            make::index_of(&mut netlink, naming::TAP)?
        }
        Err(error) => return Err(error),
    };
    let length = mtu(&mut netlink, INNER_INDEX)?;
    netlink.ask_all(vec![
        requests::up(make::LOOPBACK_INDEX),
        requests::up(INNER_INDEX),
        requests::set_mtu(tap, length),
        requests::up(tap),
    ])?;
    connect(&mut netlink, tap, INNER_INDEX, &asks(config.gateway, lease))?;
    connect(&mut netlink, INNER_INDEX, tap, &[Key::ANY])?;
    // The guest alone has it. With the address go the routes.
    match netlink.ask(requests::delete_address(INNER_INDEX, lease.address)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

fn mtu(netlink: &mut Netlink, index: u32) -> io::Result<u32> {
    let (_, payload) = netlink.get(requests::link_at(index))?;
    let rest = payload.get(requests::LINK_HEADER..).unwrap_or_default();
    let found = attributes(rest).find(|(kind, _)| *kind == requests::LINK_MTU);
    found.map(|(_, value)| number32(value, 0)).ok_or_else(|| io::Error::other("a link without a length of frames"))
}

/// Takes away what is done with frames that come in by a link.
fn forget(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    match netlink.ask(Message::new(DELETE_QUEUE, 0, &header(index, INCOMING_HANDLE, INCOMING_PARENT, 0))) {
        // There is nothing.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        other => other,
    }
}

/// IPv4 that comes in by one link leaves by the other, and such ARP.
fn connect(netlink: &mut Netlink, from: u32, to: u32, arp: &[Key]) -> io::Result<()> {
    let queue = Message::new(NEW_QUEUE, CREATE | EXCLUSIVE, &header(from, INCOMING_HANDLE, INCOMING_PARENT, 0));
    there(netlink.ask(queue.with_text(KIND, "ingress")))?;
    for (order, protocol, keys) in [(1, IPV4, [Key::ANY].as_slice()), (2, ARP, arp)] {
        there(netlink.ask(filter(from, to, order, protocol, keys)))?;
    }
    Ok(())
}

/// What exists is what was wanted: these filters are the only ones anybody makes here.
fn there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOSPC)) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            let why = format!("redirect frames: {error}: modprobe sch_ingress cls_u32 act_mirred");
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
        other => other,
    }
}

/// Bits of a packet that have to be these, from so many bytes on.
#[derive(Debug, Clone, Copy)]
struct Key {
    mask: u32,
    value: u32,
    at: u32,
}

impl Key {
    const ANY: Self = Self { mask: 0, value: 0, at: 0 };
}

/// An ARP packet that asks, truly, who has the gateway.
fn asks(gateway: Ipv4Addr, lease: &NetworkLease) -> [Key; 6] {
    let [m0, m1, m2, m3, m4, m5] = naming::inner_mac(lease.slot);
    let [a, b, c, d] = lease.address.octets();
    let all = |at, value| Key { mask: u32::MAX, value, at };
    [
        // Ethernet and IPv4; their lengths, and a question.
        all(0, 0x0001_0800),
        all(4, 0x0604_0001),
        // The sender's hardware address and address.
        all(8, u32::from_be_bytes([m0, m1, m2, m3])),
        all(12, u32::from_be_bytes([m4, m5, a, b])),
        Key { mask: 0xffff_0000, value: u32::from_be_bytes([c, d, 0, 0]), at: 16 },
        all(24, u32::from_be_bytes(gateway.octets())),
    ]
}

fn filter(from: u32, to: u32, order: u32, protocol: u16, keys: &[Key]) -> Message {
    let info = order << 16 | u32::from(protocol.to_be());
    Message::new(NEW_FILTER, CREATE | EXCLUSIVE, &header(from, FILTER_HANDLE, INCOMING_HANDLE, info))
        .with_text(KIND, "u32")
        .nest(OPTIONS, &[], |options| {
            options.with(U32_SELECTOR, &selector(keys)).nest(U32_ACTIONS, &[], |actions| {
                actions.nest(1, &[], |action| {
                    action
                        .with_text(ACTION_KIND, "mirred")
                        .nest(ACTION_OPTIONS, &[], |options| options.with(MIRRED_PARAMETERS, &redirect(to)))
                })
            })
        })
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (place, value) in bytes.chunks_exact_mut(4).skip(1).zip([index, handle, parent, info]) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// `struct tc_u32_sel` and its keys.
fn selector(keys: &[Key]) -> Vec<u8> {
    let mut bytes = vec![TERMINAL, 0, u8::try_from(keys.len()).unwrap_or(0), 0];
    bytes.resize(16, 0);
    for Key { mask, value, at } in keys {
        bytes.extend(mask.to_be_bytes());
        bytes.extend(value.to_be_bytes());
        bytes.extend(at.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// `struct tc_mirred`: out of that link, and nowhere else.
fn redirect(to: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    for (place, value) in bytes.chunks_exact_mut(4).zip([0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to]) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// Tries all of it between a tap and the loopback of the namespace this thread is in, which is thrown away.
pub fn attempt() -> io::Result<()> {
    make(naming::TAP, 0)?;
    let mut netlink = Netlink::route()?;
    let tap = make::index_of(&mut netlink, naming::TAP)?;
    connect(&mut netlink, tap, make::LOOPBACK_INDEX, &[Key::ANY])
}
