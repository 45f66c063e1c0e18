//! This node's copy of the buckets, kept by watching them.
//!
//! A copy is behind, never wrong: whatever is decided by it is written by compare-and-set of the revision it had. A watch
//! that was cut off begins anew, and what it does not find any more is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_model::job::{AllocStatus, Job, NodeFacts, NodeWish};
use moat_model::{AllocId, NodeId};
use moat_scheduler::JobKey;
use tokio::sync::watch;
use tokio::time::Instant;

use super::document::{Beat, Document, Fence, JobRecord, Outcome, VersionRecord};
use super::keys::{JOBS, Key, NODES, STATUS};
use super::lease::LeaseRecord;
use super::store::{Entry, Store};

/// Between two tries to watch.
const AGAIN: Duration = Duration::from_millis(500);
/// Tries between two looks whether the bucket is there at all.
const ENSURE_EVERY: u32 = 10;
/// Keys whose change nobody has taken note of, beyond which everything is taken for changed.
const CHANGED_MAX: usize = 10_000;

/// A document and its revision.
#[derive(Debug, Clone)]
pub struct Held<T> {
    /// Its place in the bucket.
    pub revision: u64,
    /// The document.
    pub value: Arc<T>,
}

/// A beat, and since when it is the last one, by this machine's clock.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its place in the bucket.
    pub revision: u64,
    /// What it says.
    pub beat: Beat,
    /// When it was seen first.
    pub since: Instant,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct State {
    /// What is declared.
    pub jobs: BTreeMap<JobKey, Held<JobRecord>>,
    /// Earlier versions.
    pub versions: BTreeMap<JobKey, BTreeMap<u64, Arc<VersionRecord>>>,
    /// What became of jobs.
    pub outcomes: BTreeMap<JobKey, Held<Outcome>>,
    /// Whose each allocation is.
    pub owners: BTreeMap<AllocId, JobKey>,
    /// Who is given up.
    pub fences: BTreeMap<NodeId, Held<Fence>>,
    /// What nodes say of themselves.
    pub facts: BTreeMap<NodeId, Held<NodeFacts>>,
    /// What is wanted of nodes.
    pub wishes: BTreeMap<NodeId, Held<NodeWish>>,
    /// Who lives.
    pub beats: BTreeMap<NodeId, Seen>,
    /// Who controls.
    pub lease: Option<Held<LeaseRecord>>,
    /// What nodes say of allocations.
    pub statuses: BTreeMap<AllocId, Held<AllocStatus>>,
    /// What was removed, and when that was seen.
    pub removed: BTreeMap<Key, (u64, Instant)>,
    /// Documents of a newer moat: nothing is decided about what they are of.
    pub unreadable: BTreeSet<Key>,
    reached: BTreeMap<&'static str, u64>,
    synced: BTreeSet<&'static str>,
    created: BTreeMap<&'static str, i128>,
    changed: Changed,
}

/// What changed since somebody asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Everything may have.
    All,
    /// These keys.
    Keys(BTreeSet<Key>),
}

impl Default for Changed {
    fn default() -> Self {
        Self::Keys(BTreeSet::new())
    }
}

impl State {
    /// All buckets were read, and are being watched.
    pub fn is_synced(&self) -> bool {
        self.synced.len() == 3
    }

    /// How far a bucket was seen.
    pub fn reached(&self, bucket: &str) -> u64 {
        self.reached.get(bucket).copied().unwrap_or(0)
    }

    /// What changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// The content of a version of a job.
    pub fn version(&self, key: &JobKey, version: u64) -> Option<Arc<Job>> {
        if let Some(held) = self.jobs.get(key)
            && held.value.version == version
        {
            return Some(Arc::new(held.value.job.clone()));
        }
        let kept = self.versions.get(key)?.get(&version)?;
        Some(Arc::new(kept.job.clone()))
    }

    /// Whether a document of this job is of a newer moat.
    pub fn is_foreign(&self, key: &JobKey) -> bool {
        self.unreadable.contains(&Key::Job(key.clone())) || self.unreadable.contains(&Key::Outcome(key.clone()))
    }

    /// The bucket's leader knows nothing of this key: that it was removed is forgotten there, and must be here, for whoever
    /// writes it next.
    pub fn forget_absent(&mut self, key: &Key) {
        self.removed.remove(key);
    }

    /// That it was removed by this revision is forgotten in the bucket.
    pub fn forget_removed(&mut self, key: &Key, revision: u64) {
        if self.removed.get(key).is_some_and(|(known, _)| *known == revision) {
            self.removed.remove(key);
        }
    }

    /// Drops what was seen removed so long ago: the controller has had the bucket forget it, or the next to write it reads it.
    pub fn forget_old(&mut self, after: Duration) {
        self.removed.retain(|_, (_, since)| since.elapsed() < after);
    }

    fn note(&mut self, key: &Key) {
        if let Changed::Keys(keys) = &mut self.changed {
            keys.insert(key.clone());
            if keys.len() > CHANGED_MAX {
                self.changed = Changed::All;
            }
        }
    }

    /// Takes a document that was read or written. An older one than is known changes nothing.
    pub fn apply(&mut self, key: &Key, revision: u64, value: Option<&[u8]>) {
        if self.revision(key).is_some_and(|known| known >= revision) {
            return;
        }
        let document = match value.map(|bytes| Document::read(key, bytes)) {
            None => {
                self.drop_key(key);
                self.removed.insert(key.clone(), (revision, Instant::now()));
                self.note(key);
                return;
            }
            Some(Ok(document)) => document,
            Some(Err(error)) => {
                tracing::warn!(%key, %error, "a document of the cluster is not understood, perhaps of a newer moat");
                self.unreadable.insert(key.clone());
                self.note(key);
                return;
            }
        };
        self.removed.remove(key);
        self.unreadable.remove(key);
        self.keep(key, revision, document);
        if !matches!(key, Key::Beat(_) | Key::Barrier(_) | Key::Lease) {
            self.note(key);
        }
    }

    fn keep(&mut self, key: &Key, revision: u64, document: Document) {
        match (key, document) {
            (Key::Job(of), Document::Job(record)) => {
                self.jobs.insert(of.clone(), Held { revision, value: Arc::from(record) });
            }
            (Key::Version(of, number), Document::Version(record)) => {
                self.versions.entry(of.clone()).or_default().insert(*number, Arc::from(record));
            }
            (Key::Outcome(of), Document::Outcome(outcome)) => {
                self.disown(of);
                let ids = outcome.allocations.iter().map(|a| (a.id.clone(), of.clone()));
                self.owners.extend(ids);
                self.outcomes.insert(of.clone(), Held { revision, value: Arc::from(outcome) });
            }
            (Key::Fence(node), Document::Fence(fence)) => {
                self.fences.insert(node.clone(), Held { revision, value: Arc::new(fence) });
            }
            (Key::Facts(node), Document::Facts(facts)) => {
                self.facts.insert(node.clone(), Held { revision, value: Arc::from(facts) });
            }
            (Key::Wish(node), Document::Wish(wish)) => {
                self.wishes.insert(node.clone(), Held { revision, value: Arc::new(wish) });
            }
            (Key::Beat(node), Document::Beat(beat)) => {
                self.beats.insert(node.clone(), Seen { revision, beat, since: Instant::now() });
            }
            (Key::Lease, Document::Lease(record)) => {
                self.lease = Some(Held { revision, value: Arc::new(record) });
            }
            (Key::Status(id), Document::Status(status)) => {
                self.statuses.insert(id.clone(), Held { revision, value: Arc::from(status) });
            }
            _ => {}
        }
    }

    fn disown(&mut self, of: &JobKey) {
        let Some(old) = self.outcomes.get(of).map(|held| Arc::clone(&held.value)) else { return };
        for allocation in &old.allocations {
            self.owners.remove(&allocation.id);
        }
    }

    /// The revision a document is known at.
    pub fn revision(&self, key: &Key) -> Option<u64> {
        let live = match key {
            Key::Job(of) => self.jobs.get(of).map(|held| held.revision),
            Key::Outcome(of) => self.outcomes.get(of).map(|held| held.revision),
            Key::Fence(node) => self.fences.get(node).map(|held| held.revision),
            Key::Facts(node) => self.facts.get(node).map(|held| held.revision),
            Key::Wish(node) => self.wishes.get(node).map(|held| held.revision),
            Key::Beat(node) => self.beats.get(node).map(|seen| seen.revision),
            Key::Lease => self.lease.as_ref().map(|held| held.revision),
            Key::Status(id) => self.statuses.get(id).map(|held| held.revision),
            Key::Version(..) | Key::Barrier(_) => None,
        };
        live.or_else(|| self.removed.get(key).map(|(revision, _)| *revision))
    }

    /// The revision over which something is written that is not there: of its removal, or 0. Nothing if it is there.
    pub fn revision_of_none(&self, key: &Key) -> Option<u64> {
        match self.removed.get(key) {
            Some((revision, _)) => Some(*revision),
            None if self.revision(key).is_some() => None,
            None => Some(0),
        }
    }

    fn drop_key(&mut self, key: &Key) {
        match key {
            Key::Job(of) => drop(self.jobs.remove(of)),
            Key::Version(of, number) => {
                if let Some(versions) = self.versions.get_mut(of) {
                    versions.remove(number);
                    if versions.is_empty() {
                        self.versions.remove(of);
                    }
                }
            }
            Key::Outcome(of) => {
                self.disown(of);
                self.outcomes.remove(of);
            }
            Key::Fence(node) => drop(self.fences.remove(node)),
            Key::Facts(node) => drop(self.facts.remove(node)),
            Key::Wish(node) => drop(self.wishes.remove(node)),
            Key::Beat(node) => drop(self.beats.remove(node)),
            Key::Lease => self.lease = None,
            Key::Status(id) => drop(self.statuses.remove(id)),
            Key::Barrier(_) => {}
        }
        self.unreadable.remove(key);
    }

    fn keys_of(&self, bucket: &str) -> BTreeSet<Key> {
        match bucket {
            JOBS => {
                let jobs = self.jobs.keys().cloned().map(Key::Job);
                let outcomes = self.outcomes.keys().cloned().map(Key::Outcome);
                let versions = self.versions.iter();
                let versions = versions.flat_map(|(of, all)| all.keys().map(|n| Key::Version(of.clone(), *n)));
                jobs.chain(outcomes).chain(versions).chain(self.fences.keys().cloned().map(Key::Fence)).collect()
            }
            NODES => {
                let facts = self.facts.keys().cloned().map(Key::Facts);
                let wishes = self.wishes.keys().cloned().map(Key::Wish);
                let lease = self.lease.as_ref().map(|_| Key::Lease);
                facts.chain(wishes).chain(self.beats.keys().cloned().map(Key::Beat)).chain(lease).collect()
            }
            _ => self.statuses.keys().cloned().map(Key::Status).collect(),
        }
    }

    /// A watch has been through all there is: what it did not meet is gone.
    fn found(&mut self, bucket: &'static str, met: &BTreeSet<Key>) {
        let gone: Vec<Key> = self.keys_of(bucket).into_iter().filter(|key| !met.contains(key)).collect();
        for key in gone {
            self.drop_key(&key);
            self.note(&key);
        }
        self.removed.retain(|key, _| key.bucket() != bucket || met.contains(key));
        self.synced.insert(bucket);
    }

    /// The bucket is another one: nothing that was known of it counts.
    fn renewed(&mut self, bucket: &'static str, created: i128) {
        if self.created.insert(bucket, created).is_some_and(|old| old != created) {
            for key in self.keys_of(bucket) {
                self.drop_key(&key);
            }
            self.removed.retain(|key, _| key.bucket() != bucket);
            self.reached.remove(bucket);
            self.changed = Changed::All;
        }
    }
}

/// This node's copy. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Replica {
    state: Arc<Mutex<State>>,
    news: Arc<watch::Sender<u64>>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { state: Arc::default(), news: Arc::new(watch::Sender::new(0)) }
    }
}

impl Replica {
    /// What is known. Not to be held for long.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever anything changed.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Takes what was written or read by ourselves.
    pub fn apply(&self, key: &Key, revision: u64, value: Option<&[u8]>) {
        self.state().apply(key, revision, value);
        self.tell();
    }

    /// Reads from where it is certain what somebody else has changed.
    pub async fn reread(&self, store: &Store, key: &Key) -> Result<(), crate::error::Error> {
        match store.read(key).await? {
            Some(entry) => self.apply(key, entry.revision, entry.value.as_deref()),
            None => self.state().forget_absent(key),
        }
        Ok(())
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Watches the three buckets until it is dropped.
    pub async fn follow(&self, store: &Store) {
        tokio::join!(self.follow_one(store, JOBS), self.follow_one(store, NODES), self.follow_one(store, STATUS));
    }

    async fn follow_one(&self, store: &Store, bucket: &'static str) {
        for tries in 1_u32.. {
            if let Err(error) = self.follow_once(store, bucket).await {
                tracing::debug!(bucket, error = %error.chain(), "watching begins anew");
                // Somebody may have removed it. Rarely: asking takes long while there is no answer to be had.
                if tries.is_multiple_of(ENSURE_EVERY) {
                    let _ = store.ensure().await;
                }
            }
            self.state().synced.remove(bucket);
            self.tell();
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow_once(&self, store: &Store, bucket: &'static str) -> Result<(), crate::error::Error> {
        let mut watch = store.watch(bucket).await?;
        self.state().renewed(bucket, watch.created);
        let mut met = BTreeSet::new();
        let mut whole = watch.empty;
        if whole {
            self.state().found(bucket, &met);
            self.tell();
        }
        loop {
            let entry = watch.next().await?;
            let key = self.take(bucket, &entry);
            if whole {
                self.tell();
                continue;
            }
            met.extend(key);
            if entry.current {
                whole = true;
                self.state().found(bucket, &met);
                met = BTreeSet::new();
                self.tell();
            }
        }
    }

    fn take(&self, bucket: &'static str, entry: &Entry) -> Option<Key> {
        let key = Key::parse(bucket, &entry.key);
        let mut state = self.state();
        match &key {
            Some(key) => state.apply(key, entry.revision, entry.value.as_deref()),
            None => tracing::debug!(bucket, key = entry.key, "not a key of ours"),
        }
        state.reached.insert(bucket, entry.revision);
        key
    }

    /// Waits until everything was read.
    pub async fn synced(&self) {
        let mut news = self.news();
        while !self.state().is_synced() {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the bucket of jobs was seen as far as this.
    pub async fn reaches(&self, bucket: &'static str, revision: u64) {
        let mut news = self.news();
        loop {
            let there = {
                let state = self.state();
                state.is_synced() && state.reached(bucket) >= revision
            };
            if there || news.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::{JobId, Namespace};

    fn node(letter: char) -> NodeId {
        NodeId::parse(&format!("N{}", letter.to_string().repeat(55))).unwrap()
    }

    #[test]
    fn older_documents_change_nothing_and_what_is_not_met_again_is_gone() {
        let mut state = State::default();
        let (a, b) = (Key::Fence(node('A')), Key::Fence(node('B')));
        let down = br#"{"epoch":1,"down":true}"#;
        state.apply(&a, 5, Some(down));
        state.apply(&b, 6, Some(down));
        state.apply(&a, 4, None);
        assert_eq!(state.fences.len(), 2);
        state.found(JOBS, &BTreeSet::from([a.clone()]));
        assert_eq!(state.fences.keys().collect::<Vec<_>>(), [&node('A')]);
        state.apply(&a, 7, None);
        assert_eq!(state.revision(&a), Some(7));
        assert!(state.fences.is_empty());
        assert_eq!(state.take_changed(), Changed::Keys(BTreeSet::from([a, b])));
    }

    #[test]
    fn a_document_of_a_newer_moat_is_left_alone() {
        let mut state = State::default();
        let key = JobKey { namespace: Namespace::default_namespace(), job: JobId::parse("x").unwrap() };
        state.apply(&Key::Outcome(key.clone()), 1, Some(b"{\"allocations\":7}"));
        assert!(state.is_foreign(&key));
        state.apply(&Key::Outcome(key.clone()), 2, Some(b"{\"allocations\":[],\"deployment\":null}"));
        assert!(!state.is_foreign(&key) && state.outcomes.contains_key(&key));
    }

    #[test]
    fn what_was_removed_is_not_remembered_for_ever() {
        let mut state = State::default();
        let key = Key::Fence(node('A'));
        state.apply(&key, 5, Some(br#"{"epoch":1,"down":true}"#));
        assert_eq!(state.revision_of_none(&key), None);
        state.apply(&key, 6, None);
        assert_eq!(state.revision_of_none(&key), Some(6));
        state.forget_removed(&key, 5);
        state.forget_old(Duration::from_secs(60));
        assert_eq!(state.revision_of_none(&key), Some(6), "written since, and not long ago");
        state.forget_old(Duration::ZERO);
        assert!(state.removed.is_empty());
        assert_eq!(state.revision_of_none(&key), Some(0));
    }
}
