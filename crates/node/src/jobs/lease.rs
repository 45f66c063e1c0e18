//! Who controls, as a pure state machine over moments of this machine's own clock: no two machines' clocks are compared.
//!
//! The holder renews by compare-and-set. It stops acting before anybody else may begin, and whoever begins does so by a
//! compare-and-set of the revision it saw stand still. Two that act at once do no harm, for every plan is a compare-and-set
//! too: the lease only saves work.

use std::time::Duration;

use moat_model::NodeId;
use serde::{Deserialize, Serialize};

/// The holder renews this often.
pub const RENEW: Duration = Duration::from_millis(1500);
/// What was not acknowledged is tried again after this: after an election nobody should wait for long.
const AGAIN: Duration = Duration::from_millis(500);
/// A holder that could not renew for so long, counted from when its last renewal was sent, does not act any more.
pub const HELD: Duration = Duration::from_secs(4);
/// A lease that stood still for so long, counted from when its revision was first seen, is taken.
pub const STALE: Duration = Duration::from_secs(5);

/// What the key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRecord {
    /// Who; nobody if it was given back.
    pub holder: Option<NodeId>,
    /// Which life of that node's daemon, so that a daemon that was started anew does not take itself for the holder.
    pub life: u64,
    /// Greater with every renewal.
    pub renewals: u64,
}

/// What is to be written, and over which revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// New content.
    pub record: LeaseRecord,
    /// Only if the key is at this revision; 0: if there is none.
    pub over: u64,
}

/// One candidate's view of the lease. Moments are spans since an instant of the caller's choice.
#[derive(Debug)]
pub struct Lease {
    me: NodeId,
    life: u64,
    seen: Option<(u64, LeaseRecord, Duration)>,
    /// When the renewal that was acknowledged last was sent.
    renewed: Option<Duration>,
    /// Nothing is tried before.
    next: Duration,
}

impl Lease {
    /// Of this node, in this life of its daemon.
    pub fn new(me: NodeId, life: u64) -> Self {
        Self { me, life, seen: None, renewed: None, next: Duration::ZERO }
    }

    /// The key was seen with this revision.
    pub fn saw(&mut self, revision: u64, record: LeaseRecord, now: Duration) {
        if self.seen.as_ref().is_some_and(|(known, _, _)| *known >= revision) {
            return;
        }
        if !self.is_mine(&record) {
            self.renewed = None;
        }
        self.seen = Some((revision, record, now));
    }

    /// Whether this one may act now.
    pub fn holds(&self, now: Duration) -> bool {
        self.renewed.is_some_and(|sent| now.saturating_sub(sent) < HELD)
    }

    /// What is to be written now, if anything. The caller tells the outcome with [`Lease::wrote`] or [`Lease::failed`].
    pub fn due(&mut self, now: Duration) -> Option<Write> {
        if now < self.next {
            return None;
        }
        let write = match &self.seen {
            None => Write { record: self.next(0), over: 0 },
            Some((revision, record, since)) => {
                let free = record.holder.is_none() || now.saturating_sub(*since) >= STALE;
                if !(free || self.is_mine(record)) {
                    return None;
                }
                Write { record: self.next(record.renewals), over: *revision }
            }
        };
        self.next = now + RENEW;
        Some(write)
    }

    /// The write that was begun at `sent` was acknowledged with this revision.
    pub fn wrote(&mut self, revision: u64, record: LeaseRecord, sent: Duration, now: Duration) {
        let newer = self.seen.as_ref().is_none_or(|(known, _, _)| *known <= revision);
        if newer {
            self.seen = Some((revision, record, now));
            self.renewed = Some(sent);
        }
    }

    /// The write was refused or nothing was heard of it. What is there is seen later.
    pub fn failed(&mut self, now: Duration) {
        self.next = now + AGAIN;
    }

    /// What is written to give it back, so that nobody has to wait for it to grow stale.
    pub fn give_back(&mut self, now: Duration) -> Option<Write> {
        if !self.holds(now) {
            return None;
        }
        self.renewed = None;
        let (revision, record, _) = self.seen.as_ref()?;
        let record = LeaseRecord { holder: None, life: self.life, renewals: record.renewals + 1 };
        Some(Write { record, over: *revision })
    }

    fn is_mine(&self, record: &LeaseRecord) -> bool {
        record.holder.as_ref() == Some(&self.me) && record.life == self.life
    }

    fn next(&self, renewals: u64) -> LeaseRecord {
        LeaseRecord { holder: Some(self.me.clone()), life: self.life, renewals: renewals.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(letter: char) -> NodeId {
        NodeId::parse(&format!("N{}", letter.to_string().repeat(55))).unwrap()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_times_leave_no_moment_for_two() {
        assert!(RENEW * 2 < HELD && HELD < STALE);
    }

    #[test]
    fn an_absent_lease_is_created_and_a_living_one_left_alone() {
        let mut a = Lease::new(node('A'), 1);
        let write = a.due(secs(0)).unwrap();
        assert_eq!(write.over, 0);
        a.wrote(7, write.record.clone(), secs(0), secs(0));
        assert!(a.holds(secs(3)) && !a.holds(secs(4)));
        let mut b = Lease::new(node('B'), 1);
        b.saw(7, write.record.clone(), secs(1));
        assert_eq!(b.due(secs(5)), None);
        let taken = b.due(secs(6)).unwrap();
        assert_eq!(taken.over, 7);
        b.wrote(8, taken.record.clone(), secs(6), secs(6));
        a.saw(8, taken.record, secs(6));
        assert!(!a.holds(secs(6)) && b.holds(secs(7)));
        assert_eq!(a.due(secs(7)), None);
    }

    #[test]
    fn one_that_is_given_back_is_taken_at_once_and_an_earlier_life_is_another() {
        let mut a = Lease::new(node('A'), 1);
        let write = a.due(secs(0)).unwrap();
        a.wrote(1, write.record.clone(), secs(0), secs(0));
        let mut again = Lease::new(node('A'), 2);
        again.saw(1, write.record, secs(1));
        assert_eq!(again.due(secs(2)), None);
        let back = a.give_back(secs(1)).unwrap();
        assert!(!a.holds(secs(1)));
        again.saw(2, back.record, secs(2));
        assert_eq!(again.due(secs(2)).unwrap().over, 2);
    }

    proptest! {
        /// Three candidates with clocks of their own that start anywhere; each step one of them tries, stalls, or sees the
        /// key. Whoever's write is acknowledged holds; nobody else may believe so at the same true moment.
        #[test]
        fn never_do_two_hold(steps in proptest::collection::vec((0usize..3, 0u8..4, 0u64..3000), 1..200)) {
            let mut key: (u64, Option<LeaseRecord>) = (0, None);
            let offsets = [secs(0), secs(1000), secs(77)];
            let mut all = [Lease::new(node('A'), 1), Lease::new(node('B'), 2), Lease::new(node('C'), 3)];
            let mut now = Duration::ZERO;
            for (who, what, pause) in steps {
                now += Duration::from_millis(pause);
                let own = now + offsets[who];
                match what {
                    0 => if let (revision, Some(record)) = &key {
                        all[who].saw(*revision, record.clone(), own);
                    },
                    // Acknowledged, acknowledged late, or the acknowledgement is lost.
                    kind => if let Some(write) = all[who].due(own) {
                        if write.over == key.0 {
                            key = (key.0 + 1, Some(write.record.clone()));
                            if kind == 1 { all[who].wrote(key.0, write.record, own, own); } else { all[who].failed(own); }
                        } else {
                            all[who].failed(own);
                        }
                    },
                }
                let holders = (0..3).filter(|i| all[*i].holds(now + offsets[*i])).count();
                prop_assert!(holders <= 1, "{holders} hold at {now:?}");
            }
        }
    }
}
