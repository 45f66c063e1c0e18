//! Engines on the fake driver and the fake network, with paused time.

mod capture;
mod claim;
mod crash;
mod failure;
mod lasting;
mod life;
mod limits;
mod machine;
mod network;
mod stow;

use std::path::Path;
use std::sync::Arc;

use crate::fake::{FakeConfig, FakeWorld};
use crate::supervisor::{Engine, EngineConfig, Registry};
use crate::testing::MemoryOutlet;

/// An engine in a world of its own.
struct Bench {
    engine: Engine,
    world: FakeWorld,
    outlet: MemoryOutlet,
    dir: tempfile::TempDir,
}

fn config(dir: &Path) -> EngineConfig {
    EngineConfig::new(dir.join("run"), dir.join("data"))
}

async fn bench(fake: FakeConfig) -> Bench {
    let (world, outlet, dir) = (FakeWorld::new(fake), MemoryOutlet::default(), tempfile::tempdir().unwrap());
    let engine = open(&world, &outlet, dir.path()).await;
    Bench { engine, world, outlet, dir }
}

async fn open(world: &FakeWorld, outlet: &MemoryOutlet, dir: &Path) -> Engine {
    let drivers = Registry::new(vec![world.driver()]).with_fabric(world.fabric());
    Engine::open(config(dir), drivers, Arc::new(outlet.clone())).await.unwrap().0
}

impl Bench {
    /// Nothing of any sandbox is left in the world.
    fn assert_clean(&self) {
        assert_eq!(self.world.resources(), []);
        assert_eq!(self.world.alive(), []);
        assert_eq!((self.world.attached(), self.world.places()), (vec![], vec![]));
        assert_eq!(self.world.network_wrongs(), [] as [String; 0]);
    }
}
