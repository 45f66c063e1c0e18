//! Networks as users of the API meet them, on a fabric without a kernel.

use moat_api::rest::network::{NetworkWish, TestNetwork};
use moat_api::rest::sandbox::Fork;
use moat_model::network::NetworkMode;
use serde_json::json;

use super::*;
use crate::config::PoolTemplate;

fn wish(value: serde_json::Value) -> NetworkWish {
    serde_json::from_value(value).unwrap()
}

fn with(value: serde_json::Value) -> CreateSandbox {
    CreateSandbox { network: Some(wish(value)), ..app() }
}

async fn bed() -> Bed {
    Bed::with(container(), Settings { networks: true, ..Settings::default() }).await
}

async fn pooled(network: NetworkMode) -> Bed {
    let template = PoolTemplate {
        name: "app".to_owned(),
        min_ready: 1,
        max_ready: 1,
        image: None,
        network,
        isolation: Isolation::Container,
    };
    let pool = PoolConfig { templates: vec![template], ..PoolConfig::default() };
    let bed = Bed::with(container(), Settings { networks: true, pool, ..Settings::default() }).await;
    let ready = async || (bed.templates.get("app").unwrap().pool?.ready == 1).then_some(());
    wait_until(SOON, "the pool is ready", ready).await.unwrap();
    bed
}

#[tokio::test]
async fn what_was_asked_for_is_given_and_shown() {
    let bed = bed().await;
    let plain = bed.create(app()).await;
    assert_eq!((plain.network.as_str(), &plain.ip), ("isolated", &None));
    assert_eq!(plain.networking.unwrap().mode, "isolated");
    let asked = json!({"mode": "internet", "name": "web", "address": "10.100.7.7",
        "egress": {"default": "deny", "rules": [{"action": "allow", "group": "public", "ports": ["443"]}]},
        "publish": [{"port": 80}], "limits": {"connections": 9}});
    let made = bed.create(with(asked.clone())).await;
    assert_eq!((made.network.as_str(), made.ip.as_deref()), ("internet", Some("10.100.7.7")));
    let status = bed.sandboxes.network(&own(), &id(&made)).unwrap();
    assert_eq!(made.networking.as_ref(), Some(&status));
    assert_eq!((status.limits.connections, status.egress.default.as_deref()), (Some(9), Some("deny")));
    assert!(status.publish[0].host_port.unwrap() >= 20_000);
    // Its name and its address are its own, within the namespace and on the node.
    for (again, field) in
        [(asked, "network.name"), (json!({"mode": "internal", "address": "10.100.7.7"}), "network.address")]
    {
        let refusal = bed.sandboxes.create(&own(), with(again)).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Conflict, "{}", refusal.chain());
        assert!(refusal.chain().contains(field), "{}", refusal.chain());
    }
    let other = Namespace::parse("other").unwrap();
    let theirs = bed.sandboxes.create(&other, with(json!({"mode": "internal", "name": "web"}))).await.unwrap();
    let node = bed.sandboxes.node_network(&own()).await;
    assert!(node.enabled && node.problem.is_none());
    assert_eq!(node.sandboxes.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [made.id.as_str()]);
    assert_eq!(bed.sandboxes.stats(None).await.networks, 2);
    // Of another tenant's there is nothing.
    let hidden = id(&theirs);
    let test = TestNetwork { destinations: vec!["8.8.8.8".to_owned()], network: None };
    for kind in [
        bed.sandboxes.network(&own(), &hidden).unwrap_err().kind,
        bed.sandboxes.set_network(&own(), &hidden, wish(json!("internet"))).await.unwrap_err().kind,
        bed.sandboxes.test_network(&own(), &hidden, test).await.unwrap_err().kind,
    ] {
        assert_eq!(kind, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_network_changes_while_its_sandbox_lives() {
    let bed = bed().await;
    let made = bed.create(with(json!({"mode": "internet", "publish": [{"port": 80}]}))).await;
    let before = made.networking.clone().unwrap();
    let next = json!({"mode": "internal", "name": "db", "egress": {"default": "deny"}, "publish": [{"port": 80}]});
    let now = bed.sandboxes.set_network(&own(), &id(&made), wish(next)).await.unwrap();
    assert_eq!((now.mode.as_str(), now.address, &now.publish), ("internal", before.address, &before.publish));
    let shown = bed.sandboxes.get(&own(), &id(&made)).unwrap();
    assert_eq!((shown.network.as_str(), shown.networking.as_ref()), ("internal", Some(&now)));
    for bad in [json!("isolated"), json!({"address": "10.100.9.9"}), json!({"egress": {"default": "never"}})] {
        bed.sandboxes.set_network(&own(), &id(&made), wish(bad)).await.unwrap_err();
    }
    // A failure leaves what was.
    bed.world.configure(|fake| fake.change_error = Some("the kernel refuses".to_owned()));
    let failed = bed.sandboxes.set_network(&own(), &id(&made), wish(json!({"name": "other"}))).await.unwrap_err();
    assert!(failed.chain().contains("the kernel refuses"), "{}", failed.chain());
    assert_eq!(bed.sandboxes.network(&own(), &id(&made)).unwrap(), now);
    let plain = bed.app().await;
    let refusal = bed.sandboxes.set_network(&own(), &plain, wish(json!("internet"))).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_child_has_the_mode_and_the_rules_but_not_the_name() {
    let bed = bed().await;
    let parent = bed
        .create(with(json!({"mode": "internet", "name": "web", "publish": [{"port": 80}],
            "egress": {"default": "deny"}, "limits": {"connections": 5}})))
        .await;
    let forked = bed.sandboxes.fork(&own(), &id(&parent), Fork::default()).await.unwrap();
    let child = forked.children[0].sandbox.clone().unwrap_or_else(|| panic!("{forked:?}"));
    let (old, new) = (parent.networking.unwrap(), child.networking.unwrap());
    assert_eq!((&new.mode, &new.egress, new.limits), (&old.mode, &old.egress, old.limits));
    assert_eq!((new.name, new.publish.len()), (None, 0));
    assert!(new.address.is_some() && new.address != old.address);
}

#[tokio::test]
async fn a_wired_pool_serves_both_modes_and_no_chosen_address() {
    let bed = pooled(NetworkMode::Internet).await;
    let made = bed.create(with(json!({"mode": "internal", "name": "web", "egress": {"default": "deny"}}))).await;
    assert!(made.from_pool && made.ip.is_some());
    let status = made.networking.unwrap();
    assert_eq!((status.mode.as_str(), status.name.as_deref()), ("internal", Some("web")));
    assert!(!bed.create(app()).await.from_pool, "isolated is another kind");
    assert!(!bed.create(with(json!({"mode": "internet", "address": "10.100.7.7"}))).await.from_pool);
    // A name that is taken uses up no member.
    let ready = async || (bed.templates.get("app").unwrap().pool?.ready == 1).then_some(());
    wait_until(SOON, "the pool is ready", ready).await.unwrap();
    let refusal = bed.sandboxes.create(&own(), with(json!({"mode": "internal", "name": "web"}))).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    assert_eq!(bed.templates.get("app").unwrap().pool.unwrap().ready, 1);
}

#[tokio::test]
async fn a_network_is_had_again_after_a_restart() {
    let bed = bed().await;
    let made = bed.create(with(json!({"mode": "internet", "name": "web", "publish": [{"port": 80}]}))).await;
    let bed = bed.restart().await;
    let found = bed.until(&id(&made), "running").await;
    assert_eq!(found.networking, made.networking);
    bed.sandboxes.delete(&own(), &id(&made)).await.unwrap();
    let again = bed.create(with(json!({"mode": "internet", "name": "web"}))).await;
    assert_eq!(again.networking.unwrap().name.as_deref(), Some("web"));
}
