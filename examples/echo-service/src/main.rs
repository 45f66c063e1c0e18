//! A workload for moat: answers requests on NATS with what it was sent.
//!
//! One static file, so it runs in an empty root. Where and how to connect it reads from its environment, which reached it
//! sealed: `NATS_URL`, and if the server asks for it `NATS_CREDS` (the text of a credentials file) or `NATS_USER` and
//! `NATS_PASSWORD`. `NATS_URL` may be several, with commas. `ECHO_NAME` chooses the subject, `echo.<name>`; with `ECHO_QUEUE`
//! each request goes to one of those in this queue group; what `ECHO_SIGNATURE` says is put before each answer, so that
//! callers see whose it is.
//!
//! Asked to end, it takes no more requests, answers those that were on their way, and ends.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::{Client, ConnectOptions, RequestErrorKind};
use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: echo-service                      serve echo.<ECHO_NAME> at NATS_URL
       echo-service call <url> <text>    send one request and print the answer";

/// A server on the same network answers well within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Whoever leaves a queue group says to the server after how many more requests: both count the same, and none falls between
/// the server's last and the client's. (The client's own `drain` forgets the subscription before the server has heard of it.)
/// More than can be on their way.
const LAST: u64 = 64;
/// Where fewer come, it leaves after a while without any.
const QUIET: Duration = Duration::from_secs(1);
/// A caller waits this long for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries while nobody listens.
const TRY_EVERY: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => serve().await,
        ["call", url, text] => call(url, text).await,
        _ => bail!("{USAGE}"),
    }
}

fn subject() -> String {
    format!("echo.{}", env::var("ECHO_NAME").as_deref().unwrap_or("service"))
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    // One of several servers may be on a machine that is gone: the next one is tried soon.
    let mut options = ConnectOptions::new().name("echo-service").connection_timeout(CONNECT_WITHIN);
    if let Ok(creds) = env::var("NATS_CREDS") {
        options = options.credentials(&creds).context("NATS_CREDS is not a credentials file")?;
    } else if let (Ok(user), Ok(password)) = (env::var("NATS_USER"), env::var("NATS_PASSWORD")) {
        options = options.user_and_password(user, password);
    }
    let servers: Vec<&str> = url.split(',').collect();
    options.connect(servers.as_slice()).await.with_context(|| format!("connect to {url}"))
}

async fn serve() -> anyhow::Result<()> {
    let url = env::var("NATS_URL").context("NATS_URL is not set")?;
    let client = connect(&url).await?;
    let subject = subject();
    let signature = env::var("ECHO_SIGNATURE").map(|text| format!("{text} ")).unwrap_or_default();
    let queue = env::var("ECHO_QUEUE").ok();
    let in_queue = queue.is_some();
    let subscribed = match queue {
        Some(queue) => client.queue_subscribe(subject.clone(), queue).await,
        None => client.subscribe(subject.clone()).await,
    };
    let mut requests = subscribed.context("subscribe")?;
    // The subscription has reached the server when this returns: whoever reads `ready` may call.
    client.flush().await.context("flush")?;
    println!("ready on {subject}");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut taken, mut answered) = (0u64, 0u64);
    let mut ending = false;
    loop {
        let next = tokio::select! {
            request = requests.next() => Some(request),
            () = tokio::time::sleep(QUIET), if ending => Some(None),
            _ = terminate.recv(), if !ending => None,
            _ = interrupt.recv(), if !ending => None,
        };
        let request = match next {
            Some(Some(request)) => request,
            Some(None) if ending => break,
            Some(None) => bail!("the subscription ended"),
            None => {
                // Outside a queue group each instance gets each request: what this one leaves, others answer.
                let left =
                    if in_queue { requests.unsubscribe_after(taken + LAST).await } else { requests.drain().await };
                left.context("stop taking requests")?;
                ending = true;
                continue;
            }
        };
        taken += 1;
        let Some(reply) = request.reply else { continue };
        answered += 1;
        println!("answering request {answered}, {} bytes", request.payload.len());
        let answer = [signature.as_bytes(), &request.payload].concat();
        client.publish(reply, answer.into()).await.context("answer")?;
    }
    // To drain a client only asks for it: the last answers would go with this process before they are written.
    client.flush().await.context("write the last answers")?;
    println!("ended after {answered} answers");
    Ok(())
}

async fn call(url: &str, text: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    let answer = tokio::time::timeout(ANSWER_WITHIN, async {
        loop {
            match client.request(subject(), text.to_owned().into()).await {
                // It may still be starting.
                Err(error) if error.kind() == RequestErrorKind::NoResponders => tokio::time::sleep(TRY_EVERY).await,
                done => break done,
            }
        }
    });
    let answer = answer.await.context("nobody answered in time")?.context("call")?;
    println!("{}", String::from_utf8_lossy(&answer.payload));
    Ok(())
}
