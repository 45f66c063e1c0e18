//! Ports of sandboxes through the proxy: who is told how, and a web server in a real sandbox without a network.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/child.rs"]
mod child;
#[path = "support/image_host.rs"]
mod image_host;
#[path = "support/rest.rs"]
mod rest;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use futures::{SinkExt, StreamExt};
use hyper::header::HeaderMap;
use image_host::SOON;
use moat_engine::fake::FakeConfig;
use moat_model::Namespace;
use moat_node::api_keys::Scope;
use moat_node::config::ProxyConfig;
use moat_testkit::{shared, static_bin, wait_until};
use rest::Client;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_shown_to_their_namespace_and_outlive_the_daemon() {
    let mut host = rest::Host::new(FakeConfig::default());
    host.config.proxy =
        ProxyConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], explicit: true, ..ProxyConfig::default() };
    let keys = ["a", "b"].map(|name| host.key(Scope::Namespace { namespace: Namespace::parse(name).unwrap() }));
    let daemon = host.up().await;
    let [own, other] = keys.clone().map(|key| daemon.client().key(&key));
    let asked = json!({"template": "scratch", "proxy": {"public": true}});
    let made = own.post("sandboxes", &asked).await.expect(201);
    let id = made["id"].as_str().unwrap();
    let port = daemon.node.ingress()[0].port();
    assert_eq!(made["proxy"]["url_template"], format!("http://{{port}}-{id}.localhost:{port}"));
    assert_eq!(made["proxy"]["public"], true);
    let token = made["proxy"]["token"].as_str().unwrap().to_owned();
    assert_eq!(own.get(&format!("sandboxes/{id}")).await.expect(200)["proxy"]["token"], *token);
    other.get(&format!("sandboxes/{id}")).await.expect(404);
    for path in ["sandboxes", &format!("sandboxes/{id}/explain")] {
        let seen = other.get(path).await;
        assert!(!String::from_utf8_lossy(&seen.bytes).contains(&token), "{path}");
    }
    let private = own.post("sandboxes", &json!({"template": "scratch"})).await.expect(201);
    assert_eq!(private["proxy"]["public"], false);
    assert_ne!(private["proxy"]["token"], *token);
    own.with("content-type", "application/json")
        .ask("POST", "sandboxes", r#"{"template":"scratch","proxy":{"x":1}}"#.into())
        .await
        .expect(400);
    daemon.crash();
    let daemon = host.up().await;
    let own = daemon.client().key(&keys[0]);
    let again = own.get(&format!("sandboxes/{id}")).await.expect(200);
    assert_eq!((&again["proxy"]["token"], &again["proxy"]["public"]), (&json!(token), &json!(true)));
    own.delete(&format!("sandboxes/{id}")).await.expect(204);
    assert_eq!(own.get(&format!("sandboxes/{id}")).await.expect(200)["proxy"], Value::Null);
}

/// A sandbox with the web server of the tests in it, and how its ports are reached.
async fn web(host: &image_host::Host) -> (String, Client) {
    let asked = json!({"template": "tools", "resources": {"memory_mb": 1024, "disk_mb": 512}});
    let (id, api) = (host.create(asked).await, host.client());
    let program = std::fs::read(static_bin("probe").unwrap()).unwrap();
    let path = format!("sandboxes/{id}/files?path=/data/probe&mode=0755");
    api.ask("PUT", &path, program.into()).await.expect(200);
    let asked = json!({"command": "/data/probe", "args": ["web", "8080", "8090"]});
    let started = api.post(&format!("sandboxes/{id}/execs"), &asked).await;
    assert!(started.status.is_success(), "{}", String::from_utf8_lossy(&started.bytes));
    let client = reached(host, &id).await;
    let up =
        wait_until(SOON, "the web server answers", async || (client.get("/echo").await.status == 200).then_some(()));
    up.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
    (id, client)
}

/// A client of port 8080 of a sandbox, with its token.
async fn reached(host: &image_host::Host, id: &str) -> Client {
    let proxy = host.client().get(&format!("sandboxes/{id}")).await.expect(200)["proxy"].clone();
    let url = proxy["url_template"].as_str().unwrap_or_else(|| panic!("{proxy}: {}", host.log()));
    let name = url.strip_prefix("http://").unwrap().replace("{port}", "8080");
    let port = name.rsplit(':').next().unwrap().parse().unwrap();
    let client = Client { address: SocketAddr::from(([127, 0, 0, 1], port)), headers: HeaderMap::new() };
    client.with("host", &name).with("moat-token", proxy["token"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_server_in_a_sandbox_without_a_network() {
    let _beside = shared().unwrap();
    let Some(mut host) = image_host::Host::start("ingress", "[proxy]\nlisten = \"127.0.0.1:0\"\n").await else {
        return;
    };
    host.warm_up("tools").await;
    let (id, client) = web(&host).await;
    let said = String::from_utf8(client.get("/echo?x=1").await.bytes).unwrap();
    assert!(said.starts_with("GET /echo?x=1 HTTP/1.1\r\n") && !said.contains("moat-token"), "{said}");
    let mut without = client.clone();
    without.headers.remove("moat-token");
    without.get("/echo").await.expect(401);
    let silent = client.with("moat-sandbox", &format!("9999-{id}")).get("/").await.expect(502);
    assert!(silent["message"].as_str().unwrap().contains("nothing listens on port 9999"), "{silent}");
    // Below the 128 connections a sandbox may have, some of which may still be closing.
    let at_once = Arc::new(Semaphore::new(50));
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let (client, at_once) = (client.clone(), at_once.clone());
            tokio::spawn(async move {
                let _turn = at_once.acquire().await.unwrap();
                let said = client.ask("POST", "/body", format!("{n:03}").into()).await;
                assert_eq!((said.status.as_u16(), String::from_utf8(said.bytes).unwrap()), (200, format!("3 {n:03} ")));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let large = vec![b'x'; 8 << 20];
    assert_eq!(client.ask("POST", "/copy", large.clone().into()).await.bytes, large);
    websocket(&client, &id).await;

    let paths = ["pause", "resume"].map(|verb| format!("sandboxes/{id}/{verb}"));
    host.client().post(&paths[0], &json!({})).await.expect(200);
    let paused = client.get("/echo").await.expect(409);
    assert!(paused["message"].as_str().unwrap().contains("paused"), "{paused}");
    host.client().post(&paths[1], &json!({})).await.expect(200);
    assert_eq!(client.get("/echo").await.status, 200);

    host.kill();
    host.up().await;
    let again = reached(&host, &id).await;
    assert_eq!(again.headers["moat-token"], client.headers["moat-token"]);
    assert_eq!(again.get("/echo").await.status, 200);

    let mut events = again.open("GET", "/sse", Body::empty()).await.unwrap().into_body().into_data_stream();
    assert_eq!(&events.next().await.unwrap().unwrap()[..], b"data: one\n\n");
    host.client().delete(&format!("sandboxes/{id}")).await.expect(204);
    let ended = tokio::time::timeout(SOON, events.next()).await.unwrap();
    assert!(ended.is_none_or(|piece| piece.is_err()), "the stream goes on after the sandbox");
    again.get("/echo").await.expect(404);
}

async fn websocket(client: &Client, id: &str) {
    let mut request = "ws://any/".into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("host", client.headers["host"].clone());
    headers.insert("moat-token", client.headers["moat-token"].clone());
    headers.insert("moat-sandbox", format!("8090-{id}").parse().unwrap());
    let stream = tokio::net::TcpStream::connect(client.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20])] {
        socket.send(message.clone()).await.unwrap();
        let heard = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(heard, message);
    }
}
