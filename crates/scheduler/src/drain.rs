//! Whether a node that is being emptied is empty.

use moat_model::NodeId;

use crate::cluster::Cluster;

/// Everything that had to leave a draining node has ended. `false` for a node that is not draining.
pub fn is_done(cluster: &Cluster, node: &NodeId) -> bool {
    let Some(node) = cluster.node(node) else { return false };
    let Some(drain) = &node.wish().drain else { return false };
    let stays = |key| {
        let job = cluster.job(key).and_then(|state| state.job());
        drain.ignore_system && job.is_some_and(|job| job.kind.is_on_every_node())
    };
    node.held().all(|(_, key)| stays(key))
}
