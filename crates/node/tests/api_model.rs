//! Random calls against a simple picture of what they should do, with the daemon dying in between: nothing is stuck,
//! nothing is left, and a delete always succeeds. `MOAT_TEST_API_CALLS` (2,000) sets how many;
//! `MOAT_TEST_SEED` repeats one.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/rest.rs"]
mod rest;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use moat_engine::fake::FakeConfig;
use moat_testkit::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rest::{Client, Host, Reply, SOON};
use serde_json::{Value, json};

/// Most sandboxes alive at once.
const LIVE_MAX: usize = 12;
/// A daemon lives for about so many calls.
const CALLS_PER_DAEMON: u32 = 200;

/// The whole model of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Running,
    Paused,
}

struct Model {
    rng: StdRng,
    live: BTreeMap<String, Is>,
    gone: Vec<String>,
    snapshots: Vec<String>,
    client: Client,
    daemon: u32,
}

impl Model {
    fn one(&mut self) -> Option<(String, Is)> {
        let n = self.rng.random_range(0..self.live.len().max(1));
        self.live.iter().nth(n).map(|(id, is)| (id.clone(), *is))
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.client.post(path, &body).await
    }

    async fn call(&mut self) {
        match self.rng.random_range(0..100) {
            0..10 if self.live.len() < LIVE_MAX => self.create().await,
            0..14 => self.delete().await,
            14..20 => self.garbage().await,
            20..26 => self.list().await,
            26..30 => self.of_the_gone().await,
            30..34 => self.branch().await,
            _ => self.use_one().await,
        }
    }

    async fn create(&mut self) {
        let answer =
            self.post("sandboxes", json!({"template": "scratch", "metadata": {"by": "model"}})).await.expect(201);
        assert_eq!(answer["state"], "running");
        self.live.insert(answer["id"].as_str().unwrap().to_owned(), Is::Running);
    }

    async fn delete(&mut self) {
        let Some((id, _)) = self.one() else { return };
        self.client.delete(&format!("sandboxes/{id}")).await.expect(204);
        self.live.remove(&id);
        self.gone.push(id);
    }

    async fn garbage(&mut self) {
        let id = self.one().map_or_else(|| "sb-none".to_owned(), |(id, _)| id);
        let bytes: Vec<u8> = (0..self.rng.random_range(1..40)).map(|_| self.rng.random_range(32..127)).collect();
        let text = String::from_utf8(bytes).unwrap();
        let segment: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let json = self.client.with("content-type", "application/json");
        let (method, path, body) = match self.rng.random_range(0..6) {
            0 => ("POST", "sandboxes".to_owned(), text),
            1 => ("POST", format!("sandboxes/{id}/keepalive"), format!("{{\"{segment}x\": 1}}")),
            2 => ("GET", format!("sandboxes/x{segment}"), String::new()),
            3 => ("PUT", format!("sandboxes/{id}"), text),
            4 => ("GET", format!("sandboxes?x{segment}=1"), String::new()),
            _ => ("POST", format!("sandboxes/{id}/exec"), json!({"command": "sh", "args": text}).to_string()),
        };
        let reply = json.ask(method, &path, Body::from(body.clone())).await;
        assert!(reply.status.is_client_error(), "{method} {path} {body}: {}", reply.status);
        assert!(reply.json()["code"].is_string());
    }

    async fn list(&mut self) {
        let page = self.client.get("sandboxes?limit=1000").await.expect(200);
        let seen: BTreeMap<String, String> = page["sandboxes"].as_array().unwrap().iter().map(named).collect();
        let known = self.live.iter().map(|(id, is)| (id.clone(), word(*is).to_owned())).collect();
        assert_eq!(seen, known);
        let other = self.client.with("x-moat-namespace", "other").get("sandboxes").await.expect(200);
        assert_eq!(other["sandboxes"], json!([]));
    }

    async fn of_the_gone(&mut self) {
        if self.gone.is_empty() {
            return;
        }
        let id = self.gone[self.rng.random_range(0..self.gone.len())].clone();
        let verb = ["pause", "resume", "keepalive", "fork"][self.rng.random_range(0..4)];
        let refused = self.post(&format!("sandboxes/{id}/{verb}"), json!({})).await;
        assert!(matches!(refused.status.as_u16(), 404 | 409), "{verb} of one that is gone: {}", refused.status);
        let explained = self.client.get(&format!("sandboxes/{id}/explain")).await;
        assert!(matches!(explained.status.as_u16(), 200 | 404), "{}", explained.status);
    }

    /// What this driver may not be able to do is refused as such, and then changes nothing.
    async fn branch(&mut self) {
        let Some((id, _)) = self.one() else { return };
        if let Some(name) = self.snapshots.pop_if(|_| self.rng.random_bool(0.5)) {
            let removed = self.client.delete(&format!("snapshots/{name}")).await;
            assert!(matches!(removed.status.as_u16(), 204 | 409), "{}", removed.status);
        } else if self.rng.random_bool(0.5) {
            let taken = self.post(&format!("sandboxes/{id}/snapshots"), json!({})).await;
            assert!(matches!(taken.status.as_u16(), 201 | 422), "{:?}", String::from_utf8_lossy(&taken.bytes));
            if taken.status == 201 {
                self.snapshots.push(taken.json()["id"].as_str().unwrap().to_owned());
            }
        } else if self.live.len() < LIVE_MAX {
            let forked = self.post(&format!("sandboxes/{id}/fork"), json!({})).await;
            assert!(matches!(forked.status.as_u16(), 201 | 422), "{:?}", String::from_utf8_lossy(&forked.bytes));
            if forked.status == 201 {
                let children = forked.json()["children"].as_array().unwrap().clone();
                let made = children.iter().filter_map(|child| child["sandbox"]["id"].as_str());
                self.live.extend(made.map(|id| (id.to_owned(), Is::Running)));
            }
        }
    }

    async fn use_one(&mut self) {
        let Some((id, is)) = self.one() else { return };
        let path = |verb: &str| format!("sandboxes/{id}/{verb}");
        match self.rng.random_range(0..7) {
            0 => {
                let seen = self.client.get(&format!("sandboxes/{id}")).await.expect(200);
                assert_eq!(seen["state"], word(is));
            }
            1 => {
                let ran = self.post(&path("exec"), json!({"command": "sh", "args": ["-c", "echo hi"]})).await;
                assert_eq!(ran.status.as_u16(), if is == Is::Running { 200 } else { 409 });
            }
            2 => drop(self.post(&path("keepalive"), json!({"timeout_sec": 3600})).await.expect(200)),
            3 => {
                self.post(&path("pause"), json!({})).await.expect(200);
                self.live.insert(id, Is::Paused);
            }
            4 => {
                self.post(&path("resume"), json!({})).await.expect(200);
                self.live.insert(id, Is::Running);
            }
            5 => drop(self.client.get(&path("explain")).await.expect(200)),
            _ => {
                let other = self.client.with("x-moat-namespace", "other");
                assert_eq!(other.get(&format!("sandboxes/{id}")).await.status, 404);
                assert_eq!(other.delete(&format!("sandboxes/{id}")).await.status, 404);
            }
        }
    }

    /// A call whose answer nobody hears, because the daemon dies.
    async fn unheard(&mut self) {
        let (client, one) = (self.client.clone(), self.one());
        let which = self.rng.random_range(0..4);
        let wait = Duration::from_micros(self.rng.random_range(0..4000));
        let asked = tokio::spawn(async move {
            let (method, path) = match (which, one) {
                (0, _) | (_, None) => ("POST", "sandboxes".to_owned()),
                (1, Some((id, _))) => ("DELETE", format!("sandboxes/{id}")),
                (2, Some((id, _))) => ("POST", format!("sandboxes/{id}/pause")),
                (_, Some((id, _))) => ("POST", format!("sandboxes/{id}/resume")),
            };
            let body = if path == "sandboxes" { r#"{"template": "scratch"}"# } else { "" };
            let json = client.with("content-type", "application/json");
            drop(json.open(method, &path, Body::from(body)).await);
        });
        tokio::time::sleep(wait).await;
        asked.abort();
    }

    /// After a death: every sandbox comes to rest, and what happened in the dark is learnt.
    async fn learn(&mut self) {
        let resting = wait_until(SOON, "every sandbox rests", async || {
            let page = self.client.get("sandboxes?limit=1000").await.expect(200);
            let seen: BTreeMap<String, String> = page["sandboxes"].as_array().unwrap().iter().map(named).collect();
            seen.values().all(|state| state == "running" || state == "paused").then_some(seen)
        });
        let seen = resting.await.unwrap();
        let lost = self.live.keys().filter(|id| !seen.contains_key(*id)).count();
        let new = seen.keys().filter(|id| !self.live.contains_key(*id)).count();
        assert!(lost <= 1 && new <= 1, "one call was in the dark, but {lost} are lost and {new} are new");
        let is = |state: &str| if state == "paused" { Is::Paused } else { Is::Running };
        let changed = seen.iter().filter(|(id, state)| self.live.get(*id).is_some_and(|old| *old != is(state))).count();
        assert!(changed <= 1, "one call was in the dark, but {changed} have changed");
        self.live = seen.into_iter().map(|(id, state)| (id, is(&state))).collect();
        self.daemon += 1;
    }
}

fn named(sandbox: &Value) -> (String, String) {
    (sandbox["id"].as_str().unwrap().to_owned(), sandbox["state"].as_str().unwrap().to_owned())
}

fn word(is: Is) -> &'static str {
    match is {
        Is::Running => "running",
        Is::Paused => "paused",
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_calls_and_dying_daemons() {
    let seed = number("MOAT_TEST_SEED", rand::random());
    let calls = u32::try_from(number("MOAT_TEST_API_CALLS", 2_000)).unwrap();
    println!("MOAT_TEST_SEED={seed}");
    let host = Host::new(FakeConfig::default());
    let mut daemon = host.up().await;
    let (rng, client) = (StdRng::seed_from_u64(seed), daemon.client());
    let mut model = Model { rng, live: BTreeMap::new(), gone: Vec::new(), snapshots: Vec::new(), client, daemon: 1 };
    for call in 1..=calls {
        model.call().await;
        if call % CALLS_PER_DAEMON == 0 {
            model.unheard().await;
            daemon.crash();
            daemon = host.up().await;
            model.client = daemon.client();
            model.learn().await;
        }
    }
    for id in model.live.keys() {
        model.client.delete(&format!("sandboxes/{id}")).await.expect(204);
    }
    let left = model.client.get("sandboxes").await.expect(200);
    assert_eq!(left["sandboxes"], json!([]));
    assert!(host.world.alive().is_empty(), "{:?}", host.world.alive());
    assert!(host.world.resources().is_empty(), "{:?}", host.world.resources());
    println!("{calls} calls, {} daemons", model.daemon);
}
