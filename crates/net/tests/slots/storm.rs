//! Attached and detached all at once, and given up anywhere.

use std::sync::Arc;
use std::time::Duration;

use moat_engine::fabric::Fabric;
use moat_model::network::NetworkLimits;

use super::harness::*;

/// Polls a future for a while and lets it go.
async fn give_up<F: Future>(dice: &mut Dice, future: F) -> Option<F::Output> {
    let patience = Duration::from_micros(dice.below(8_000));
    tokio::time::timeout(patience, future).await.ok()
}

async fn one_of_many(node: Arc<Node>, task: u32) {
    let mut dice = Dice(0x9e37_79b9 + u64::from(task));
    for round in 0..12 {
        let n = task * 100 + round;
        let mut asked = if dice.below(3) == 0 { at(n, &format!("10.1.{task}.{}", round + 1)) } else { sandbox(n) };
        let lease = node.net.reserve(&asked).unwrap();
        if dice.below(8) == 0 {
            node.net.free(&lease);
            continue;
        }
        let attached = give_up(&mut dice, node.net.attach(&lease, &asked)).await;
        if let Some(outcome) = attached {
            outcome.unwrap();
            asked.spec.limits = NetworkLimits { up_bits_per_sec: Some(1_000_000), ..NetworkLimits::default() };
            if let Some(outcome) = give_up(&mut dice, node.net.change(&lease, &asked)).await {
                outcome.unwrap();
            }
        }
        give_up(&mut dice, node.net.detach(&lease)).await;
        node.disconnect(&lease).await;
    }
}

#[test]
fn futures_dropped_anywhere_leave_nothing() {
    in_own_network(|| async {
        let node = Arc::new(Node::start(0).await);
        let before = audit(&node);
        let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(one_of_many(Arc::clone(&node), task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        is_again(&node, &before).await;
        assert!(node.net.table().is_empty());
        node.net.stop().await.unwrap();
    });
}

#[test]
fn slots_are_prepared_while_others_are_taken_and_freed() {
    in_own_network(|| async {
        let node = Arc::new(Node::start(4).await);
        let tasks: Vec<_> = (0..4).map(|task| tokio::spawn(one_of_many(Arc::clone(&node), task))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        node.is_full().await;
        // A slot on its way out loses its link before its directory: both are waited for.
        let run_dir = node.net.config().run_dir.join("ns");
        let four = async || (ip(&["-o", "link"]).lines().count() == 5 && names(&run_dir).len() == 4).then_some(());
        moat_testkit::wait_until(PATIENCE, "four ready links, their directories and the loopback", four).await.unwrap();
        node.net.stop().await.unwrap();
    });
}
