//! Sandboxes from an image as anybody has them: a daemon process, the container driver, a nats-server, a registry, HTTP.
//!
//! `MOAT_TEST_PAUSES` (50) and `MOAT_TEST_TRANSFER_BYTES` (300 MB) set how long it goes on.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/child.rs"]
mod child;
#[path = "support/image_host.rs"]
mod image_host;
#[path = "support/rest.rs"]
mod rest;

use std::process::Command;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use image_host::{Host, SOON, UID};
use moat_testkit::{LeakAudit, shared, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::Message;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Bytes that do not repeat and need not be kept.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Runs what the seed says, on this port; the status and the body.
async fn curl(host: &Host, line: &str) -> (u16, Value) {
    let line = line.replace("localhost:8080", &format!("127.0.0.1:{}", host.port()));
    let full = format!("{line} -s --noproxy '*' -w '\\n%{{http_code}}'");
    let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &full]).output().unwrap());
    let text = String::from_utf8(output.await.unwrap().stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// The seed's Quick Start and its API tables, as they are written there: only port, image and program are ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_sequence_word_for_word() {
    let _beside = shared().unwrap();
    let Some(host) = Host::start("seed-sequence", "").await else { return };
    let warm_up = r#"curl -X POST http://localhost:8080/api/v1/templates/warmup \
  -H "Content-Type: application/json" \
  -d '{"name": "node22", "image": "node:22-alpine"}'"#;
    let (status, answer) = curl(&host, &warm_up.replace("node:22-alpine", &host.image())).await;
    assert_eq!(status, 202, "{answer}");
    let done = wait_until(SOON, "warm-up", async || {
        let (status, answer) = curl(&host, "curl http://localhost:8080/api/v1/templates/node22/status").await;
        assert_eq!(status, 200, "{answer}");
        (answer["status"] == "ready").then_some(())
    });
    done.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
    let (status, sandbox) = curl(
        &host,
        r#"curl -X POST http://localhost:8080/api/v1/sandboxes \
  -H "Content-Type: application/json" \
  -d '{"template": "node22", "resources": {"vcpu": 2, "memory_mb": 512}}'"#,
    )
    .await;
    assert_eq!(status, 201, "{sandbox}\n{}", host.log());
    let id = sandbox["id"].as_str().unwrap();
    assert!(id.starts_with("sb-") && sandbox["boot_time_ms"].as_f64().unwrap() > 0.0, "{sandbox}");
    assert_eq!((&sandbox["resources"]["vcpu"], &sandbox["resources"]["memory_mb"]), (&json!(2.0), &json!(512)));
    assert_eq!((&sandbox["isolation"], &sandbox["template"]), (&json!("container"), &json!("node22")));
    let exec = r#"curl -X POST http://localhost:8080/api/v1/sandboxes/{id}/exec \
  -H "Content-Type: application/json" \
  -d '{"command": "node", "args": ["-e", "console.log(JSON.stringify({ok:true}))"]}'"#;
    let exec = exec.replace("{id}", id).replace(r#""node""#, r#""echo""#);
    let (status, result) = curl(&host, &exec).await;
    let said = json!("console.log(JSON.stringify({ok:true}))\n");
    assert_eq!((status, &result["exit_code"], &result["stdout"]), (200, &json!(0), &said), "{result}");
    let asked = async |method: &str, path: &str, expected: u16| -> Value {
        let path = path.replace("{id}", id).replace("{name}", "node22");
        let (status, answer) = curl(&host, &format!("curl -X {method} http://localhost:8080/api/v1{path}")).await;
        assert_eq!(status, expected, "{method} {path}: {answer}\n{}", host.log());
        answer
    };
    asked("POST", "/sandboxes/{id}/keepalive", 200).await;
    assert_eq!(asked("POST", "/sandboxes/{id}/pause", 200).await["state"], "paused");
    assert_eq!(asked("POST", "/sandboxes/{id}/resume", 200).await["state"], "running");
    assert_eq!(asked("GET", "/sandboxes", 200).await["sandboxes"][0]["id"], *id);
    assert_eq!(asked("GET", "/sandboxes/{id}", 200).await["state"], "running");
    asked("DELETE", "/sandboxes/{id}", 204).await;
    let templates = asked("GET", "/templates", 200).await;
    assert!(templates["templates"].as_array().unwrap().iter().any(|t| t["name"] == "node22"), "{templates}");
    assert_eq!(asked("GET", "/templates/{name}/status", 200).await["status"], "ready");
    assert_eq!(asked("GET", "/nodes", 200).await["nodes"][0]["templates"].as_array().unwrap().len(), 3);
    assert_eq!(asked("GET", "/stats", 200).await["created_total"], 1);
    asked("DELETE", "/templates/{name}", 204).await;
    asked("GET", "/templates/{name}/status", 404).await;
}

/// E-2: what is in files outlives pauses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e02_files_survive_fifty_pauses() {
    let _beside = shared().unwrap();
    let Some(host) = Host::start("E-2", "").await else { return };
    host.warm_up("tools").await;
    let id = host.create(json!({"template": "tools"})).await;
    let (client, rounds, mut noise) = (host.client(), number("MOAT_TEST_PAUSES", 50), Noise(7));
    let mut expected = Vec::new();
    let began = Instant::now();
    for round in 0..rounds {
        let content = noise.bytes(1000 * usize::try_from(round).unwrap());
        let path = format!("d{:02}/sub/f{round:02}", round % 7);
        expected.push(format!("{}  ./{path}", hex::encode(Sha256::digest(&content))));
        let directory = json!({"path": format!("/data/tree/d{:02}/sub", round % 7)});
        client.post(&format!("sandboxes/{id}/files/mkdir"), &directory).await.expect(200);
        let written = client.ask("PUT", &format!("sandboxes/{id}/files?path=/data/tree/{path}"), content.into()).await;
        assert_eq!(written.status, 200, "{round}: {}", String::from_utf8_lossy(&written.bytes));
        let paused = client.post(&format!("sandboxes/{id}/pause"), &json!({})).await.expect(200);
        assert_eq!(paused["state"], "paused", "{round}");
        client.get(&format!("sandboxes/{id}/files?path=/data/tree/{path}")).await.expect(409);
        let resumed = client.post(&format!("sandboxes/{id}/resume"), &json!({})).await.expect(200);
        assert_eq!(resumed["state"], "running", "{round}");
    }
    println!("{rounds} pauses in {:?}", began.elapsed());
    expected.sort_by(|a, b| a[64..].cmp(&b[64..]));
    let found = host.sh(&id, "cd tree && find . -type f | sort | xargs sha256sum").await;
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

/// Resident memory of a process, now and at its highest since [`forget_peak`].
fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// E-7: a large file in and out, and the daemon, a process of its own, holds next to nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e07_large_transfers_with_flat_memory() {
    const GROWTH_MAX: u64 = 64 << 20;
    const PIECE: usize = 1 << 20;
    let _beside = shared().unwrap();
    let Some(host) = Host::start("E-7", "").await else { return };
    host.warm_up("tools").await;
    let total = number("MOAT_TEST_TRANSFER_BYTES", 300_000_000);
    let disk_mb = (total >> 20) + 64;
    let resources = json!({"memory_mb": disk_mb + 256, "disk_mb": disk_mb});
    let id = host.create(json!({"template": "tools", "resources": resources})).await;
    let (client, path) = (host.client(), format!("sandboxes/{id}/files?path=/data/large"));
    forget_peak(host.pid());
    let (before, _) = resident(host.pid());
    let (mut noise, mut sent, mut left) = (Noise(11), Sha256::new(), total);
    let (hash, hashed) = tokio::sync::oneshot::channel();
    let mut hash = Some(hash);
    let pieces = futures::stream::iter(std::iter::from_fn(move || {
        let piece = noise.bytes(PIECE.min(usize::try_from(left).unwrap()));
        left -= u64::try_from(piece.len()).unwrap();
        sent.update(&piece);
        if piece.is_empty() {
            let _ = hash.take()?.send(sent.clone().finalize());
            return None;
        }
        Some(Ok::<_, std::io::Error>(Bytes::from(piece)))
    }));
    let began = Instant::now();
    let uploaded = client.ask("PUT", &path, Body::from_stream(pieces)).await;
    assert_eq!(uploaded.status, 200, "{}\n{}", String::from_utf8_lossy(&uploaded.bytes), host.log());
    assert_eq!(uploaded.json()["bytes"], total);
    let (in_took, sent) = (began.elapsed(), hashed.await.unwrap());
    let inside = host.sh(&id, "sha256sum large").await;
    assert_eq!(inside.split(' ').next().unwrap(), hex::encode(sent));
    let (began, mut received, mut count) = (Instant::now(), Sha256::new(), 0);
    let response = client.open("GET", &path, Body::empty()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body().into_data_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.unwrap();
        received.update(&piece);
        count += u64::try_from(piece.len()).unwrap();
    }
    let out_took = began.elapsed();
    assert_eq!((count, received.finalize()), (total, sent), "what came back");
    let (after, peak) = resident(host.pid());
    println!("{total} bytes in within {in_took:?}, out within {out_took:?}; RSS {before}, peak {peak}, after {after}");
    assert!(peak.saturating_sub(before) < GROWTH_MAX, "{before} grew to {peak}");
}

/// E-18: forks and snapshots have the files, and say that they do not have the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e18_a_fork_has_the_files() {
    const LOOK: &str = "cat note; id -u; pwd; echo $GREETING";
    let _beside = shared().unwrap();
    let Some(host) = Host::start("E-18", "").await else { return };
    host.warm_up("tools").await;
    let client = host.client();
    let parent = host.create(json!({"template": "tools"})).await;
    client.ask("PUT", &format!("sandboxes/{parent}/files?path=/data/note"), "of the parent\n".into()).await.expect(200);
    let expected = format!("of the parent\n{UID}\n/data\nhello\n");
    assert_eq!(host.sh(&parent, LOOK).await, expected);
    let fork = format!("sandboxes/{parent}/fork");
    let refused = client.post(&fork, &json!({"require_memory": true})).await;
    assert!(refused.status.is_client_error() || refused.status == 501, "{refused:?}");
    assert_eq!(refused.json()["code"], "unsupported");
    let forked = client.post(&fork, &json!({"count": 3})).await;
    assert!(forked.status.is_success(), "{forked:?}\n{}", host.log());
    let forked = forked.json();
    assert_eq!(forked["memory"], false, "{forked}");
    let children: Vec<&str> =
        forked["children"].as_array().unwrap().iter().map(|c| c["sandbox"]["id"].as_str().unwrap()).collect();
    assert_eq!(children.len(), 3);
    for (n, child) in children.iter().enumerate() {
        assert_eq!(host.sh(child, LOOK).await, expected, "{child}");
        host.sh(child, &format!("echo {n} > own && echo {n} >> note")).await;
    }
    for (n, child) in children.iter().enumerate() {
        assert_eq!(host.sh(child, "cat note own").await, format!("of the parent\n{n}\n{n}\n"));
    }
    assert_eq!(host.sh(&parent, "cat note; ls").await, "of the parent\nnote\n", "the parent is as it was");
    let snapshot = client.post(&format!("sandboxes/{parent}/snapshots"), &json!({"name": "with-note"})).await;
    assert!(snapshot.status.is_success(), "{snapshot:?}\n{}", host.log());
    assert_eq!(snapshot.json()["memory"], false);
    client.delete(&format!("sandboxes/{parent}")).await.expect(204);
    let restored = host.create(json!({"snapshot": "with-note"})).await;
    assert_eq!(host.sh(&restored, LOOK).await, expected);
}

/// E-20: a daemon that is killed loses nothing, and the next one leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e20_a_killed_daemon_leaves_nothing() {
    const POOL: &str = "[pool]\nreplenish_interval_sec = 1\n\
                        [[pool.templates]]\nname = \"tools\"\nmin_ready = 2\nmax_ready = 3\n";
    const CLEAN_WITHIN: Duration = Duration::from_secs(60);
    let _beside = shared().unwrap();
    let Some(mut host) = Host::start("E-20", POOL).await else { return };
    // The parent cgroup is made by the first sandbox and stays.
    let first = host.create(json!({"template": "scratch"})).await;
    host.client().delete(&format!("sandboxes/{first}")).await.expect(204);
    let audit = LeakAudit::of_cgroup(&host.cgroup);
    host.warm_up("tools").await;
    let pool_ready = async |host: &Host| {
        let client = host.client();
        let ready = wait_until(SOON, "the pool", async || {
            let stats = client.get("stats").await.expect(200);
            (stats["pool_ready"].as_u64().unwrap() >= 2).then_some(())
        });
        ready.await.unwrap_or_else(|e| panic!("{e}: {}", host.log()));
    };
    pool_ready(&host).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let id = host.create(json!({"template": "tools", "metadata": {"n": n.to_string()}})).await;
        host.sh(&id, &format!("echo {n} > mine")).await;
        ids.push(id);
    }
    let stats = host.client().get("stats").await.expect(200);
    assert!(stats["pool_hits"].as_u64().unwrap() >= 1, "{stats}");
    host.kill();
    assert!(!host.mounts().is_empty(), "sandboxes live on, so their layers are still mounted");
    let began = Instant::now();
    host.up().await;
    println!("the next daemon answered after {:?}", began.elapsed());
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(host.sh(id, "cat mine").await, format!("{n}\n"));
    }
    pool_ready(&host).await;
    let late = host.create(json!({"template": "tools"})).await;
    assert_eq!(host.sh(&late, "echo $GREETING").await, "hello\n");
    for id in ids.iter().chain([&late]) {
        host.client().delete(&format!("sandboxes/{id}")).await.expect(204);
    }
    host.stop();
    assert_eq!(host.mounts(), Vec::<String>::new(), "{}", host.log());
    audit.assert_same(CLEAN_WITHIN).await.unwrap_or_else(|e| panic!("{e}\n{}", host.log()));
    let records = std::fs::read_dir(host.run_dir.path().join("sandboxes")).map(Iterator::count).unwrap_or(0);
    assert_eq!(records, 0, "records of sandboxes are left");
}

/// A terminal on a WebSocket: its size, a new size, and what the shell ended with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_a_size_and_an_end() {
    let _beside = shared().unwrap();
    let Some(host) = Host::start("terminal", "").await else { return };
    host.warm_up("tools").await;
    let id = host.create(json!({"template": "tools"})).await;
    let url = format!("ws://127.0.0.1:{}/api/v1/sandboxes/{id}/terminal?rows=11&cols=33", host.port());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut shown = String::new();
    let mut exited = Value::Null;
    let steps = [("stty size\n", "11 33"), ("stty size\n", "22 44"), ("tty; id -u\n", "1000"), ("exit 7\n", "")];
    for (typed, awaited) in steps {
        if awaited == "22 44" {
            let resize = json!({"input": "resize", "rows": 22, "cols": 44});
            socket.send(Message::text(resize.to_string())).await.unwrap();
        }
        socket.send(Message::binary(typed.as_bytes().to_vec())).await.unwrap();
        while exited.is_null() && (awaited.is_empty() || !shown.contains(awaited)) {
            match tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Binary(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    if event["event"] == "exited" {
                        exited = event;
                    }
                }
                _ => {}
            }
        }
        assert!(shown.contains(awaited), "{awaited}: {shown:?}");
    }
    assert_eq!(exited["exit_code"], 7, "{shown}");
}

/// Trees as archives, both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_travel_as_archives() {
    let _beside = shared().unwrap();
    let Some(host) = Host::start("tar", "").await else { return };
    host.warm_up("tools").await;
    let (id, client) = (host.create(json!({"template": "tools"})).await, host.client());
    let mut archive = tar::Builder::new(Vec::new());
    let mut noise = Noise(5);
    let contents: Vec<(String, Vec<u8>)> =
        (0..40).map(|n| (format!("d{}/e/f{n}", n % 4), noise.bytes(n * 5000))).collect();
    for (name, content) in &contents {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(u64::try_from(content.len()).unwrap());
        archive.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_mode(0o777);
    link.set_uid(0);
    link.set_gid(0);
    link.set_mtime(1_700_000_000);
    link.set_size(0);
    archive.append_link(&mut link, "link", "d1/e/f1").unwrap();
    let archive = archive.into_inner().unwrap();
    client.post(&format!("sandboxes/{id}/files/mkdir"), &json!({"path": "/data/in"})).await.expect(200);
    client.ask("PUT", &format!("sandboxes/{id}/files/tar?path=/data/in"), archive.into()).await.expect(200);
    assert_eq!(
        host.sh(&id, "cd in && find . -type f | wc -l && ls -l link | grep -o 'link.*'").await,
        "40\nlink -> d1/e/f1\n"
    );
    let back = client.get(&format!("sandboxes/{id}/files/tar?path=/data/in")).await;
    assert_eq!(back.status, 200);
    let mut found = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(back.bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        found.insert(path, (content, entry.header().mode().unwrap() & 0o7777));
    }
    for (name, content) in &contents {
        let (_, (bytes, mode)) = found.iter().find(|(path, _)| path.ends_with(name.as_str())).unwrap();
        assert!(bytes == content && *mode == 0o640, "{name}: {} bytes, mode {mode:o}", bytes.len());
    }
}
