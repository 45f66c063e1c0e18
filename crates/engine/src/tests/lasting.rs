//! Roots that outlive their sandboxes, and limits that change while they live.

use std::path::PathBuf;

use moat_model::lifecycle::{PauseTo, PhaseName};
use moat_model::spec::{LastingRoot, Resources};
use moat_model::{ErrorKind, Resource, SandboxSpec};

use super::{bench, open};
use crate::fake::FakeConfig;
use crate::testing::{id, spec};

const BASE: u32 = 0x2000_0000;

fn lasting(dir: &str, uid_base: u32) -> SandboxSpec {
    SandboxSpec { lasting: Some(LastingRoot { dir: PathBuf::from(dir), uid_base }), ..spec("app", &[]) }
}

fn memory(bytes: u64) -> Resources {
    Resources { memory_bytes: Some(bytes), ..Resources::default() }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_root_has_ids_of_its_own_and_one_sandbox_at_a_time() {
    let mut b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), lasting("/jails/a", BASE)).await.unwrap();
    assert_eq!(b.engine.uids_taken(), 0, "none is taken of those given to others");
    let ranges = |resource: &Resource| matches!(resource, Resource::UidRange { .. });
    assert!(!b.world.resources().iter().any(ranges));
    // Also after the daemon was away, and while it is paused.
    for turn in 0..2 {
        for (dir, uid_base, field) in [
            ("/jails/a", BASE + 65_536, "lasting.dir"),
            ("/jails/b", BASE, "lasting.uid_base"),
            ("/jails/b", BASE + 65_535, "lasting.uid_base"),
            ("/jails/b", BASE - 65_535, "lasting.uid_base"),
        ] {
            let error = b.engine.create(id(2), lasting(dir, uid_base)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Conflict, "{turn}: {error}");
            assert!(error.doing.starts_with(field), "{turn}: {error}");
        }
        b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
        b.engine.clone().detach().await;
        b.engine = open(&b.world, &b.outlet, b.dir.path()).await;
    }
    b.engine.create(id(3), lasting("/jails/b", BASE + 65_536)).await.unwrap();
    // One that has ended has given both back, whether its record is kept or not.
    b.engine.kill(&id(1)).await.unwrap();
    b.engine.create(id(4), lasting("/jails/a", BASE)).await.unwrap();
    for n in [1, 3, 4] {
        b.engine.delete(&id(n)).await.unwrap();
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn ids_of_the_host_and_of_others_are_refused_for_a_lasting_root() {
    let b = bench(FakeConfig::default()).await;
    for uid_base in [0, 1000, 65_535, 0x4000_0000 - 65_535, 0x4000_0000, 0x5000_0000, u32::MAX - 10] {
        let error = b.engine.create(id(1), lasting("/jails/a", uid_base)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidSpec, "{uid_base}: {error}");
        assert!(error.doing.starts_with("lasting.uid_base"), "{error}");
    }
    b.engine.create(id(1), lasting("/jails/a", 0x4000_0000 - 65_536)).await.unwrap();
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_it_lives_and_outlive_the_daemon() {
    let mut b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.relimit(&id(1), memory(64 << 20)).await.unwrap();
    let pids = Resources { pids_max: Some(7), ..Resources::default() };
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    b.engine.relimit(&id(1), pids.clone()).await.unwrap();
    b.engine.resume(&id(1)).await.unwrap();
    let both = Resources { pids_max: Some(7), ..memory(64 << 20) };
    assert_eq!(b.engine.spec(&id(1)).unwrap().resources, both);
    b.engine.clone().detach().await;
    b.engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(b.engine.spec(&id(1)).unwrap().resources, both);
    // So again: nothing to do.
    b.engine.relimit(&id(1), pids).await.unwrap();
    let refused = Resources { disk_bytes: Some(1), ..Resources::default() };
    let error = b.engine.relimit(&id(1), refused).await.unwrap_err();
    assert!(error.doing.starts_with("disk_bytes"), "{error}");
    assert_eq!(b.engine.relimit(&id(9), memory(1)).await.unwrap_err().kind, ErrorKind::NotFound);
    b.engine.kill(&id(1)).await.unwrap();
    assert_eq!(b.engine.relimit(&id(1), memory(1)).await.unwrap_err().kind, ErrorKind::Conflict);
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn limits_that_cannot_be_set_leave_it_as_it_was() {
    let b = bench(FakeConfig { tune_error: Some("in use".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let error = b.engine.relimit(&id(1), memory(1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.chain().contains("in use"), "{}", error.chain());
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    assert_eq!(b.engine.spec(&id(1)).unwrap().resources, Resources::default());
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
    let b = bench(FakeConfig { tuner: false, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    assert_eq!(b.engine.relimit(&id(1), memory(1)).await.unwrap_err().kind, ErrorKind::Unsupported);
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}
