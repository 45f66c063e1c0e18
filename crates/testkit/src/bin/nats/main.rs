//! A client of NATS for the story of jails, for where NATS's own command line is not there: its words, on the client library
//! that moat itself uses. It subscribes and prints, or publishes with a count.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures::StreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--server", server, "sub", subject] => subscribe(server, subject).await,
        ["--server", server, "pub", subject, text, "--count", count] => {
            publish(server, subject, text, count.parse().context("--count")?).await
        }
        other => bail!("--server HOST sub SUBJECT | --server HOST pub SUBJECT TEXT --count N, not {other:?}"),
    }
}

async fn subscribe(server: &str, subject: &str) -> anyhow::Result<()> {
    let client = async_nats::connect(server).await?;
    let mut messages = client.subscribe(subject.to_owned()).await?;
    client.flush().await?;
    println!("Subscribing on {subject}");
    let mut number = 0_u64;
    while let Some(message) = messages.next().await {
        number += 1;
        println!("[#{number}] Received on \"{}\"\n{}\n", message.subject, String::from_utf8_lossy(&message.payload));
    }
    Ok(())
}

async fn publish(server: &str, subject: &str, text: &str, count: u64) -> anyhow::Result<()> {
    let client = async_nats::connect(server).await?;
    for number in 1..=count {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let text = text.replace("{{.Count}}", &number.to_string()).replace("{{.TimeStamp}}", &now.to_string());
        client.publish(subject.to_owned(), text.into()).await?;
    }
    client.flush().await?;
    println!("Published {count} messages to {subject}");
    Ok(())
}
