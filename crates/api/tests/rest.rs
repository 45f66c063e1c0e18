//! The REST client against a server that answers what a test wants.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::Path;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use moat_api::client::rest::{RestClient, RestOptions};
use moat_api::client::{ExecControl, ExecOutput};
use moat_api::rest::ErrorBody;
use moat_api::rest::exec::{Exec, ExecControl as Input, ExecEvent};
use moat_api::rest::image::{PullEvent, PullImage};
use moat_api::rest::network::{
    Egress, NetworkOptions, NetworkStatus, NetworkTest, NetworkWish, RefusedRanges, Rule, TestNetwork,
    TestedDestination,
};
use moat_model::spec::{PtySize, Signal};
use moat_model::{ErrorKind, Namespace};

fn error(status: StatusCode, code: &str, hint: Option<&str>) -> Response {
    let body = ErrorBody {
        code: code.to_owned(),
        message: "it says why".to_owned(),
        hint: hint.map(str::to_owned),
        id: "r1".to_owned(),
    };
    (status, Json(body)).into_response()
}

async fn look(Path(id): Path<String>, headers: HeaderMap) -> Response {
    match id.as_str() {
        "gone" => error(StatusCode::NOT_FOUND, "not_found", Some("look elsewhere")),
        "bug" => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", None),
        "proxy" => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        "away" => (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response(),
        "slow" => std::future::pending().await,
        "key" => {
            let said = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
            let text = format!("{} {}", said("authorization"), said("x-moat-namespace"));
            (
                StatusCode::FORBIDDEN,
                Json(ErrorBody { code: "denied".to_owned(), message: text, hint: None, id: String::new() }),
            )
                .into_response()
        }
        _ => "no JSON".into_response(),
    }
}

/// Echoes its input, tells of resizes and signals, and ends with 7 when the input ends.
async fn session(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        let event = |event: &ExecEvent| Message::text(serde_json::to_string(event).unwrap());
        let Some(Ok(Message::Text(start))) = socket.recv().await else { panic!("no start") };
        let Input::Start { exec } = serde_json::from_str(&start).unwrap() else { panic!("{start}") };
        socket.send(event(&ExecEvent::Started { pid: 42 })).await.unwrap();
        let stderr = |text: String| ExecEvent::Stderr { text: Some(text), base64: None, offset: 0 };
        socket.send(event(&stderr(exec.command))).await.unwrap();
        while let Some(Ok(message)) = socket.recv().await {
            let answer = match message {
                Message::Binary(bytes) => Message::Binary(bytes),
                Message::Text(text) => match serde_json::from_str(&text).unwrap() {
                    Input::Resize { rows, cols } => event(&stderr(format!("{rows}x{cols}"))),
                    Input::Signal { signal } => event(&stderr(signal)),
                    Input::CloseStdin => {
                        let base64 = Some("/wA=".to_owned());
                        socket.send(event(&ExecEvent::Stdout { text: None, base64, offset: 0 })).await.unwrap();
                        let end = ExecEvent::Exited { exit_code: 7, signal: None, timed_out: false, duration_ms: None };
                        socket.send(event(&end)).await.unwrap();
                        continue;
                    }
                    other => panic!("{other:?}"),
                },
                _ => continue,
            };
            socket.send(answer).await.unwrap();
        }
    })
}

async fn pull() -> &'static str {
    "{\"event\":\"progress\",\"phase\":\"fetching\",\"layers\":[]}\n\
     {\"event\":\"failed\",\"error\":{\"code\":\"denied\",\"message\":\"no\",\"id\":\"\"}}\n"
}

/// Gives what was asked for.
async fn rewire(Json(options): Json<NetworkOptions>) -> Json<NetworkStatus> {
    Json(NetworkStatus {
        mode: options.mode.unwrap(),
        address: Some([10, 1, 2, 3].into()),
        gateway: None,
        name: options.name,
        names: Vec::new(),
        egress: options.egress.unwrap_or_default(),
        refused: RefusedRanges::default(),
        publish: options.publish,
        limits: options.limits.unwrap_or_default(),
    })
}

/// Denies by the first rule whatever is asked.
async fn tested(Json(test): Json<TestNetwork>) -> Json<NetworkTest> {
    let by = test.network.map_or("mode", |_| "rule").to_owned();
    let result = |destination| TestedDestination {
        destination,
        address: None,
        allowed: false,
        by: by.clone(),
        rule: Some(0),
        why: String::new(),
    };
    Json(NetworkTest { results: test.destinations.into_iter().map(result).collect() })
}

async fn server() -> SocketAddr {
    let router = Router::new()
        .route("/api/v1/sandboxes/{id}", get(look))
        .route("/api/v1/sandboxes/{id}/exec/ws", any(session))
        .route("/api/v1/sandboxes/{id}/network", put(rewire))
        .route("/api/v1/sandboxes/{id}/network/test", post(tested))
        .route("/api/v1/network/test", post(tested))
        .route("/api/v1/images/pull", post(pull));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn client() -> RestClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = RestOptions {
        url: format!("http://{}/", server().await),
        api_key: Some("moat_k".to_owned()),
        namespace: Some(Namespace::parse("team").unwrap()),
        quick: Duration::from_secs(2),
        ..RestOptions::default()
    };
    RestClient::new(options).unwrap()
}

#[tokio::test]
async fn failures_have_their_kind_and_hint() {
    let client = client().await;
    for (id, kind, hint) in [
        ("gone", ErrorKind::NotFound, Some("look elsewhere")),
        ("bug", ErrorKind::Internal, Some("request r1")),
        ("proxy", ErrorKind::Unavailable, Some("is the URL right?")),
        ("away", ErrorKind::Unavailable, Some("is the URL right?")),
        ("text", ErrorKind::Internal, Some("belong to a moat node")),
        ("slow", ErrorKind::Deadline, None),
    ] {
        let error = client.sandbox(id).await.unwrap_err();
        assert_eq!(error.kind, kind, "{id}: {}", error.chain());
        let told = error.hint.as_deref();
        assert!(hint.is_none_or(|hint| told.is_some_and(|told| told.contains(hint))), "{id}: {told:?}");
    }
    assert!(client.sandbox("gone").await.unwrap_err().chain().ends_with("it says why"));
}

#[tokio::test]
async fn the_key_and_the_namespace_ride_along() {
    let error = client().await.sandbox("key").await.unwrap_err();
    assert!(error.chain().ends_with("Bearer moat_k team"), "{}", error.chain());
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_what_helps() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = "http://127.0.0.1:1".to_owned();
    let client = RestClient::new(RestOptions { url, ..RestOptions::default() }).unwrap();
    let error = client.sandbox("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.hint.unwrap().contains("moat up"));
    for url in ["nats://a", "unix:/run/x", "nonsense"] {
        let options = RestOptions { url: url.to_owned(), ..RestOptions::default() };
        assert_eq!(RestClient::new(options).unwrap_err().kind, ErrorKind::InvalidSpec, "{url}");
    }
}

#[tokio::test]
async fn a_session_carries_everything_both_ways() {
    let client = client().await;
    let exec = Exec { command: "cat".to_owned(), ..Exec::default() };
    let mut session = client.session("sb", exec).await.unwrap();
    assert_eq!(session.pid, 42);
    let mut next = async || session.output.recv().await.unwrap().unwrap();
    assert_eq!(next().await, ExecOutput::Stderr(Bytes::from("cat")));
    session.stdin.send(Bytes::from("hello")).await.unwrap();
    assert_eq!(next().await, ExecOutput::Stdout(Bytes::from("hello")));
    session.control.send(ExecControl::Resize(PtySize { rows: 3, cols: 4 })).await.unwrap();
    assert_eq!(next().await, ExecOutput::Stderr(Bytes::from("3x4")));
    session.control.send(ExecControl::Signal(Signal::INT)).await.unwrap();
    assert_eq!(next().await, ExecOutput::Stderr(Bytes::from("2")));
    drop(session.stdin);
    assert_eq!(next().await, ExecOutput::Stdout(Bytes::from_static(&[0xff, 0])));
    let ExecOutput::Exited(end) = next().await else { panic!("no end") };
    assert_eq!(end.exit.code, 7);
}

#[tokio::test]
async fn ids_are_one_segment_of_the_path() {
    let client = client().await;
    let session = client.session("a/../../x", Exec::default()).await.unwrap();
    assert_eq!(session.pid, 42, "nothing in an id leads to another route");
    assert_eq!(client.attach("sb", 1).await.unwrap_err().kind, ErrorKind::NotFound, "no such route here");
}

#[tokio::test]
async fn a_pull_tells_its_lines() {
    let client = client().await;
    let mut lines = client.pull(&PullImage { image: "a".to_owned(), ..PullImage::default() }).await.unwrap();
    assert!(matches!(lines.next().await, Some(Ok(PullEvent::Progress { .. }))));
    assert!(matches!(lines.next().await, Some(Ok(PullEvent::Failed { .. }))));
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn networks_are_changed_and_tested() {
    let client = client().await;
    let deny = Rule { action: "deny".to_owned(), domain: Some("a.org".to_owned()), ..Rule::default() };
    let wanted = NetworkOptions {
        mode: Some("internet".to_owned()),
        egress: Some(Egress { default: None, rules: vec![deny.clone()] }),
        ..NetworkOptions::default()
    };
    let status = client.set_sandbox_network("sb", &wanted).await.unwrap();
    assert_eq!((status.mode.as_str(), status.egress.rules), ("internet", vec![deny]));
    let destinations = vec!["a.org:443".to_owned()];
    let what_if = Some(NetworkWish::Options(Box::new(wanted)));
    let test = TestNetwork { network: what_if, destinations: destinations.clone() };
    assert_eq!(client.test_network(&test).await.unwrap().results[0].by, "rule");
    let own = TestNetwork { network: None, destinations };
    let results = client.test_sandbox_network("sb", &own).await.unwrap().results;
    assert_eq!((results[0].by.as_str(), results[0].destination.as_str()), ("mode", "a.org:443"));
}
