//! Who is silent for too long, by the controller's own clock.
//!
//! Silence counts only while beats can be written at all: while the bucket has no leader nobody beats, and nobody is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::NodeId;
use tokio::time::Instant;

use super::replica::Seen;

/// A node whose last beat was seen so long ago is given up.
pub const SILENT: Duration = Duration::from_secs(9);
/// The bucket takes writes if this node's own last beat that it acknowledged is younger.
pub const TAKES: Duration = Duration::from_secs(3);
/// After the bucket took no writes for a while, nodes have so long to beat again: they try every half second, and wait for
/// an answer no longer than a write may take.
pub const GRACE: Duration = Duration::from_secs(2);

/// Tells since when the bucket takes writes.
#[derive(Debug, Default)]
pub struct Watchman {
    works: Option<Instant>,
}

impl Watchman {
    /// Looks whether the bucket takes writes: `own` is how long ago this node's own last acknowledged beat was sent. Also by
    /// those who do not control: whoever is about to need not wait then.
    pub fn look(&mut self, own: Option<Duration>, now: Instant) {
        if own.is_none_or(|age| age >= TAKES) {
            self.works = None;
        } else {
            self.works.get_or_insert(now);
        }
    }

    /// Nodes to give up now.
    pub fn silent(&self, beats: &BTreeMap<NodeId, Seen>, now: Instant) -> Vec<(NodeId, Seen)> {
        if self.works.is_none_or(|works| now.saturating_duration_since(works) < GRACE) {
            return Vec::new();
        }
        let silent = |seen: &Seen| !seen.beat.down && now.saturating_duration_since(seen.since) >= SILENT;
        beats.iter().filter(|(_, seen)| silent(seen)).map(|(node, seen)| (node.clone(), seen.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Beat;
    use super::*;

    fn beats(since: Instant, down: bool) -> BTreeMap<NodeId, Seen> {
        let node = NodeId::parse(&format!("N{}", "A".repeat(55))).unwrap();
        let beat = Beat { epoch: 1, life: 1, count: 1, down };
        BTreeMap::from([(node, Seen { revision: 7, beat, since })])
    }

    #[tokio::test]
    async fn silence_counts_only_while_anybody_can_be_heard() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let (mut watchman, young) = (Watchman::default(), Some(Duration::from_secs(1)));
        let silent = beats(start, false);
        let mut seen = |own, beats: &BTreeMap<NodeId, Seen>, secs| {
            watchman.look(own, at(secs));
            watchman.silent(beats, at(secs)).len()
        };
        assert_eq!(seen(young, &silent, 0), 0);
        assert_eq!(seen(young, &silent, 8), 0);
        assert_eq!(seen(young, &silent, 9), 1);
        assert_eq!(seen(young, &beats(start, true), 9), 0);
        assert_eq!(seen(Some(TAKES), &silent, 20), 0);
        assert_eq!(seen(young, &silent, 21), 0, "nodes have time to beat again");
        assert_eq!(seen(young, &silent, 23), 1);
    }
}
