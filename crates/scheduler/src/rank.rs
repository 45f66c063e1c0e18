//! Which of the nodes that may be used is the best: the score. In millionths, as whole numbers, so that it is the same
//! on every machine.

use std::collections::{BTreeMap, HashMap};

use moat_model::job::{Job, NodeFacts, Spread, TaskGroup};

use crate::cluster::node::sum;
use crate::constraint::Check;
use crate::demand::Demand;
use crate::feasible::{Board, Slot};
use crate::values::Values;

/// The best a part of the score can be.
const ONE: i64 = 1_000_000;

/// What makes nodes better or worse for a group.
#[derive(Debug)]
pub(crate) struct Ranking {
    affinities: Vec<(Check, i64)>,
    spreads: Vec<Spreading>,
    /// A node for each combination of values that spreads are about: what they say of it, they say of all like it.
    kinds: Vec<usize>,
    kind_of: Vec<usize>,
    count: i64,
}

/// One spread, and how many instances have which value now.
#[derive(Debug)]
struct Spreading {
    weight: i64,
    /// Values that nodes have.
    values: Values,
    /// Of each value, how many instances should have it, in millionths; none: it is one of the others.
    targets: Vec<Option<i64>>,
    /// No value is named: all should have as many.
    is_even: bool,
    /// How many should have other values, together, in millionths.
    others: i64,
    /// Of each value, how many instances have it.
    has: Vec<i64>,
    /// How many have any, and how many one of the others: of nodes that take nothing new as well.
    all: i64,
    all_others: i64,
}

impl Ranking {
    pub(crate) fn new(job: &Job, group: &TaskGroup, board: &Board<'_>) -> Self {
        let of_tasks = group.tasks.iter().flat_map(|task| &task.affinities);
        let affinities = job.affinities.iter().chain(&group.affinities).chain(of_tasks);
        let affinities = affinities.map(|one| (Check::new(&one.constraint), i64::from(one.weight))).collect();
        let count = i64::from(group.count.max(1));
        let spreads = group.spreads.iter().chain(&job.spreads);
        let spreads: Vec<_> = spreads.map(|spread| Spreading::new(spread, &group.name, count, board)).collect();
        let (mut kinds, mut known) = (Vec::new(), HashMap::new());
        let kind = |at: usize| {
            let values: Vec<_> = spreads.iter().map(|spread| spread.values.of_slot(at)).collect();
            *known.entry(values).or_insert_with(|| {
                kinds.push(at);
                kinds.len().saturating_sub(1)
            })
        };
        let kind_of = (0..board.slots.len()).map(kind).collect();
        Self { affinities, spreads, kinds, kind_of, count }
    }

    /// An instance was placed: values have one more.
    pub(crate) fn placed(&mut self, at: usize) {
        for spread in &mut self.spreads {
            if let Some(value) = spread.values.of_slot(at) {
                spread.has(value, 1);
            }
        }
    }

    /// How much the node is liked, by affinities alone: it does not change while a plan is made.
    pub(crate) fn affinity(&self, facts: &NodeFacts) -> Option<i64> {
        let whole: i64 = self.affinities.iter().map(|(_, weight)| weight.abs()).sum();
        if whole == 0 {
            return None;
        }
        let fulfilled: i64 =
            self.affinities.iter().filter(|(check, _)| check.holds(facts)).map(|(_, weight)| weight).sum();
        (fulfilled != 0).then(|| fulfilled * ONE / whole)
    }

    /// The parts of the score that stay as they are while nothing changes on the node.
    pub(crate) fn standing(&self, slot: &Slot<'_>, group: &str, demand: &Demand, affinity: Option<i64>) -> Standing {
        let beside = slot.instances.get(group).copied().map_or(0, i64::from);
        let crowded = (beside > 0).then(|| -((beside + 1) * ONE / self.count).min(ONE));
        Standing::default().with(Some(packing(slot, demand))).with(crowded).with(affinity)
    }

    /// What spreads say of each kind of node, until the next instance is placed.
    pub(crate) fn spreads(&self) -> Vec<Option<i64>> {
        self.kinds.iter().map(|at| self.spread(*at)).collect()
    }

    /// The score: the mean of the parts that apply. `spreads`: what they say now. `failed_there`: it is better elsewhere.
    pub(crate) fn score(&self, standing: Standing, at: usize, spreads: &[Option<i64>], failed_there: bool) -> i64 {
        let spread = self.kind_of.get(at).and_then(|kind| spreads.get(*kind)).copied().flatten();
        let whole = standing.with(failed_there.then_some(-ONE)).with(spread);
        whole.total / whole.parts.max(1)
    }

    fn spread(&self, at: usize) -> Option<i64> {
        let whole: i64 = self.spreads.iter().map(|spread| spread.weight).sum();
        if whole == 0 {
            return None;
        }
        Some(self.spreads.iter().map(|spread| spread.boost(at) * spread.weight / whole).sum())
    }
}

/// Parts of a score, added up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing {
    total: i64,
    parts: i64,
}

impl Standing {
    fn with(self, part: Option<i64>) -> Self {
        part.map_or(self, |part| Self { total: self.total + part, parts: self.parts + 1 })
    }
}

impl Spreading {
    fn new(spread: &Spread, group: &str, count: i64, board: &Board<'_>) -> Self {
        let of = |percent: u8| i64::from(percent).saturating_mul(count).saturating_mul(ONE / 100);
        let named: i64 = spread.targets.iter().map(|target| i64::from(target.percent)).sum();
        let rest = u8::try_from((100 - named).clamp(0, 100)).unwrap_or(0);
        let values = Values::new(&spread.attribute, board);
        let wanted: BTreeMap<&str, i64> =
            spread.targets.iter().map(|target| (target.value.as_str(), of(target.percent))).collect();
        let mut targets = vec![None; values.len()];
        for (value, number) in values.iter() {
            if let Some(target) = targets.get_mut(number) {
                *target = wanted.get(value).copied();
            }
        }
        let has = vec![0; values.len()];
        let (weight, is_even, others) = (i64::from(spread.weight), spread.targets.is_empty(), of(rest));
        let mut spreading = Self { weight, values, targets, is_even, others, has, all: 0, all_others: 0 };
        for (at, slot) in board.slots.iter().enumerate() {
            let instances = slot.instances.get(group).copied().map_or(0, i64::from);
            if let Some(value) = spreading.values.of_slot(at) {
                spreading.has(value, instances);
            }
        }
        for (node, _) in board.elsewhere.iter().filter(|(_, of)| of == group) {
            match spreading.values.of(node.facts()) {
                Some((_, Some(number))) => spreading.has(number, 1),
                Some((value, None)) => {
                    let is_other = !wanted.contains_key(value.as_ref());
                    spreading.all += 1;
                    spreading.all_others += i64::from(is_other);
                }
                None => {}
            }
        }
        spreading
    }

    /// So many more instances have this value.
    fn has(&mut self, value: usize, instances: i64) {
        if let Some(has) = self.has.get_mut(value) {
            *has += instances;
        }
        self.all += instances;
        if self.target(value).is_none() {
            self.all_others += instances;
        }
    }

    fn target(&self, value: usize) -> Option<i64> {
        self.targets.get(value).copied().flatten()
    }

    /// How much another instance of this value is missing: from 1, none is there of those that should, to -1.
    fn boost(&self, at: usize) -> i64 {
        let Some(value) = self.values.of_slot(at) else { return -ONE };
        let count = self.has.get(value).copied().unwrap_or(0);
        let (wanted, has) = if self.is_even {
            let values = i64::try_from(self.values.len().max(1)).unwrap_or(i64::MAX);
            ((self.all + 1) * ONE / values, count)
        } else if let Some(wanted) = self.target(value) {
            (wanted, count)
        } else {
            (self.others, self.all_others)
        };
        // Enough is enough: what else speaks for the node must not outweigh a target that is reached.
        if wanted <= has * ONE {
            return -ONE;
        }
        ((wanted - has * ONE).saturating_mul(1000) / wanted * (ONE / 1000)).clamp(-ONE, ONE)
    }
}

/// How well an instance fills the node: how much of processor and memory is used then, less half of how unevenly.
fn packing(slot: &Slot<'_>, demand: &Demand) -> i64 {
    let facts = slot.node.facts();
    let after = sum(slot.used, demand.on(facts));
    let share = |used: u64, of: u64| {
        let share = u128::from(used) * u128::from(ONE.unsigned_abs()) / u128::from(of.max(1));
        i64::try_from(share).unwrap_or(ONE).min(ONE)
    };
    let cpu = share(after.cpu_mhz, facts.capacity.cpu_mhz);
    let memory = share(after.memory_mb, facts.capacity.memory_mb);
    i64::midpoint(cpu, memory) - (cpu - memory).abs() / 4
}
