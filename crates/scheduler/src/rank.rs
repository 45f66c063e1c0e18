//! Which of the nodes that may be used is the best: the score. In millionths, as whole numbers, so that it is the same
//! on every machine.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::NodeId;
use moat_model::job::{Job, NodeFacts, TaskGroup};

use crate::cluster::node::sum;
use crate::constraint::{Check, resolve};
use crate::demand::Demand;
use crate::feasible::{Board, Slot};

/// The best a part of the score can be.
const ONE: i64 = 1_000_000;

/// What makes nodes better or worse for a group.
#[derive(Debug)]
pub(crate) struct Ranking {
    affinities: Vec<(Check, i64)>,
    spreads: Vec<Spreading>,
    count: i64,
}

/// One spread, and how many instances have which value now.
#[derive(Debug)]
struct Spreading {
    attribute: String,
    weight: i64,
    /// Value and how many instances should have it, in millionths.
    targets: BTreeMap<String, i64>,
    /// How many should have other values, together, in millionths.
    others: i64,
    /// Values that nodes have.
    values: BTreeSet<String>,
    has: BTreeMap<String, i64>,
}

impl Ranking {
    pub(crate) fn new(job: &Job, group: &TaskGroup, board: &Board<'_>) -> Self {
        let of_tasks = group.tasks.iter().flat_map(|task| &task.affinities);
        let affinities = job.affinities.iter().chain(&group.affinities).chain(of_tasks);
        let affinities = affinities.map(|one| (Check::new(&one.constraint), i64::from(one.weight))).collect();
        let count = i64::from(group.count.max(1));
        let spread = |spread: &moat_model::job::Spread| {
            let of = |percent: u8| i64::from(percent).saturating_mul(count).saturating_mul(ONE / 100);
            let named: i64 = spread.targets.iter().map(|target| i64::from(target.percent)).sum();
            let rest = u8::try_from((100 - named).clamp(0, 100)).unwrap_or(0);
            let value = |facts: &NodeFacts| resolve(&spread.attribute, facts).map(|value| value.into_owned());
            let mut has = BTreeMap::new();
            let mut seen = |facts: &NodeFacts, instances: i64| {
                if let Some(value) = value(facts) {
                    *has.entry(value).or_insert(0) += instances;
                }
            };
            for slot in &board.slots {
                seen(slot.node.facts(), slot.instances.get(&group.name).copied().map_or(0, i64::from));
            }
            for (node, _) in board.elsewhere.iter().filter(|(_, of)| of == &group.name) {
                seen(node.facts(), 1);
            }
            Spreading {
                attribute: spread.attribute.clone(),
                weight: i64::from(spread.weight),
                targets: spread.targets.iter().map(|target| (target.value.clone(), of(target.percent))).collect(),
                others: of(rest),
                values: board.slots.iter().filter_map(|slot| value(slot.node.facts())).collect(),
                has,
            }
        };
        let spreads = group.spreads.iter().chain(&job.spreads).map(spread).collect();
        Self { affinities, spreads, count }
    }

    /// An instance was placed: values have one more.
    pub(crate) fn placed(&mut self, facts: &NodeFacts) {
        for spread in &mut self.spreads {
            let value = resolve(&spread.attribute, facts).map(|value| value.into_owned());
            if let Some(value) = value {
                *spread.has.entry(value).or_insert(0) += 1;
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

    /// The score: the mean of the parts that apply.
    pub(crate) fn score(
        &self,
        slot: &Slot<'_>,
        group: &str,
        demand: &Demand,
        affinity: Option<i64>,
        avoid: &BTreeSet<NodeId>,
    ) -> i64 {
        let facts = slot.node.facts();
        let beside = slot.instances.get(group).copied().map_or(0, i64::from);
        let crowded = (beside > 0).then(|| -((beside + 1) * ONE / self.count).min(ONE));
        let failed_there = avoid.contains(&facts.id).then_some(-ONE);
        let parts = [Some(packing(slot, demand)), crowded, failed_there, affinity, self.spread(facts)];
        let parts = parts.into_iter().flatten();
        let (total, number) = parts.fold((0_i64, 0_i64), |(total, number), part| (total + part, number + 1));
        total / number.max(1)
    }

    fn spread(&self, facts: &NodeFacts) -> Option<i64> {
        let whole: i64 = self.spreads.iter().map(|spread| spread.weight).sum();
        if whole == 0 {
            return None;
        }
        Some(self.spreads.iter().map(|spread| spread.boost(facts) * spread.weight / whole).sum())
    }
}

impl Spreading {
    /// How much another instance of this value is missing: from 1, none is there of those that should, to -1.
    fn boost(&self, facts: &NodeFacts) -> i64 {
        let Some(value) = resolve(&self.attribute, facts) else { return -ONE };
        let count = |value: &str| self.has.get(value).copied().unwrap_or(0);
        let (wanted, has) = if self.targets.is_empty() {
            let total: i64 = self.has.values().sum();
            let values = i64::try_from(self.values.len().max(1)).unwrap_or(i64::MAX);
            ((total + 1) * ONE / values, count(&value))
        } else if let Some(wanted) = self.targets.get(value.as_ref()) {
            (*wanted, count(&value))
        } else {
            let others = self.has.iter().filter(|(value, _)| !self.targets.contains_key(*value));
            (self.others, others.map(|(_, has)| has).sum())
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
