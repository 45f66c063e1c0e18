//! Time, and randomness nobody else has.

use std::time::SystemTime;

use moat_agent::protocol::machine::{ENTROPY_LEN, Moment};
use std::os::fd::{AsFd as _, OwnedFd};

use crate::agent::Failure;

/// Takes the randomness in, then sets the clock: whatever is made of either afterwards is this machine's own.
pub fn begin(random: &OwnedFd, moment: &Moment) -> Result<(), Failure> {
    let entropy = check(moment)?;
    crate::sys::reseed(random.as_fd(), &entropy).map_err(|e| Failure::internal("reseed the random numbers", &e))?;
    crate::sys::set_clock(moment.unix_nanos).map_err(|e| Failure::internal("set the clock", &e))
}

/// The randomness, if it is whole.
pub fn check(moment: &Moment) -> Result<[u8; ENTROPY_LEN], Failure> {
    decode(&moment.entropy)
        .ok_or_else(|| Failure::invalid(format!("moment.entropy: {ENTROPY_LEN} bytes as lower-case hex digits")))
}

/// What the clock says.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn decode(text: &str) -> Option<[u8; ENTROPY_LEN]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> = pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_whole_or_refused() {
        assert_eq!(decode(&"a5".repeat(ENTROPY_LEN)), Some([0xa5; ENTROPY_LEN]));
        for bad in
            ["a5".repeat(ENTROPY_LEN - 1), "A5".repeat(ENTROPY_LEN), "a5".repeat(ENTROPY_LEN) + "0", String::new()]
        {
            assert_eq!(decode(&bad), None, "{bad}");
        }
    }
}
