//! Finding a node for one instance after the other of a group.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use moat_model::NodeId;
use moat_model::job::{Job, NodeFacts, PlacementFailure, TaskGroup};

use crate::constraint::resolve;
use crate::demand::{Demand, demand};
use crate::feasible::{Board, Distinct, Filter, Slot};
use crate::rank::Ranking;
use crate::seed::{mix, number_of};

/// What is wanted of the place of one instance.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Taken if it can be.
    pub(crate) prefer: Option<NodeId>,
    /// Only this.
    pub(crate) only: Option<NodeId>,
    /// Rather not these: it failed there.
    pub(crate) avoid: BTreeSet<NodeId>,
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NoPlace {
    /// There is one as soon as instances that should stop have ended.
    NotYet,
    /// There is none.
    Nowhere(Box<PlacementFailure>),
}

/// Finds places for instances of one group of one version.
#[derive(Debug)]
pub(crate) struct Placer<'a> {
    filter: Filter<'a>,
    group: &'a str,
    demand: Demand,
    ranking: Ranking,
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    slot: usize,
    affinity: Option<i64>,
    /// Decides between equals; another order for each group, so that jobs do not meet on the same node.
    lot: u64,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(job: &'a Job, group: &'a TaskGroup, board: &Board<'_>) -> Self {
        let filter = Filter::new(job, group);
        let ranking = Ranking::new(job, group, board);
        let salt = number_of(&format!("{}/{}/{}", job.namespace, job.id, group.name));
        let candidate = |(at, slot): (usize, &Slot<'_>)| {
            let facts = slot.node.facts();
            let lot = mix(salt ^ number_of(facts.id.as_str()));
            filter.admits(facts).then(|| Candidate { slot: at, affinity: ranking.affinity(facts), lot })
        };
        let candidates = board.slots.iter().enumerate().filter_map(candidate).collect();
        Self { filter, group: &group.name, demand: demand(group), ranking, candidates }
    }

    /// The nodes that may be used, whatever is free on them.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = usize> {
        self.candidates.iter().map(|candidate| candidate.slot)
    }

    /// Takes the best place.
    pub(crate) fn take(&mut self, board: &mut Board<'_>, wanted: &Wanted) -> Result<NodeId, NoPlace> {
        let taken = self.taken(board);
        let within = self.within(board, wanted.only.as_ref());
        let open = |candidate: &Candidate| {
            board.slots.get(candidate.slot).filter(|slot| self.distinct(slot, &taken).is_none())
        };
        let fits = |candidate: &&Candidate| open(candidate).is_some_and(|slot| slot.lacks(&self.demand).is_none());
        let preferred = wanted.prefer.as_ref().and_then(|node| board.slot(node));
        let preferred = preferred.and_then(|at| within.iter().find(|candidate| candidate.slot == at)).filter(fits);
        let score = |candidate: &&Candidate| {
            let slot = board.slots.get(candidate.slot);
            let points = slot.map_or(i64::MIN, |slot| {
                self.ranking.score(slot, self.group, &self.demand, candidate.affinity, &wanted.avoid)
            });
            (points, Reverse(candidate.lot))
        };
        let best = preferred.or_else(|| within.iter().filter(fits).max_by_key(score));
        let Some(at) = best.map(|candidate| candidate.slot) else {
            let later = |candidate: &Candidate| open(candidate).is_some_and(|slot| slot.fits_later(&self.demand));
            if within.iter().any(later) {
                return Err(NoPlace::NotYet);
            }
            return Err(NoPlace::Nowhere(Box::new(self.why(board, wanted.only.as_ref()))));
        };
        board.gives(at, self.group, &self.demand);
        let facts = board.slots.get(at).map(|slot| slot.node.facts());
        let Some(facts) = facts else { return Err(NoPlace::NotYet) };
        self.ranking.placed(facts);
        Ok(facts.id.clone())
    }

    /// The candidates, or the one that is wanted.
    fn within(&self, board: &Board<'_>, only: Option<&NodeId>) -> &[Candidate] {
        let Some(only) = only else { return &self.candidates };
        let found = board.slot(only).and_then(|at| self.candidates.binary_search_by_key(&at, |one| one.slot).ok());
        found.and_then(|at| self.candidates.get(at..=at)).unwrap_or_default()
    }

    /// Instances by value, for each `distinct_property`.
    fn taken(&self, board: &Board<'_>) -> Vec<BTreeMap<String, u32>> {
        let count = |distinct: &Distinct| {
            let mut taken: BTreeMap<String, u32> = BTreeMap::new();
            let Some(attribute) = &distinct.attribute else { return taken };
            let mut seen = |facts: &NodeFacts, instances: u32| {
                if instances > 0
                    && let Some(value) = resolve(attribute, facts)
                {
                    *taken.entry(value.into_owned()).or_default() += instances;
                }
            };
            for slot in &board.slots {
                seen(slot.node.facts(), self.instances(slot, distinct));
            }
            for (node, of) in &board.elsewhere {
                seen(node.facts(), u32::from(distinct.of_job || of == self.group));
            }
            taken
        };
        self.filter.distinct.iter().map(count).collect()
    }

    fn instances(&self, slot: &Slot<'_>, distinct: &Distinct) -> u32 {
        if distinct.of_job {
            slot.instances.values().sum()
        } else {
            slot.instances.get(self.group).copied().unwrap_or(0)
        }
    }

    /// Which `distinct_…` keeps another instance off the node.
    fn distinct(&self, slot: &Slot<'_>, taken: &[BTreeMap<String, u32>]) -> Option<&str> {
        let against = |(distinct, taken): &(&Distinct, &BTreeMap<String, u32>)| match &distinct.attribute {
            None => self.instances(slot, distinct) >= distinct.most,
            Some(attribute) => resolve(attribute, slot.node.facts())
                .is_none_or(|value| taken.get(value.as_ref()).is_some_and(|count| *count >= distinct.most)),
        };
        self.filter.distinct.iter().zip(taken).find(against).map(|(distinct, _)| distinct.words.as_str())
    }

    /// Why no node can be used.
    pub(crate) fn why(&self, board: &Board<'_>, only: Option<&NodeId>) -> PlacementFailure {
        let taken = self.taken(board);
        let mut failure = PlacementFailure { unplaced: 1, ..PlacementFailure::default() };
        failure.available = self.filter.named_datacenters().map(|name| (name.clone(), 0)).collect();
        for slot in &board.slots {
            let facts = slot.node.facts();
            let looked_at = self.filter.in_pool(facts) && only.is_none_or(|only| only == &facts.id);
            if !looked_at || !self.filter.in_datacenter(facts) {
                continue;
            }
            bump(&mut failure.available, &facts.datacenter);
            failure.evaluated += 1;
            let excluded = self.filter.excludes(facts).or_else(|| self.distinct(slot, &taken).map(str::to_owned));
            if let Some(words) = excluded {
                failure.filtered += 1;
                bump(&mut failure.constraint_filtered, &words);
                if !facts.class.is_empty() {
                    bump(&mut failure.class_filtered, &facts.class);
                }
            } else if let Some(lack) = slot.lacks(&self.demand) {
                failure.exhausted += 1;
                bump(&mut failure.dimension_exhausted, &lack);
                if !facts.class.is_empty() {
                    bump(&mut failure.class_exhausted, &facts.class);
                }
            }
        }
        failure
    }
}

fn bump(counts: &mut BTreeMap<String, u32>, name: &str) {
    let count = counts.entry(name.to_owned()).or_default();
    *count = count.saturating_add(1);
}
