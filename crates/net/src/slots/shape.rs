//! Bounds on bandwidth: a token bucket at each end of a link. The host's end is what the sandbox receives, the other what it
//! sends; nobody inside may change either, for the namespace is the host's.

use std::io;
use std::os::fd::AsFd;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::NetworkLimits;

use super::make::{INNER_INDEX, Made};
use super::namespace;
use crate::netlink::{CREATE, Message, Netlink, REPLACE};

const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const PARAMETERS: u16 = 1;
const RATE_64: u16 = 4;
const BURST: u16 = 6;
const ROOT: u32 = u32::MAX;
const HANDLE: u32 = 0x1_0000;
const ETHERNET: u8 = 1;

/// A full packet, and the frame it goes in: limits are on packets, the kernel counts frames.
const PACKET: u64 = 1500;
const FRAME: u64 = 1514;
/// What may pass at once, as time at the rate: as long as a busy machine may be late to look again.
const BURST_MS: u64 = 10;
/// At least some full frames, or nothing passes at slow rates.
const BURST_MIN: u64 = 4 * FRAME;
/// How long a packet waits at most before the next is dropped.
const WAIT_MS: u64 = 50;
const WAIT_MIN: u64 = 16 * FRAME;

/// Has the limits be these, which were those.
pub fn apply(made: &Made, old: &NetworkLimits, new: &NetworkLimits) -> Result<()> {
    if old.down_bits_per_sec != new.down_bits_per_sec {
        Netlink::route()
            .and_then(|mut netlink| set(&mut netlink, made.index, new.down_bits_per_sec))
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "network.limits.down_bits_per_sec: set", e))?;
    }
    if old.up_bits_per_sec != new.up_bits_per_sec {
        namespace::within(made.inside.as_fd(), || set(&mut Netlink::route()?, INNER_INDEX, new.up_bits_per_sec))
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "network.limits.up_bits_per_sec: set", e))?;
    }
    Ok(())
}

/// Has a link send at most this.
pub fn set(netlink: &mut Netlink, index: u32, bits_per_sec: Option<u64>) -> io::Result<()> {
    let Some(bits) = bits_per_sec else {
        return match netlink.ask(Message::new(DELETE_QUEUE, 0, &header(index, 0))) {
            // There is none but the kernel's own.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            other => other,
        };
    };
    let bucket = Bucket::of(bits);
    let request = Message::new(NEW_QUEUE, CREATE | REPLACE, &header(index, HANDLE)).with_text(KIND, "tbf");
    netlink.ask(request.nest(OPTIONS, &[], |options| {
        options
            .with(PARAMETERS, &bucket.parameters())
            .with(RATE_64, &bucket.bytes_per_sec.to_ne_bytes())
            .with_u32(BURST, bucket.burst)
    }))
}

fn header(index: u32, handle: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    bytes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    bytes_per_sec: u64,
    burst: u32,
    queue: u32,
}

impl Bucket {
    fn of(bits_per_sec: u64) -> Self {
        let frames = u128::from(bits_per_sec) * u128::from(FRAME) / u128::from(PACKET * 8);
        let bytes_per_sec = u64::try_from(frames).unwrap_or(u64::MAX).max(1);
        let during = |ms: u64| bytes_per_sec.saturating_mul(ms) / 1000;
        // The kernel keeps both in 32 bits, the burst as nanoseconds at the rate.
        let bounded = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let burst = during(BURST_MS).max(BURST_MIN);
        Self {
            bytes_per_sec,
            burst: bounded(burst),
            queue: bounded(burst.saturating_add(during(WAIT_MS).max(WAIT_MIN))),
        }
    }

    /// `struct tc_tbf_qopt`: two rates, the second none, and three numbers of which the last two are said elsewhere.
    fn parameters(self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[1] = ETHERNET;
        let rate = u32::try_from(self.bytes_per_sec).unwrap_or(u32::MAX);
        bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.queue.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_a_rate_from_slow_to_fast() {
        let ten_mbit = Bucket::of(10_000_000);
        assert_eq!(ten_mbit.bytes_per_sec, 1_261_666);
        assert_eq!(ten_mbit.burst, 12_616);
        assert_eq!(Bucket::of(1).burst, 6056);
        let ten_gbit = Bucket::of(10_000_000_000);
        assert!(ten_gbit.bytes_per_sec > 1_250_000_000 && ten_gbit.burst > 12_000_000, "{ten_gbit:?}");
        assert_eq!(Bucket::of(u64::MAX).queue, u32::MAX);
    }
}
