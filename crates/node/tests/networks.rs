//! Networks through a whole daemon: real sandboxes that talk, or may not, while daemons come and go.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/child.rs"]
mod child;
#[path = "support/image_host.rs"]
mod image_host;
#[path = "support/rest.rs"]
mod rest;

use image_host::{Host, SOON, table};
use moat_testkit::{not_run, shared, wait_until};
use serde_json::{Value, json};

/// Gets a page, once: a packet that was dropped is never answered.
fn fetch(host: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {host} 8080")
}

/// Links of this node, ready ones included.
fn links(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|link| link.starts_with(name)).collect()
}

async fn wired(host: &Host, namespace: &str, network: Value) -> (String, String) {
    let client = host.client().with("x-moat-namespace", namespace);
    let made = client.post("sandboxes", &json!({"template": "tools", "network": network})).await;
    assert_eq!(made.status, 201, "{}\n{}", String::from_utf8_lossy(&made.bytes), host.log());
    let made = made.json();
    (made["id"].as_str().unwrap().to_owned(), made["ip"].as_str().unwrap().to_owned())
}

/// How a line of shell in a sandbox ends, and what it writes.
async fn sh(host: &Host, namespace: &str, id: &str, line: &str) -> (i64, String) {
    let client = host.client().with("x-moat-namespace", namespace);
    let asked = json!({"command": "sh", "args": ["-c", line]});
    let result = client.post(&format!("sandboxes/{id}/exec"), &asked).await.expect(200);
    (result["exit_code"].as_i64().unwrap(), result["stdout"].as_str().unwrap().to_owned())
}

/// Waits until one sandbox gets another's page.
async fn fetches(host: &Host, id: &str, from: &str) {
    let got = wait_until(SOON, "the page", async || {
        (sh(host, "default", id, &fetch(from)).await.1.ends_with("hello\n")).then_some(())
    });
    got.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
}

fn put(host: &Host) -> rest::Client {
    host.client().with("content-type", "application/json")
}

async fn serve(host: &Host, id: &str) {
    let line = "echo hello > /data/index.html && exec busybox httpd -f -p 8080 -h /data";
    let asked = json!({"command": "sh", "args": ["-c", line]});
    let started = host.client().post(&format!("sandboxes/{id}/execs"), &asked).await;
    assert!(started.status.is_success(), "{}", String::from_utf8_lossy(&started.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_talk_as_their_rules_say_whatever_becomes_of_the_daemon() {
    let _beside = shared().unwrap();
    let Some(mut host) = Host::start("networks", "[network]\nenabled = true\n").await else { return };
    if host.client().get("network").await.expect(200)["enabled"] != true {
        return not_run("networks", "this host cannot have networks");
    }
    let name = host.network_name().unwrap();
    host.warm_up("tools").await;
    let (web, address) = wired(&host, "default", json!({"mode": "internal", "name": "web"})).await;
    let (client, _) = wired(&host, "default", json!("internal")).await;
    let (stranger, _) = wired(&host, "other", json!("internal")).await;
    serve(&host, &web).await;
    fetches(&host, &client, "web").await;
    for there in [address.clone(), "web".to_owned(), format!("{web}.moat.internal")] {
        let (code, said) = sh(&host, "other", &stranger, &fetch(&there)).await;
        assert!(code != 0 && said.is_empty(), "{there}: {code} {said}");
    }

    // A rule that comes while it lives, and what is said of it.
    let policy = json!({"egress": {"rules": [{"action": "deny", "group": "namespace", "ports": ["8080"]}]}});
    let path = format!("sandboxes/{client}/network");
    let shown = put(&host).ask("PUT", &path, policy.to_string().into()).await.expect(200);
    assert_eq!((&shown["mode"], &shown["egress"]["rules"][0]["action"]), (&json!("internal"), &json!("deny")));
    assert_ne!(sh(&host, "default", &client, &fetch("web")).await.0, 0);
    let asked = json!({"destinations": ["web:8080", "web:8081", "8.8.8.8"]});
    let tried = host.client().post(&format!("{path}/test"), &asked).await.expect(200);
    let said: Vec<_> = tried["results"].as_array().unwrap().iter().map(|r| (&r["allowed"], &r["by"])).collect();
    assert_eq!(
        said,
        [(&json!(false), &json!("rule")), (&json!(true), &json!("default")), (&json!(false), &json!("mode"))]
    );

    // The rules of the living hold while no daemon is there, and are exactly theirs when the next one is.
    host.client().delete(&format!("sandboxes/{web}")).await.expect(204);
    let before = table(&name).unwrap();
    host.kill();
    assert_eq!(table(&name).as_deref(), Some(before.as_str()));
    host.up().await;
    let table_now = table(&name).unwrap();
    let addresses = table_now.split(|c: char| !c.is_ascii_digit() && c != '.');
    assert_eq!(addresses.filter(|one| *one == address).count(), 0, "what was deleted is in no set");
    let (web, _) = wired(&host, "default", json!({"mode": "internal", "name": "web"})).await;
    serve(&host, &web).await;
    assert_ne!(sh(&host, "default", &client, &fetch("web")).await.0, 0, "the rule was lost");
    put(&host).ask("PUT", &path, json!({"egress": {}}).to_string().into()).await.expect(200);
    fetches(&host, &client, "web").await;

    host.kill();
    host.up().await;
    for (namespace, id) in [("default", &web), ("default", &client), ("other", &stranger)] {
        let path = format!("sandboxes/{id}");
        host.client().with("x-moat-namespace", namespace).delete(&path).await.expect(204);
    }
    host.stop();
    let gone =
        wait_until(SOON, "nothing left", async || (links(&name).is_empty() && table(&name).is_none()).then_some(()));
    gone.await.unwrap_or_else(|e| panic!("{e}: {:?} {:?} {}", links(&name), table(&name), host.log()));
}
