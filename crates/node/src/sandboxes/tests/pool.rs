//! Warm pools as creates meet them.

use moat_api::rest::sandbox::{ListSandboxes, ResourceLimits};
use moat_api::rest::template::PoolStatus;

use moat_model::network::NetworkMode;

use super::*;
use crate::config::PoolTemplate;

async fn bed() -> Bed {
    let template = PoolTemplate {
        name: "app".to_owned(),
        min_ready: 1,
        max_ready: 2,
        image: None,
        network: NetworkMode::Isolated,
        isolation: Isolation::Container,
    };
    let pool = PoolConfig { templates: vec![template], ..PoolConfig::default() };
    Bed::with(container(), Settings { pool, ..Settings::default() }).await
}

impl Bed {
    fn pool(&self) -> PoolStatus {
        self.templates.get("app").unwrap().pool.unwrap()
    }

    async fn ready(&self) -> PoolStatus {
        let ready = async || Some(self.pool()).filter(|p| p.ready >= p.min_ready && p.starting == 0);
        wait_until(SOON, "the pool is ready", ready).await.unwrap()
    }
}

#[tokio::test]
async fn a_create_is_served_by_the_pool_with_everything_it_asked_for() {
    let bed = bed().await;
    bed.ready().await;
    // A member is nobody's: it is not listed, counted or found.
    assert!(bed.sandboxes.list(&own(), &ListSandboxes::default()).unwrap().sandboxes.is_empty());
    assert_eq!(bed.sandboxes.node().sandboxes, 0);
    let member = bed.world.alive().pop().unwrap();
    assert_eq!(bed.sandboxes.get(&own(), &member).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(bed.sandboxes.delete(&own(), &member).await.unwrap_err().kind, ErrorKind::NotFound);
    let tenant = Namespace::parse("billing").unwrap();
    let asked = CreateSandbox {
        metadata: label("team", "a"),
        env: label("A", "1"),
        timeout_sec: Some(50),
        resources: ResourceLimits { vcpu: Some(2.0), ..ResourceLimits::default() },
        ..app()
    };
    let made = bed.sandboxes.create(&tenant, asked).await.unwrap();
    assert!(made.from_pool && made.id == member.to_string() && made.boot_time_ms.is_some());
    assert_eq!((made.namespace.as_str(), &made.metadata), ("billing", &label("team", "a")));
    assert_eq!((made.resources.vcpu, made.resources.memory_mb), (Some(2.0), Some(64)));
    assert!(made.remaining_sec.unwrap() <= 50);
    let spec = bed.sandboxes.shared.base.engine.spec(&member).unwrap();
    assert_eq!((spec.process.env["A"].as_str(), spec.process.env["GREETING"].as_str()), ("1", "hello"));
    // Never the same one again.
    let status = bed.ready().await;
    assert_eq!((status.hits, status.misses), (1, 0));
    bed.sandboxes.delete(&tenant, &member).await.unwrap();
    let next = bed.create(app()).await;
    assert!(next.from_pool && next.id != made.id);
    let stats = bed.sandboxes.stats(None).await;
    assert_eq!((stats.pool_hits, stats.created_total), (2, 2));
}

#[tokio::test]
async fn what_a_member_cannot_be_is_made_from_nothing() {
    let bed = bed().await;
    bed.ready().await;
    let disk = ResourceLimits { disk_mb: Some(7), ..ResourceLimits::default() };
    for request in [
        CreateSandbox { resources: disk, ..app() },
        CreateSandbox { command: Some(vec!["/bin/serve".to_owned()]), ..app() },
        CreateSandbox { template: Some("scratch".to_owned()), ..CreateSandbox::default() },
    ] {
        assert!(!bed.create(request).await.from_pool);
    }
    let status = bed.ready().await;
    assert_eq!((status.hits, status.misses, status.ready), (0, 0, 1));
}

#[tokio::test]
async fn members_outlive_the_daemon_and_go_with_their_template() {
    let bed = bed().await;
    bed.ready().await;
    let before = bed.world.alive();
    let bed = bed.restart().await;
    bed.ready().await;
    assert!(before.iter().all(|id| bed.world.alive().contains(id)));
    let made = bed.create(app()).await;
    assert!(made.from_pool);
    bed.ready().await;
    bed.templates.remove("app").await.unwrap();
    // The one that was claimed lives on.
    let left = async || (bed.world.alive().len() == 1).then_some(());
    wait_until(SOON, "the pool is empty", left).await.unwrap();
    assert_eq!(bed.world.alive(), [id(&made)]);
}
