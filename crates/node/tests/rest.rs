//! The REST API over a node on the fake driver: what is asked, by whom, and what comes back.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/rest.rs"]
mod rest;

use std::process::Command;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures::{SinkExt, StreamExt};
use moat_engine::fake::FakeConfig;
use moat_model::{Isolation, Namespace};
use moat_node::api_keys::Scope;
use moat_testkit::{not_run_here, wait_until};
use rest::{Client, Daemon, Host, Lines, SOON};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

async fn up() -> (Host, Daemon, Client) {
    let host = Host::new(FakeConfig { lines: vec![r#"{"ok":true}"#.to_owned()], ..FakeConfig::default() });
    let daemon = host.up().await;
    let client = daemon.client();
    (host, daemon, client)
}

async fn created(client: &Client) -> String {
    let sandbox = client.post("sandboxes", &json!({"template": "scratch"})).await.expect(201);
    sandbox["id"].as_str().unwrap().to_owned()
}

fn script(text: &str) -> Value {
    json!({"command": "sh", "args": ["-c", text]})
}

/// The seed's Quick Start and its API table, with curl, as it is written there: only image and port are ours.
/// Warming up an image needs a registry; that part of the sequence is in the demo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_curl_sequence() {
    if moat_testkit::tool("curl").is_none() {
        not_run_here("curl is not installed");
        return;
    }
    let (_host, daemon, _) = up().await;
    let port = daemon.address.port();
    let sh = async |line: String| -> (u16, Value) {
        let line = line.replace("localhost:8080", &format!("127.0.0.1:{port}")).replace("node22", "scratch");
        let full = format!("{line} -s -w '\\n%{{http_code}}'");
        let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &full]).output().unwrap());
        let text = String::from_utf8(output.await.unwrap().stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    };
    let (status, created) = sh(r#"curl -X POST http://localhost:8080/api/v1/sandboxes \
  -H "Content-Type: application/json" \
  -d '{"template": "node22", "resources": {"vcpu": 2, "memory_mb": 512}}'"#
        .to_owned())
    .await;
    assert_eq!(status, 201, "{created}");
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("sb-") && created["boot_time_ms"].as_f64().unwrap() > 0.0, "{created}");
    assert_eq!(created["resources"]["memory_mb"], 512);
    let exec = r#"curl -X POST http://localhost:8080/api/v1/sandboxes/{id}/exec \
  -H "Content-Type: application/json" \
  -d '{"command": "node", "args": ["-e", "console.log(JSON.stringify({ok:true}))"]}'"#;
    let (status, result) = sh(exec.replace("{id}", id)).await;
    assert_eq!((status, &result["exit_code"], &result["stdout"]), (200, &json!(0), &json!("{\"ok\":true}\n")));
    let verbs =
        [("GET", "/sandboxes/{id}", 200), ("GET", "/sandboxes", 200), ("POST", "/sandboxes/{id}/keepalive", 200)];
    let verbs =
        verbs.into_iter().chain([("POST", "/sandboxes/{id}/pause", 200), ("POST", "/sandboxes/{id}/resume", 200)]);
    let verbs = verbs.chain([("GET", "/templates", 200), ("GET", "/nodes", 200), ("GET", "/stats", 200)]);
    for (method, path, expected) in verbs.chain([("DELETE", "/sandboxes/{id}", 204)]) {
        let path = path.replace("{id}", id);
        let (status, answer) = sh(format!("curl -X {method} http://localhost:8080/api/v1{path}")).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_one_shape() {
    let (_host, _daemon, client) = up().await;
    let id = created(&client).await;
    let json = client.with("content-type", "application/json");
    let cases = [
        ("GET", "nowhere".to_owned(), "", 404, "not_found"),
        ("GET", "/".to_owned(), "", 404, "not_found"),
        ("PATCH", "sandboxes".to_owned(), "", 405, "invalid_spec"),
        ("GET", "sandboxes/sb-nonsense".to_owned(), "", 404, "not_found"),
        ("GET", "sandboxes/%ff".to_owned(), "", 404, "not_found"),
        ("GET", "sandboxes?nonsense=1".to_owned(), "", 400, "invalid_spec"),
        ("GET", "sandboxes?limit=-1".to_owned(), "", 400, "invalid_spec"),
        ("POST", "sandboxes".to_owned(), "{", 400, "invalid_spec"),
        ("POST", "sandboxes".to_owned(), r#"{"template": "scratch", "memory": 5}"#, 400, "invalid_spec"),
        (
            "POST",
            "sandboxes".to_owned(),
            r#"{"template": "scratch", "resources": {"memory_mb": "5"}}"#,
            400,
            "invalid_spec",
        ),
        ("POST", format!("sandboxes/{id}/exec"), "{}", 400, "invalid_spec"),
        ("POST", format!("sandboxes/{id}/exec"), r#"{"command": ""}"#, 400, "invalid_spec"),
        ("POST", format!("sandboxes/{id}/exec"), r#"{"command": "missing"}"#, 422, "guest"),
        ("POST", format!("sandboxes/{id}/exec"), r#"{"command": "a\u0000b"}"#, 400, "invalid_spec"),
        ("POST", format!("sandboxes/{id}/pause"), r#"{"what": 1}"#, 400, "invalid_spec"),
        ("GET", format!("sandboxes/{id}/exec/ws"), "", 400, "invalid_spec"),
        ("GET", format!("sandboxes/{id}/files?path=relative"), "", 400, "invalid_spec"),
        ("GET", format!("sandboxes/{id}/execs/x"), "", 404, "not_found"),
    ];
    for (method, path, body, status, code) in cases {
        let reply = json.ask(method, &path, body.to_owned().into()).await;
        let headers = reply.headers.clone();
        assert_eq!(reply.status.as_u16(), status, "{method} {path} {body}: {}", String::from_utf8_lossy(&reply.bytes));
        let error = reply.json();
        assert_eq!(error["code"], code, "{method} {path}: {error}");
        assert_eq!(error["id"].as_str().unwrap(), headers["x-request-id"], "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers.contains_key("allow"), status == 405, "{method} {path}");
    }
    let named = json.ask("POST", "sandboxes", r#"{"resources": {"memory_mb": "5"}}"#.into()).await.expect(400);
    let message = named["message"].as_str().unwrap();
    assert!(message.contains("resources.memory_mb") && message.contains("line 1 column"), "{message}");
    let other = client.ask("POST", &format!("sandboxes/{id}/exec"), r#"{"command": "x"}"#.into()).await;
    assert_eq!(other.status, 415);
    let large = json.ask("POST", "sandboxes", vec![b' '; (2 << 20) + 1].into()).await;
    assert_eq!(large.status, 413);
    let own = client.with("x-request-id", "mine-7").get("nodes").await;
    assert_eq!(own.headers["x-request-id"], "mine-7");
    let forged = client.with("x-request-id", "not an id\u{7f}".trim_end_matches('\u{7f}')).get("nodes").await;
    assert_ne!(forged.headers["x-request-id"], "not an id");
}

/// E-2: no body and `{}` both mean nothing to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e02_empty_bodies_and_fifty_pauses() {
    let (_host, _daemon, client) = up().await;
    let id = created(&client).await;
    for round in 0..50 {
        let body = if round % 2 == 0 { "" } else { "{}" };
        let json = client.with("content-type", "application/json");
        for verb in ["keepalive", "pause", "keepalive", "resume", "resume"] {
            let reply = json.ask("POST", &format!("sandboxes/{id}/{verb}"), body.into()).await;
            assert_eq!(reply.status, 200, "{round} {verb}: {}", String::from_utf8_lossy(&reply.bytes));
        }
        let said = client.post(&format!("sandboxes/{id}/exec"), &script("echo still here")).await.expect(200);
        assert_eq!(said["stdout"], "still here\n");
    }
    for _ in 0..2 {
        client.post(&format!("sandboxes/{id}/pause"), &json!({})).await.expect(200);
    }
    let refused = client.post(&format!("sandboxes/{id}/exec"), &script("true")).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("paused"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buffered_exec_tells_what_happened() {
    let (_host, _daemon, client) = up().await;
    let path = format!("sandboxes/{}/exec", created(&client).await);
    let run = async |body: Value| client.post(&path, &body).await.expect(200);
    let both = run(script("echo out; echo err >&2; exit 3")).await;
    assert_eq!((&both["stdout"], &both["stderr"], &both["exit_code"]), (&json!("out\n"), &json!("err\n"), &json!(3)));
    let killed = run(script("kill -TERM $$")).await;
    assert_eq!((&killed["exit_code"], &killed["signal"]), (&json!(143), &json!(15)));
    let mut slow = script("sleep 60");
    slow["timeout_ms"] = json!(50);
    let slow = run(slow).await;
    assert_eq!((&slow["timed_out"], &slow["exit_code"]), (&json!(true), &json!(137)));
    let mut long = script("head -c 100000 /dev/zero");
    long["max_output"] = json!(1000);
    let long = run(long).await;
    assert_eq!((&long["truncated"], &long["stdout_bytes"]), (&json!(true), &json!(100_000)));
    assert_eq!(long["stdout"].as_str().unwrap().len(), 1000);
    let input = "é".repeat(200_000);
    let fed = run(json!({"command": "sh", "args": ["-c", "cat"], "stdin": input})).await;
    assert_eq!(fed["stdout"].as_str().unwrap(), input);
    let all: Vec<u8> = (0..=255).collect();
    let base64 = data_encoding::BASE64.encode(&all);
    let bytes = run(json!({"command": "sh", "args": ["-c", "cat"], "stdin_base64": base64})).await;
    assert_eq!(bytes["stdout_base64"], base64, "every byte comes back");
    for (member, value) in
        [("pty", json!({"rows": 2, "cols": 2})), ("keep_stdin", json!(true)), ("timeout_ms", json!(0))]
    {
        let mut body = script("true");
        body[member] = value;
        let refused = client.post(&path, &body).await.expect(400);
        assert!(refused["message"].as_str().unwrap().contains(member), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_come_as_they_are_written_and_a_client_that_leaves_ends_the_exec() {
    let (host, _daemon, client) = up().await;
    let id = created(&client).await;
    let json = client.with("content-type", "application/json");
    let path = format!("sandboxes/{id}/exec/stream");
    let body = script("echo one; sleep 0.3; echo two >&2; exit 4").to_string();
    let mut lines = Lines::of(json.open("POST", &path, body.into()).await.unwrap());
    assert_eq!(lines.next().await.unwrap()["event"], "started");
    let (first, at) = (lines.next().await.unwrap(), Instant::now());
    assert_eq!(first, json!({"event": "stdout", "text": "one\n", "offset": 0}));
    let second = lines.next().await.unwrap();
    assert_eq!(second, json!({"event": "stderr", "text": "two\n", "offset": 0}));
    assert!(at.elapsed() > Duration::from_millis(100), "the first was not held back for the second");
    let last = lines.next().await.unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&json!("exited"), &json!(4)));
    assert!(lines.next().await.is_none());

    let counted = async |what: &str| -> u64 {
        let reply = client.get("/metrics").await;
        let text = String::from_utf8(reply.bytes).unwrap();
        let number = text.lines().find_map(|line| line.strip_prefix(what).map(|rest| rest.trim().parse().unwrap()));
        number.unwrap_or(0)
    };
    const HUNG_UP: &str = "moat_exec_sessions_total{outcome=\"hung_up\"}";
    let before = counted(HUNG_UP).await;
    let mut left =
        Lines::of(json.open("POST", &path, script("echo here; sleep 600").to_string().into()).await.unwrap());
    left.next().await.unwrap();
    drop(left);
    let path = format!("sandboxes/{id}/exec");
    let buffered = json.open("POST", &path, script("sleep 600").to_string().into());
    assert!(tokio::time::timeout(Duration::from_millis(300), buffered).await.is_err());
    wait_until(SOON, "both execs are ended", async || (counted(HUNG_UP).await >= before + 2).then_some(()))
        .await
        .unwrap();
    drop(host);
}

/// E-10, as far as it concerns the daemon: one that never reads holds up nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody() {
    let (_host, _daemon, client) = up().await;
    let id = created(&client).await;
    let json = client.with("content-type", "application/json");
    let path = format!("sandboxes/{id}/exec/stream");
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let body = script("head -c 50000000 /dev/zero").to_string();
        stuck.push(json.open("POST", &path, body.into()).await.unwrap());
    }
    let began = Instant::now();
    for _ in 0..20 {
        client.post(&format!("sandboxes/{id}/exec"), &script("echo on")).await.expect(200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    client.delete(&format!("sandboxes/{id}")).await.expect(204);
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn socket(client: &Client, path: &str) -> Socket {
    let url = format!("ws://{}/api/v1/{path}", client.address);
    tokio_tungstenite::connect_async(url).await.unwrap().0
}

async fn event(socket: &mut Socket) -> Value {
    loop {
        match tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Binary(bytes) => return json!({"binary": String::from_utf8_lossy(&bytes)}),
            Message::Close(_) => return json!("closed"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_carry_both_ways() {
    let (_host, mut daemon, client) = up().await;
    let id = created(&client).await;
    let mut cat = socket(&client, &format!("sandboxes/{id}/exec/ws")).await;
    cat.send(Message::text(json!({"input": "start", "exec": script("cat")}).to_string())).await.unwrap();
    assert_eq!(event(&mut cat).await["event"], "started");
    cat.send(Message::binary(vec![b'h', b'i'])).await.unwrap();
    assert_eq!(event(&mut cat).await, json!({"event": "stdout", "text": "hi", "offset": 0}));
    cat.send(Message::text(json!({"input": "close_stdin"}).to_string())).await.unwrap();
    let last = event(&mut cat).await;
    assert_eq!((&last["event"], &last["exit_code"]), (&json!("exited"), &json!(0)));
    assert_eq!(event(&mut cat).await, json!("closed"));

    let mut killed = socket(&client, &format!("sandboxes/{id}/exec/ws")).await;
    killed.send(Message::text(json!({"input": "start", "exec": script("sleep 600")}).to_string())).await.unwrap();
    event(&mut killed).await;
    killed.send(Message::text(json!({"input": "signal", "signal": "TERM"}).to_string())).await.unwrap();
    assert_eq!(event(&mut killed).await["signal"], 15);

    let mut wrong = socket(&client, &format!("sandboxes/{id}/exec/ws")).await;
    wrong.send(Message::text(r#"{"input": "start", "exec": {"command": "missing"}}"#)).await.unwrap();
    let failed = event(&mut wrong).await;
    assert_eq!((&failed["event"], &failed["error"]["code"]), (&json!("failed"), &json!("guest")), "{failed}");

    let mut terminal = socket(&client, &format!("sandboxes/{id}/terminal?cmd=/bin/shell&rows=5&cols=40")).await;
    assert_eq!(event(&mut terminal).await["event"], "started");
    assert_eq!(event(&mut terminal).await, json!({"binary": "{\"ok\":true}\n"}));
    assert_eq!(event(&mut terminal).await["event"], "exited");

    let mut open = socket(&client, &format!("sandboxes/{id}/exec/ws")).await;
    open.send(Message::text(json!({"input": "start", "exec": script("sleep 600")}).to_string())).await.unwrap();
    event(&mut open).await;
    let began = Instant::now();
    daemon.close().await;
    let told = event(&mut open).await;
    assert_eq!((&told["event"], &told["error"]["code"]), (&json!("failed"), &json!("unavailable")));
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// Every route of the document, without a key, with a wrong one, and with another tenant's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_asks_who_it_is() {
    let host = Host::new(FakeConfig::default());
    let admin = host.key(Scope::Admin);
    let tenant = |name: &str| Scope::Namespace { namespace: Namespace::parse(name).unwrap() };
    let (red, blue) = (host.key(tenant("red")), host.key(tenant("blue")));
    let daemon = host.up().await;
    let client = daemon.client();
    let red = client.key(&red);
    let id = created(&red).await;
    let snapshot = red.post(&format!("sandboxes/{id}/snapshots"), &json!({})).await;
    assert_ne!(snapshot.status, 500);

    red.post("jails", &json!({"name": "reds", "kind": "empty"})).await.expect(200);
    let jail = red.get("jails/reds").await.expect(200);

    let document: Value = serde_json::from_str(&moat_node::http::openapi::json()).unwrap();
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        routes.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    assert!(routes.len() > 40, "{}", routes.len());
    let owners_only = ["/templates/warmup", "/templates/{name}/cancel", "/images"];
    // This node has no NATS, so nothing of a cluster is served to anybody: whose it is is not even looked up.
    let of_the_cluster = ["/jobs", "/allocations", "/evaluations", "/deployments", "/nodes/"];
    for (method, template) in &routes {
        let of_a_jail = template.starts_with("/api/v1/jails/{name}");
        let name = if of_a_jail { "reds" } else { "nothing" };
        let path = template.replace("{id}", &id).replace("{pid}", "2").replace("{name}", name);
        let query = if path.ends_with("/files") || path.contains("/files/") { "?path=/x" } else { "" };
        let path = format!("{path}{query}");
        let ask = async |client: &Client| {
            let json = client.with("content-type", "application/json");
            let upgrade = json.with("connection", "upgrade").with("upgrade", "websocket");
            let upgrade =
                upgrade.with("sec-websocket-version", "13").with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            let client = if path.ends_with("/ws") || path.ends_with("/terminal") { &upgrade } else { &json };
            let body = match template.rsplit('/').next().unwrap() {
                "signal" => r#"{"signal": "TERM"}"#,
                "mkdir" => r#"{"path": "/x"}"#,
                "move" => r#"{"from": "/x", "to": "/y"}"#,
                "warmup" => r#"{"name": "n", "image": "x"}"#,
                "pull" => r#"{"image": "x"}"#,
                "exec" | "stream" | "execs" => r#"{"command": "true"}"#,
                "network" if method == "PUT" => "{}",
                "test" => r#"{"destinations": ["1.1.1.1"]}"#,
                _ => "",
            };
            let reply = client.open(method, &path, Body::from(body)).await.unwrap();
            (reply.status().as_u16(), reply.headers().contains_key("www-authenticate"))
        };
        assert_eq!(ask(&client).await, (401, true), "{method} {path} without a key");
        assert_eq!(ask(&client.key("moat_nobody_nothing")).await, (401, true), "{method} {path} with a wrong key");
        assert_eq!(ask(&client.with("x-api-key", "nonsense")).await, (401, true), "{method} {path}");
        let other = ask(&client.key(&blue)).await.0;
        let changes = owners_only.iter().any(|p| template.contains(p))
            || (template.contains("/templates/") && method == "DELETE");
        if of_the_cluster.iter().any(|p| template.starts_with(&format!("/api/v1{p}"))) {
            assert!((400..500).contains(&other) || other == 503, "{method} {path}: {other}");
            continue;
        }
        // What it must be told is asked for before it is looked up.
        assert!(!of_a_jail || matches!(other, 400 | 404 | 422), "{method} {path} of another tenant: {other}");
        match (changes, template.contains("{id}")) {
            (true, _) => assert_eq!(other, 403, "{method} {path}"),
            (false, true) => assert_eq!(other, 404, "{method} {path} of another tenant"),
            _ => assert!((200..500).contains(&other), "{method} {path}: {other}"),
        }
    }
    let seen = client.key(&blue).get("sandboxes?limit=1000").await.expect(200);
    assert_eq!(seen["sandboxes"], json!([]));
    assert_eq!(client.key(&blue).get("jails").await.expect(200)["jails"], json!([]));
    assert_eq!(red.get("jails/reds").await.expect(200), jail, "nothing above did anything to it");
    assert_eq!(client.key(&blue).with("x-moat-namespace", "red").get("sandboxes").await.status, 403);
    let all = client.key(&admin).with("x-moat-namespace", "red").get("sandboxes").await.expect(200);
    assert_eq!(all["sandboxes"][0]["id"], id.as_str(), "nothing above did anything to it");
    assert_eq!(all["sandboxes"][0]["state"], "running");
    assert_eq!(client.with("x-api-key", &admin).get("images").await.status, 200);
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/metrics").await.status, 200, "from this machine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_only_this_machine_is_served() {
    let (_host, daemon, client) = up().await;
    for (header, value) in [("host", "rebound.example"), ("origin", "http://evil.example"), ("origin", "null")] {
        let refused = client.with(header, value).get("nodes").await;
        assert_eq!(refused.status, 403, "{header}: {value}");
        assert!(refused.headers.get("access-control-allow-origin").is_none());
    }
    client.with("host", "localhost:8080").with("origin", "http://localhost:3000").get("nodes").await.expect(200);
    let services = moat_node::http::Services {
        sandboxes: daemon.node.sandboxes().clone(),
        templates: daemon.node.templates().clone(),
        keys: daemon.node.keys().clone(),
        pages: None,
        cluster: None,
        jails: None,
        scratch: "/nowhere".into(),
    };
    let refused = moat_node::http::serve(&["0.0.0.0:0".parse().unwrap()], services).await.unwrap_err();
    assert!(refused.to_string().contains("moat api-key create"), "{refused}");
}

/// E-28: a secret in the environment is in no log, no list, no explanation, no other tenant's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e28_a_secret_in_the_environment_is_not_told() {
    const CANARY: &str = "canary-5f1c9e7d";
    let (host, _daemon, client) = up().await;
    let body = json!({"template": "scratch", "env": {"TOKEN": CANARY}, "metadata": {"who": "me"}});
    let sandbox = client.post("sandboxes", &body).await.expect(201);
    let id = sandbox["id"].as_str().unwrap();
    let mut exec = script("echo done");
    exec["env"] = json!({"OTHER": CANARY});
    let mut answers =
        vec![sandbox.to_string(), client.post(&format!("sandboxes/{id}/exec"), &exec).await.expect(200).to_string()];
    exec["command"] = json!("missing");
    answers.push(client.post(&format!("sandboxes/{id}/exec"), &exec).await.expect(422).to_string());
    for path in ["", "/explain", "/stats", "/processes"] {
        let reply = client.get(&format!("sandboxes/{id}{path}")).await;
        assert_eq!(reply.headers["cache-control"], "no-store");
        answers.push(String::from_utf8(reply.bytes).unwrap());
    }
    for path in ["sandboxes", "stats", "nodes", "templates", "/metrics"] {
        answers.push(String::from_utf8(client.get(path).await.bytes).unwrap());
    }
    for answer in &answers {
        assert!(!answer.contains(CANARY), "{answer}");
    }
    readable_by_others(host.dir.path(), &mut |path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{}", path.display());
    });
}

/// Files that another user of the machine could open: every directory above them has to let them through too.
fn readable_by_others(dir: &std::path::Path, look: &mut impl FnMut(&std::path::Path)) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let mode = data.permissions().mode();
        if data.is_dir() && mode & 0o001 != 0 {
            readable_by_others(&path, look);
        } else if data.is_file() && mode & 0o004 != 0 {
            look(&path);
        }
    }
}

/// What a driver that keeps machines can do, through HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_paused_to_disk_forked_and_made_again() {
    let fake = FakeConfig { isolation: Isolation::Microvm, accelerator: Some("tcg"), ..FakeConfig::default() };
    let host = Host::new(fake);
    let daemon = host.up().await;
    let client = daemon.client();
    let made = client.post("sandboxes", &json!({"template": "scratch", "isolation": "microvm"})).await.expect(201);
    assert_eq!((&made["isolation"], &made["isolation_asked"]), (&json!("microvm/tcg"), &json!("microvm")));
    let path = |verb: &str| format!("sandboxes/{}/{verb}", made["id"].as_str().unwrap());
    client.post(&path("pause"), &json!({"to": "tape"})).await.expect(400);
    let stowed = client.post(&path("pause"), &json!({"to": "disk"})).await.expect(200);
    assert_eq!((&stowed["state"], &stowed["stowed"]), (&json!("paused"), &json!(true)));
    for (verb, body) in [("exec", script("true")), ("fork", json!({})), ("snapshots", json!({}))] {
        let refused = client.post(&path(verb), &body).await.expect(409);
        assert_eq!(refused["code"], "conflict", "{verb}: {refused}");
    }
    let resumed = client.post(&path("resume"), &json!({})).await.expect(200);
    assert_eq!((&resumed["state"], &resumed["stowed"]), (&json!("running"), &json!(false)));
    let forked = client.post(&path("fork"), &json!({"count": 2, "memory": true})).await.expect(201);
    assert_eq!((&forked["memory"], forked["children"].as_array().unwrap().len()), (&json!(true), 2));
    assert!(forked["children"].as_array().unwrap().iter().all(|child| child["sandbox"]["parent"] == made["id"]));
    let refused = client.post(&path("fork"), &json!({"memory": false, "require_memory": true})).await.expect(400);
    assert!(refused["message"].as_str().unwrap().starts_with("require_memory: "), "{refused}");
    let kept = client.post(&path("snapshots"), &json!({"name": "whole"})).await.expect(201);
    assert_eq!(
        (&kept["memory"], &kept["driver"], &kept["resources"]),
        (&json!(true), &json!("fake"), &made["resources"])
    );
    let again = client.post("sandboxes", &json!({"snapshot": "whole"})).await.expect(201);
    assert_eq!((&again["isolation_asked"], &again["resources"]), (&json!("microvm"), &made["resources"]));
    let other = json!({"snapshot": "whole", "resources": {"memory_mb": 4096}});
    let refused = client.post("sandboxes", &other).await.expect(400);
    assert!(refused["message"].as_str().unwrap().starts_with("resources.memory_mb: "), "{refused}");
    let nodes = client.get("nodes").await.expect(200);
    assert_eq!(nodes["nodes"][0]["isolation"], json!(["microvm/tcg"]));
    client.delete("snapshots/whole").await.expect(204);
    client.post("sandboxes", &json!({"snapshot": "whole"})).await.expect(404);
}
