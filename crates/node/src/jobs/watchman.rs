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
/// After the bucket took no writes for a while, nodes have so long to beat again.
pub const GRACE: Duration = Duration::from_secs(3);

/// Tells since when the bucket takes writes.
#[derive(Debug, Default)]
pub struct Watchman {
    works: Option<Instant>,
}

impl Watchman {
    /// Nodes to give up now. `own` is how long ago this node's own last acknowledged beat was sent.
    pub fn silent(
        &mut self,
        beats: &BTreeMap<NodeId, Seen>,
        own: Option<Duration>,
        now: Instant,
    ) -> Vec<(NodeId, Seen)> {
        if own.is_none_or(|age| age >= GRACE) {
            self.works = None;
            return Vec::new();
        }
        let works = *self.works.get_or_insert(now);
        if now.saturating_duration_since(works) < GRACE {
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
        assert!(watchman.silent(&silent, young, at(0)).is_empty());
        assert!(watchman.silent(&silent, young, at(8)).is_empty());
        assert_eq!(watchman.silent(&silent, young, at(9)).len(), 1);
        assert!(watchman.silent(&beats(start, true), young, at(9)).is_empty());
        assert!(watchman.silent(&silent, Some(GRACE), at(20)).is_empty());
        assert!(watchman.silent(&silent, young, at(21)).is_empty(), "nodes have time to beat again");
        assert_eq!(watchman.silent(&silent, young, at(24)).len(), 1);
    }
}
