//! What a pool does next for one shape, as a pure function of what it has.

use std::time::Duration;

use moat_model::{SandboxId, Timestamp};

/// First wait after a start failed; doubles with each that follows.
const BACK_OFF_INITIAL: Duration = Duration::from_millis(500);
/// Longest such wait: an operator who has mended what was wrong should not have to restart anything.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// How a shape is kept, as far as a decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Members that stand ready whatever the demand.
    pub min_ready: usize,
    /// Members that stand ready at most, after demand.
    pub max_ready: usize,
    /// What stands longer than this, and is more than wanted, goes.
    pub max_idle: Duration,
    /// Starts that may be begun now.
    pub room: usize,
}

/// One member that stands ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: SandboxId,
    /// When it was accepted.
    pub since: Timestamp,
    /// It is what the shape asks for now.
    pub current: bool,
}

/// What there is of a shape and how it fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stock {
    /// Members that stand ready, oldest first.
    pub ready: Vec<Member>,
    /// Members being started.
    pub starting: usize,
    /// Members asked for lately, within one interval.
    pub demand: usize,
    /// Starts that failed in a row.
    pub failures: u32,
    /// No start before this.
    pub wait_until: Option<Timestamp>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Members to start.
    pub start: usize,
    /// Members to delete.
    pub retire: Vec<SandboxId>,
}

/// How long no start is tried after failure number `failures` (from 1) in a row.
pub fn back_off(failures: u32) -> Duration {
    BACK_OFF_INITIAL.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACK_OFF_MAX)
}

/// Members wanted: as many as were asked for lately, within the bounds of the shape.
pub fn wanted(rules: &Rules, demand: usize) -> usize {
    demand.max(rules.min_ready).min(ceiling(rules))
}

fn ceiling(rules: &Rules) -> usize {
    rules.max_ready.max(rules.min_ready)
}

/// Decides. Stale members go at once, since nobody can take them; of the others only what is more than wanted, and that
/// not before it is old, so that a short lull does not undo what demand has built.
pub fn plan(rules: &Rules, stock: &Stock, now: Timestamp) -> Plan {
    let (current, stale): (Vec<&Member>, Vec<&Member>) = stock.ready.iter().partition(|member| member.current);
    let wanted = wanted(rules, stock.demand);
    let old = current.iter().filter(|member| now.since(member.since) >= rules.max_idle).count();
    let surplus = current.len().saturating_sub(wanted).min(old);
    let excess = current.len().saturating_sub(ceiling(rules));
    let going = current.iter().take(surplus.max(excess));
    let retire = stale.iter().chain(going).map(|member| member.id.clone()).collect();

    let waiting = stock.wait_until.is_some_and(|until| now < until);
    // After a failure one start at a time shows whether the next would fail too.
    let room = match (waiting, stock.failures) {
        (true, _) => 0,
        (false, 0) => rules.room,
        (false, _) => rules.room.min(1_usize.saturating_sub(stock.starting)),
    };
    Plan { start: wanted.saturating_sub(current.len() + stock.starting).min(room), retire }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { min_ready: 2, max_ready: 6, max_idle: Duration::from_secs(600), room: 3 };

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn member(n: u8, since: i64) -> Member {
        Member { id: SandboxId::from_parts(at(since), [n; 10]), since: at(since), current: true }
    }

    fn stock(members: &[Member]) -> Stock {
        Stock { ready: members.to_vec(), ..Stock::default() }
    }

    #[test]
    fn an_empty_shelf_is_filled_a_few_at_a_time() {
        assert_eq!(plan(&RULES, &stock(&[]), at(0)), Plan { start: 2, retire: vec![] });
        let busy = Stock { demand: 9, starting: 1, ..stock(&[]) };
        assert_eq!(plan(&RULES, &busy, at(0)).start, 3, "six are wanted, one is coming, three may be begun");
    }

    #[test]
    fn demand_raises_the_number_up_to_the_ceiling_and_age_lowers_it() {
        let many: Vec<Member> = (0..6).map(|n| member(n, 0)).collect();
        assert_eq!(plan(&RULES, &stock(&many), at(599)), Plan::default(), "a lull");
        let plan_after = plan(&RULES, &stock(&many), at(600));
        assert_eq!((plan_after.start, plan_after.retire.len()), (0, 4), "two are kept");
        assert_eq!(plan_after.retire.first(), Some(&many[0].id), "the oldest go");
        let asked = Stock { demand: 5, ..stock(&many) };
        assert_eq!(plan(&RULES, &asked, at(600)).retire.len(), 1);
    }

    #[test]
    fn stale_members_go_at_once_and_are_replaced() {
        let stale = Member { current: false, ..member(1, 0) };
        let plan = plan(&RULES, &stock(&[stale.clone(), member(2, 0)]), at(1));
        assert_eq!(plan, Plan { start: 1, retire: vec![stale.id] });
    }

    #[test]
    fn failures_slow_it_down_to_one_at_a_time() {
        let failing = Stock { failures: 3, wait_until: Some(at(10)), ..stock(&[]) };
        assert_eq!(plan(&RULES, &failing, at(9)).start, 0);
        assert_eq!(plan(&RULES, &failing, at(10)).start, 1);
        assert_eq!(plan(&RULES, &Stock { starting: 1, ..failing }, at(10)).start, 0);
        assert_eq!(
            (back_off(1), back_off(3), back_off(99)),
            (Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(60))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the numbers: never more than the ceiling, never more at once than there is room, and what is needed is
        /// not retired.
        #[test]
        fn no_plan_breaks_a_bound(
            (min_ready, max_ready, room) in (0..5_usize, 0..9_usize, 0..4_usize),
            (starting, demand, failures) in (0..9_usize, 0..20_usize, 0..3_u32),
            ages in prop::collection::vec((0..1200_i64, any::<bool>()), 0..12),
        ) {
            let rules = Rules { min_ready, max_ready, room, ..RULES };
            let ready: Vec<Member> = (0..).zip(&ages).map(|(n, (since, current))| {
                Member { current: *current, ..member(n, *since) }
            }).collect();
            let usable = ready.iter().filter(|member| member.current).count();
            let stock = Stock { ready, starting, demand, failures, wait_until: None };
            let Plan { start, retire } = plan(&rules, &stock, at(1200));
            prop_assert!(start <= room);
            let ceiling = max_ready.max(min_ready);
            let gone = retire.len() - (ages.len() - usable);
            let after = usable - gone;
            prop_assert!(after <= ceiling);
            prop_assert!(start == 0 || after + starting + start <= ceiling);
            prop_assert!(gone == 0 || after >= min_ready.min(usable), "{retire:?}");
            prop_assert!(start == 0 || gone == 0, "starts and retires at once");
        }
    }
}
