//! What needs a shorter patience than the real one, and rules that no registry here can show.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use moat_model::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::endpoint::may_be_plain;
use super::{Patience, Registries, Sink};
use crate::Digest;
use crate::error::Result;
use crate::manifest::Descriptor;
use crate::store::StoreConfig;

struct Collected(Vec<u8>);

impl Sink for Collected {
    fn have(&self) -> u64 {
        self.0.len() as u64
    }

    async fn put(&mut self, piece: Bytes) -> Result<()> {
        self.0.extend_from_slice(&piece);
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.0.clear();
        Ok(())
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn config() -> StoreConfig {
    StoreConfig {
        dir: "/nonexistent".into(),
        insecure_registries: BTreeSet::new(),
        mirrors: BTreeMap::new(),
        docker_config: None,
        parallel_layers: 1,
        limits: crate::erofs::Limits::default(),
    }
}

fn patience() -> Patience {
    Patience {
        silence: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        attempts: 3,
        ..Patience::default()
    }
}

/// Serves `content`: each connection gives `each` more bytes than were asked to skip, and then says nothing.
async fn silent_server(content: &'static [u8], each: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = head(&mut stream).await;
            if asked.starts_with("GET /v2/ ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
                continue;
            }
            let range = asked.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
            let from: usize = range.map_or(0, |from| from.parse().unwrap());
            let status = if from > 0 { "206 Partial" } else { "200 OK" };
            let (len, last) = (content.len(), content.len() - 1);
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{last}/{len}\r\n\r\n",
                len - from
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.write_all(&content[from..(from + each).min(len)]).await.unwrap();
            silent.push(stream);
        }
    });
    port
}

async fn fetch(port: u16, content: &'static [u8]) -> (Result<()>, Collected) {
    let reference = format!("127.0.0.1:{port}/a").parse().unwrap();
    let repository = Registries::new(&config(), patience()).unwrap().open(&reference, None).await.unwrap();
    let blob = Descriptor {
        media_type: String::new(),
        digest: Digest::of(content),
        size: content.len() as u64,
        platform: None,
        annotations: None,
    };
    let mut sink = Collected(Vec::new());
    let done = repository.blob(&blob, &mut sink, 0).await;
    (done, sink)
}

#[tokio::test]
async fn silence_ends_a_transfer_and_progress_does_not() {
    // More silences than attempts, with new bytes between them: it gets there.
    let content = b"ten bytes!, and ten more, and again ten";
    let port = silent_server(content, 10).await;
    let (done, sink) = fetch(port, content).await;
    done.unwrap();
    assert_eq!(sink.0, content);
    // Without a byte there is an end.
    let port = silent_server(content, 0).await;
    let (done, sink) = fetch(port, content).await;
    let error = done.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{}", error.chain());
    assert!(error.chain().contains("not a byte for 300ms") && sink.0.is_empty(), "{}", error.chain());
}

#[tokio::test]
async fn plain_http_goes_to_this_machine_and_to_what_is_listed_only() {
    let listed = BTreeSet::from(["r.example:5000".to_owned(), "plain.example".to_owned()]);
    for (url, plain) in [
        ("http://127.0.0.1:5000/", true),
        ("http://127.9.9.9/", true),
        ("http://localhost/", true),
        ("http://[::1]:5000/", true),
        ("http://r.example:5000/", true),
        ("http://r.example/", false),
        ("http://plain.example/", true),
        ("http://localhost.example/", false),
        ("http://127.0.0.1.example/", false),
        ("http://10.0.0.1/", false),
        ("http://169.254.169.254/", false),
        ("http://0.0.0.0/", false),
    ] {
        assert_eq!(may_be_plain(&url.parse().unwrap(), &listed), plain, "{url}");
    }
    // What is not this machine is asked over TLS: the name leads nowhere, and the message says which way it was asked.
    let reference = "registry.invalid/a".parse().unwrap();
    let repository = Registries::new(&config(), patience()).unwrap().open(&reference, None).await.unwrap();
    assert!(!format!("{repository:?}").contains("scheme: \"http\""));
    assert_eq!(repository.manifest("latest", None).await.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn credentials_do_not_go_to_a_token_server_in_plain_text() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            let answer = "HTTP/1.1 401 Who\r\nContent-Length: 0\r\nConnection: close\r\n\
                 WWW-Authenticate: Bearer realm=\"http://tokens.invalid/get?a=secret\"\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let reference = format!("127.0.0.1:{port}/a").parse().unwrap();
    let auth = Some(("user".to_owned(), "password".to_owned()));
    let repository = Registries::new(&config(), patience()).unwrap().open(&reference, auth).await.unwrap();
    let error = repository.manifest("latest", None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.chain().contains("http://tokens.invalid is not HTTPS"), "{}", error.chain());
    assert!(!error.chain().contains("secret") && !error.chain().contains("password"), "{}", error.chain());
}
