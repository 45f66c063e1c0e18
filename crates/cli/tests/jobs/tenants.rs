//! Two keys, two namespaces, one node: over HTTP neither learns that the other's jobs and allocations exist.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use moat_node::api_keys::{ApiKeys, Scope};
use serde_json::{Value, json};

use crate::stage::Stage;

/// A caller with a key.
struct Tenant<'a> {
    host: &'a str,
    key: String,
}

impl Tenant<'_> {
    /// Status and body of an answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let upgrade = if path.contains("/exec") {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        } else {
            "Connection: close\r\n"
        };
        let mut stream = TcpStream::connect(self.host).unwrap();
        let head = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{upgrade}\r\n{body}",
            self.host,
            self.key,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // What might have become a WebSocket has no end: the head is enough.
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..n]);
            if path.contains("/exec") && answer.windows(4).any(|end| end == b"\r\n\r\n") {
                break;
            }
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{text}"));
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn job(&self, id: &str) -> Value {
        let file = format!(
            "job \"{id}\" {{\n task \"t\" {{\n driver = \"exec\"\n config {{\n command = \"/bin/sh\"\n args = [\"-c\", \
             \"echo secret; exec sleep 1000\"]\n }}\n }}\n}}\n"
        );
        let (status, parsed) = self.ask("POST", "jobs/parse", &json!({ "text": file }).to_string());
        assert_eq!(status, 200, "{parsed}");
        parsed["job"].clone()
    }
}

/// Declares the job of each, has each try what it should not, and looks that nothing came of it.
pub async fn neither_reaches_what_is_the_others(stage: &Stage) {
    let api = stage.api();
    let host = api.trim_start_matches("http://");
    let keys = ApiKeys::open(&stage.data_dir().join("api-keys.json")).unwrap();
    let mut made = Vec::new();
    let [blue, red] = ["blue", "red"].map(|namespace| {
        let scope = Scope::Namespace { namespace: namespace.parse().unwrap() };
        let (key, secret) = keys.create(scope, "").unwrap();
        made.push(key.id);
        Tenant { host, key: secret }
    });
    stage.when("the keys are known", async || red.ask("GET", "jobs", "").0 == 200).await;
    for (tenant, namespace) in [(&blue, "blue"), (&red, "red")] {
        let mut job = tenant.job("same");
        job["namespace"] = namespace.into();
        let (status, said) = tenant.ask("POST", "jobs", &json!({ "job": job }).to_string());
        assert_eq!(status, 200, "{said}");
    }
    let running = |tenant: &Tenant<'_>| {
        let (_, list) = tenant.ask("GET", "allocations", "");
        let all = list["allocations"].as_array().cloned().unwrap_or_default();
        assert!(all.len() <= 1, "one of its own: {all:#?}");
        all.into_iter().next().filter(|a| a["client"] == "running")
    };
    stage.when("both run", async || running(&blue).is_some() && running(&red).is_some()).await;
    let of = |tenant: &Tenant<'_>| running(tenant).unwrap()["allocation"]["id"].as_str().unwrap().to_owned();
    let (mine, theirs) = (of(&red), of(&blue));
    assert_ne!(mine, theirs);

    // Of its own, all of it works; of the other's, nothing is there.
    let reads = [
        "",
        "/logs?task=t",
        "/fs/ls?path=/",
        "/fs/stat?path=/",
        "/fs/cat?path=alloc/logs",
        "/stats",
        "/checks",
        "/exec",
    ];
    for what in reads {
        let (status, said) = red.ask("GET", &format!("allocations/{theirs}{what}"), "");
        assert_eq!(status, 404, "{what}: {said}");
        assert!(!said.to_string().contains("blue"), "{said}");
    }
    for what in ["", "/logs?task=t", "/fs/ls?path=/", "/stats", "/checks"] {
        assert_eq!(red.ask("GET", &format!("allocations/{mine}{what}"), "").0, 200, "{what}");
    }
    assert_eq!(red.ask("GET", &format!("allocations/{mine}/exec"), "").0, 101);
    for (what, body) in [("stop", "{}"), ("restart", "{}"), ("signal", "{\"signal\":\"SIGKILL\"}")] {
        let (status, said) = red.ask("POST", &format!("allocations/{theirs}/{what}"), body);
        assert_eq!(status, 404, "{what}: {said}");
    }

    // A job only one of them has, and what came of it.
    let mut job = blue.job("only-blue");
    job["namespace"] = "blue".into();
    let (status, submitted) = blue.ask("POST", "jobs", &json!({ "job": job }).to_string());
    assert_eq!(status, 200, "{submitted}");
    let evaluation = submitted["evaluation"].as_str().unwrap();
    stage
        .when("it has a deployment", async || {
            let (_, list) = blue.ask("GET", "jobs/only-blue/deployments", "");
            list["deployments"].as_array().is_some_and(|all| !all.is_empty())
        })
        .await;
    let (_, list) = blue.ask("GET", "jobs/only-blue/deployments", "");
    let deployment = list["deployments"][0]["id"].as_str().unwrap().to_owned();
    let job_paths = ["", "/summary", "/versions", "/allocations", "/evaluations", "/deployments"];
    let paths = job_paths.iter().map(|end| format!("jobs/only-blue{end}"));
    for path in paths.chain([format!("evaluations/{evaluation}"), format!("deployments/{deployment}")]) {
        assert_eq!(blue.ask("GET", &path, "").0, 200, "{path}");
        assert_eq!(red.ask("GET", &path, "").0, 404, "{path}");
    }
    for (path, body) in [
        ("jobs/only-blue/evaluate".to_owned(), "{}"),
        ("jobs/only-blue/revert".to_owned(), "{\"version\":0}"),
        ("jobs/only-blue/dispatch".to_owned(), "{}"),
        ("jobs/only-blue/periodic/force".to_owned(), "{}"),
        (format!("deployments/{deployment}/fail"), "{}"),
        (format!("deployments/{deployment}/promote"), "{}"),
    ] {
        assert_eq!(red.ask("POST", &path, body).0, 404, "{path}");
    }
    assert_eq!(red.ask("DELETE", "jobs/only-blue", "").0, 404);
    // Nor by saying that one is of the other namespace.
    job["id"] = "smuggled".into();
    assert_eq!(red.ask("POST", "jobs", &json!({ "job": job }).to_string()).0, 400);
    assert!(blue.ask("GET", "jobs/smuggled", "").0 == 404 && red.ask("GET", "jobs/smuggled", "").0 == 404);
    // Nodes are nobody's: a key of a namespace does not empty them.
    assert_eq!(red.ask("POST", "nodes/self/drain", "{\"enable\":true}").0, 403);

    // One's stop of a name both have is the stop of its own.
    assert_eq!(red.ask("DELETE", "jobs/same?purge=true", "").0, 200);
    stage.when("its own has stopped", async || running(&red).is_none()).await;
    let still = blue.ask("GET", &format!("allocations/{theirs}"), "").1;
    assert_eq!((&still["client"], &still["status"]["tasks"]["t"]["restarts"]), (&json!("running"), &json!(0)));
    for job in ["same", "only-blue"] {
        assert_eq!(blue.ask("DELETE", &format!("jobs/{job}?purge=true"), "").0, 200);
    }
    stage
        .when("nothing runs", async || {
            let (_, list) = blue.ask("GET", "allocations", "");
            list["allocations"].as_array().is_none_or(|all| all.iter().all(|a| a["client"] != "running"))
        })
        .await;
    made.iter().for_each(|id| keys.revoke(id).unwrap());
}
