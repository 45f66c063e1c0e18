//! A bounded load of requests, each of which must be answered.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moat_testkit::netns::Switch;

/// Between two requests.
const EVERY: Duration = Duration::from_millis(5);
/// A caller's patience. A request that is lost is never answered, so this only has to be longer than a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of them.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: usize,
    pub failed: Vec<String>,
    pub slowest: Duration,
}

/// Asks for `echo.<name>` from this machine for a while.
pub fn start(switch: &Arc<Switch>, machine: usize, name: &'static str, span: Duration) -> JoinHandle<Tally> {
    let switch = Arc::clone(switch);
    std::thread::spawn(move || {
        switch.end(machine).unwrap().stay().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask(name, span))
    })
}

async fn ask(name: &str, span: Duration) -> Tally {
    let options = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE));
    let client = options.connect("nats://127.0.0.1:4222").await.unwrap();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (end, mut requests) = (Instant::now() + span, tokio::task::JoinSet::new());
    let mut number = 0_u32;
    while Instant::now() < end {
        ticks.tick().await;
        number += 1;
        let (client, subject) = (client.clone(), format!("echo.{name}"));
        requests.spawn(async move {
            let began = Instant::now();
            let answer = client.request(subject, format!("{number} 0").into()).await;
            (began.elapsed(), answer.map(|_| ()).map_err(|error| format!("request {number}: {error}")))
        });
    }
    let mut tally = Tally::default();
    while let Some(done) = requests.join_next().await {
        let (took, outcome) = done.unwrap();
        tally.slowest = tally.slowest.max(took);
        match outcome {
            Ok(()) => tally.answered += 1,
            Err(error) => tally.failed.push(error),
        }
    }
    tally
}
