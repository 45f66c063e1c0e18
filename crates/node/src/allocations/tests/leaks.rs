//! What is stopped or forgotten while it waits for its predecessor keeps nothing of the node.

use std::net::TcpListener;

use moat_engine::fake::FakeConfig;
use moat_model::job::PortSpec;
use moat_model::job::group::{GroupNetwork, GroupNetworkMode};

use super::super::ports::Range;
use super::*;

/// One that waits for `1` to end, and wants a port.
fn waiting(n: u32, network: &GroupNetwork) -> Assignment {
    let task = Task { driver: TaskDriver::RawExec, ..sh("main", "true") };
    let disk = EphemeralDisk { sticky: true, ..EphemeralDisk::default() };
    let group = TaskGroup { network: Some(network.clone()), ephemeral_disk: disk, ..group(vec![task]) };
    let mut assignment = assignment(n, &job(JobType::Batch, group));
    assignment.allocation.previous = Some(alloc_id(1));
    assignment
}

#[tokio::test]
async fn one_that_ends_while_it_waits_has_no_ports_and_no_directory() {
    let (dir, world) = (tempfile::tempdir().unwrap(), FakeWorld::new(FakeConfig::default()));
    let bed = Bed::fake(dir.path(), &world, false).await;
    let shared = Arc::clone(&bed.allocations.shared);
    let first = assignment(1, &job(JobType::Service, group(vec![sh("main", "sleep 1000")])));
    bed.allocations.assign(first.clone()).await.unwrap();
    bed.until(1, ClientStatus::Running).await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = BTreeMap::from([("p".to_owned(), PortSpec { fixed: Some(port), to: None })]);
    let network = GroupNetwork { mode: GroupNetworkMode::Host, ports, hostname: None };
    for n in [2, 3] {
        let wanted = waiting(n, &network);
        bed.allocations.assign(wanted.clone()).await.unwrap();
        bed.allocations.assign(stopped(&wanted, true)).await.unwrap();
        bed.when(n, "it is over", |view| view.status.client.is_terminal()).await;
    }
    bed.allocations.forget(&alloc_id(3)).await.unwrap();
    bed.allocations.assign(stopped(&first, true)).await.unwrap();
    bed.until(1, ClientStatus::Complete).await;
    // What is left are the actors of the two that are known.
    let settled = async || (shared.tasks.len() == 2).then_some(());
    wait_until(SOON, "nobody waits any more", settled).await.unwrap();
    let range = Range { first: port, last: port, reserved: &[], address: shared.address() };
    let free = async || shared.ports.give(&alloc_id(9), &network, range, 0).ok();
    wait_until(SOON, "the port is free", free).await.unwrap();
    assert!(!dir.path().join("alloc").join(alloc_id(3).as_str()).exists(), "it was forgotten");
    bed.close().await;
}
