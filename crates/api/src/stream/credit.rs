//! How many bytes may be under way. Pure: no clock, no channel.

use super::WINDOW;

/// Most credit a peer can ever hold: one that grants more than it has taken is not counting, and gets no more.
const CREDIT_MAX: u64 = WINDOW as u64;

/// The sending side: what may still be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendCredit {
    available: u64,
}

impl Default for SendCredit {
    fn default() -> Self {
        Self { available: u64::from(WINDOW) }
    }
}

impl SendCredit {
    /// Bytes that may be sent now.
    pub fn available(&self) -> u64 {
        self.available
    }

    /// Takes credit for up to `wanted` bytes and says for how many it was.
    pub fn take(&mut self, wanted: usize) -> usize {
        let taken = wanted.min(usize::try_from(self.available).unwrap_or(usize::MAX));
        self.available = self.available.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
        taken
    }

    /// The peer consumed `bytes`.
    pub fn grant(&mut self, bytes: u32) {
        self.available = self.available.saturating_add(u64::from(bytes)).min(CREDIT_MAX);
    }
}

/// The peer sent more than it had credit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {excess} bytes more than it had credit for")]
pub struct Overrun {
    /// By how much.
    pub excess: u64,
}

/// The receiving side: what the peer may still send, and what is to be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveCredit {
    /// What the peer may still send.
    outstanding: u64,
    /// Consumed here and not yet given back.
    owed: u64,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self { outstanding: u64::from(WINDOW), owed: 0 }
    }
}

impl ReceiveCredit {
    /// Bytes arrived.
    pub fn received(&mut self, bytes: usize) -> Result<(), Overrun> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match self.outstanding.checked_sub(bytes) {
            Some(rest) => {
                self.outstanding = rest;
                Ok(())
            }
            None => Err(Overrun { excess: bytes.saturating_sub(self.outstanding) }),
        }
    }

    /// Bytes were passed on. Says how much credit to give back now: in halves of the window, so that credit frames are
    /// few and the peer never stands still while we keep up.
    pub fn consumed(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.owed < u64::from(WINDOW / 2) {
            return None;
        }
        let grant = u32::try_from(self.owed).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_sub(u64::from(grant));
        self.outstanding = self.outstanding.saturating_add(u64::from(grant));
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_sent_and_given_back_in_halves() {
        let (mut tx, mut rx) = (SendCredit::default(), ReceiveCredit::default());
        let window = WINDOW as usize;
        assert_eq!(tx.take(window + 1), window);
        assert_eq!(tx.take(1), 0);
        rx.received(window).unwrap();
        assert_eq!(rx.consumed(window / 2 - 1), None);
        assert_eq!(rx.consumed(1), Some(WINDOW / 2));
        tx.grant(WINDOW / 2);
        assert_eq!(tx.available(), u64::from(WINDOW / 2));
    }

    #[test]
    fn a_peer_that_does_not_count_is_found_out() {
        let mut rx = ReceiveCredit::default();
        rx.received(WINDOW as usize).unwrap();
        assert_eq!(rx.received(5), Err(Overrun { excess: 5 }));
    }

    #[test]
    fn credit_never_exceeds_the_window() {
        let mut tx = SendCredit::default();
        tx.grant(u32::MAX);
        assert_eq!(tx.available(), u64::from(WINDOW));
    }

    /// Whatever sizes are sent and however late they are consumed: no overrun, no dead end, window never exceeded.
    #[test]
    fn any_schedule_flows() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |bound: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % bound
        };
        let (mut tx, mut rx) = (SendCredit::default(), ReceiveCredit::default());
        let (mut unread, mut moved) = (0_usize, 0_u64);
        for _ in 0..100_000 {
            let taken = tx.take(usize::try_from(next(64 << 10)).unwrap());
            rx.received(taken).unwrap();
            unread += taken;
            assert!(unread <= WINDOW as usize);
            let consumed = usize::try_from(next(unread as u64 + 1)).unwrap();
            unread -= consumed;
            moved += consumed as u64;
            if let Some(grant) = rx.consumed(consumed) {
                tx.grant(grant);
            }
            if tx.available() == 0 {
                moved += unread as u64;
                let grant = rx.consumed(unread).expect("a full window consumed gives credit");
                unread = 0;
                tx.grant(grant);
            }
        }
        assert!(moved > 1 << 30);
    }
}
