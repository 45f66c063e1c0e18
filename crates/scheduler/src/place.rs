//! Finding a node for one instance after the other of a group.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use moat_model::NodeId;
use moat_model::job::{Job, PlacementFailure, TaskGroup};

use crate::demand::{Demand, demand};
use crate::feasible::{Board, Distinct, Filter, Slot};
use crate::occupied::{Occupied, instances};
use crate::rank::{Ranking, Standing};
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
    /// For each of the filter's `distinct_…` that is about a property.
    occupied: Vec<Option<Occupied>>,
    group: &'a str,
    demand: Demand,
    ranking: Ranking,
    candidates: Vec<Candidate>,
    /// Changes of the board that were looked at.
    read: usize,
}

/// A node, and what was worked out of it; that holds until something changes there.
#[derive(Debug)]
struct Candidate {
    slot: usize,
    affinity: Option<i64>,
    /// Decides between equals; another order for each group, so that jobs do not meet on the same node.
    lot: u64,
    fits: bool,
    standing: Standing,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(job: &'a Job, group: &'a TaskGroup, board: &Board<'_>) -> Self {
        let filter = Filter::new(job, group);
        let ranking = Ranking::new(job, group, board);
        let demand = demand(group);
        let salt = number_of(&format!("{}/{}/{}", job.namespace, job.id, group.name));
        let candidate = |(at, slot): (usize, &Slot<'_>)| {
            let facts = slot.node.facts();
            if !filter.admits(facts) {
                return None;
            }
            let lot = mix(salt ^ number_of(facts.id.as_str()));
            let affinity = ranking.affinity(facts);
            let standing = ranking.standing(slot, &group.name, &demand, affinity);
            Some(Candidate { slot: at, affinity, lot, fits: slot.lacks(&demand).is_none(), standing })
        };
        let candidates = board.slots.iter().enumerate().filter_map(candidate).collect();
        let occupied = |distinct: &Distinct| {
            let mut occupied = Occupied::new(distinct.attribute.as_deref()?, board);
            for (at, slot) in board.slots.iter().enumerate() {
                occupied.set(at, instances(slot, distinct, &group.name));
            }
            Some(occupied)
        };
        let occupied = filter.distinct.iter().map(occupied).collect();
        Self { filter, occupied, group: &group.name, demand, ranking, candidates, read: board.changed.len() }
    }

    /// The nodes that may be used, whatever is free on them.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = usize> {
        self.candidates.iter().map(|candidate| candidate.slot)
    }

    /// Takes the best place.
    pub(crate) fn take(&mut self, board: &mut Board<'_>, wanted: &Wanted) -> Result<NodeId, NoPlace> {
        self.catch_up(board);
        let within = self.within(board, wanted.only.as_ref());
        let open = |candidate: &Candidate| {
            let slot = board.slots.get(candidate.slot);
            slot.filter(|slot| self.distinct(slot, candidate.slot).is_none())
        };
        let fits = |candidate: &&Candidate| candidate.fits && open(candidate).is_some();
        let preferred = wanted.prefer.as_ref().and_then(|node| board.slot(node));
        let preferred = preferred.and_then(|at| within.iter().find(|candidate| candidate.slot == at)).filter(fits);
        let avoided: BTreeSet<usize> = wanted.avoid.iter().filter_map(|node| board.slot(node)).collect();
        // One node is the best of one, whatever spreads say.
        let spreads = if within.len() > 1 { self.ranking.spreads() } else { Vec::new() };
        let score = |candidate: &&Candidate| {
            let (at, standing) = (candidate.slot, candidate.standing);
            (self.ranking.score(standing, at, &spreads, avoided.contains(&at)), Reverse(candidate.lot))
        };
        let best = preferred.or_else(|| within.iter().filter(fits).max_by_key(score));
        let Some(at) = best.map(|candidate| candidate.slot) else {
            let later = |candidate: &Candidate| open(candidate).is_some_and(|slot| slot.fits_later(&self.demand));
            if within.iter().any(later) {
                return Err(NoPlace::NotYet);
            }
            return Err(NoPlace::Nowhere(Box::new(self.found_none(board, wanted.only.as_ref()))));
        };
        board.gives(at, self.group, &self.demand);
        let Some(slot) = board.slots.get(at) else { return Err(NoPlace::NotYet) };
        self.ranking.placed(at);
        Ok(slot.node.facts().id.clone())
    }

    /// The candidates, or the one that is wanted.
    fn within(&self, board: &Board<'_>, only: Option<&NodeId>) -> &[Candidate] {
        let Some(only) = only else { return &self.candidates };
        let found = board.slot(only).and_then(|at| self.candidate(at));
        found.and_then(|at| self.candidates.get(at..=at)).unwrap_or_default()
    }

    /// Where among the candidates, which are in the board's order, a node is.
    fn candidate(&self, slot: usize) -> Option<usize> {
        self.candidates.binary_search_by_key(&slot, |one| one.slot).ok()
    }

    /// Works out anew what has changed. From one instance to the next that is one node of thousands.
    fn catch_up(&mut self, board: &Board<'_>) {
        let changed = board.changed.get(self.read..).unwrap_or_default();
        self.read = board.changed.len();
        for at in changed {
            let Some(slot) = board.slots.get(*at) else { continue };
            for (distinct, occupied) in self.filter.distinct.iter().zip(&mut self.occupied) {
                if let Some(occupied) = occupied {
                    occupied.set(*at, instances(slot, distinct, self.group));
                }
            }
            if let Some(candidate) = self.candidate(*at).and_then(|at| self.candidates.get_mut(at)) {
                candidate.standing = self.ranking.standing(slot, self.group, &self.demand, candidate.affinity);
                candidate.fits = slot.lacks(&self.demand).is_none();
            }
        }
        for (distinct, occupied) in self.filter.distinct.iter().zip(&mut self.occupied) {
            if let Some(occupied) = occupied {
                occupied.set_elsewhere(board, distinct, self.group);
            }
        }
    }

    /// Which `distinct_…` keeps another instance off the node.
    fn distinct(&self, slot: &Slot<'_>, at: usize) -> Option<&str> {
        let against = |(distinct, occupied): &(&Distinct, &Option<Occupied>)| match occupied {
            None => instances(slot, distinct, self.group) >= distinct.most,
            Some(occupied) => occupied.is_full(at, distinct.most),
        };
        self.filter.distinct.iter().zip(&self.occupied).find(against).map(|(distinct, _)| distinct.words.as_str())
    }

    /// Why no node can be used.
    pub(crate) fn why(&mut self, board: &Board<'_>, only: Option<&NodeId>) -> PlacementFailure {
        self.catch_up(board);
        self.found_none(board, only)
    }

    fn found_none(&self, board: &Board<'_>, only: Option<&NodeId>) -> PlacementFailure {
        let mut failure = PlacementFailure { unplaced: 1, ..PlacementFailure::default() };
        failure.available = self.filter.named_datacenters().map(|name| (name.clone(), 0)).collect();
        for (at, slot) in board.slots.iter().enumerate() {
            let facts = slot.node.facts();
            let looked_at = self.filter.in_pool(facts) && only.is_none_or(|only| only == &facts.id);
            if !looked_at || !self.filter.in_datacenter(facts) {
                continue;
            }
            bump(&mut failure.available, &facts.datacenter);
            failure.evaluated += 1;
            let excluded = self.filter.excludes(facts).or_else(|| self.distinct(slot, at).map(str::to_owned));
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
