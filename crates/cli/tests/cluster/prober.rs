//! Callers on every machine who never stop asking, and what their answers prove.
//!
//! A request carries when it was sent, by the one clock of the test. An answer of an instance proves that it ran at some
//! moment not before that, and not after the answer was there. So an instance ran from the first answer anybody got of it to
//! the last request it answered, at least; and where two such spans overlap, two ran at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt;
use moat_testkit::netns::Switch;

/// Between two requests for the same name.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Who asks is asked for by this name, so one connection hears all of its answers.
const INBOX: &str = "probe";

/// What is known of one instance, all since the test began.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its first answer arrived.
    pub first_heard: Duration,
    /// The last request it answered was sent.
    pub last_asked: Duration,
    /// Its last answer arrived.
    pub last_heard: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    /// By name and instance.
    spans: BTreeMap<(String, String), Span>,
    /// Who answered the requests of the last while, by request and name.
    answers: BTreeMap<(u64, String), Vec<String>>,
    doubled: Vec<String>,
}

/// See the module.
pub struct Probers {
    began: Instant,
    names: Vec<(String, usize)>,
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probers {
    /// Asks for these names, each of which so many may answer at a time.
    pub fn start(switch: &Arc<Switch>, machines: usize, names: &[(&str, usize)]) -> Self {
        let names: Vec<(String, usize)> = names.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let mut probers =
            Self { began: Instant::now(), names, heard: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for machine in 0..machines {
            let (switch, heard, stop) = (Arc::clone(switch), Arc::clone(&probers.heard), Arc::clone(&probers.stop));
            let (names, began) = (probers.names.clone(), probers.began);
            probers.threads.push(std::thread::spawn(move || {
                switch.end(machine).unwrap().stay().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(probe(machine, &names, began, &heard, &stop));
            }));
        }
        probers
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Instances that answered something sent after that moment.
    pub fn answering(&self, name: &str, since: Duration) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let of = heard.spans.iter().filter(|((of, _), span)| of == name && span.last_asked > since);
        of.map(|((_, instance), _)| instance.clone()).collect()
    }

    /// What is known of one.
    pub fn span(&self, name: &str, instance: &str) -> Option<Span> {
        self.heard.lock().unwrap().spans.get(&(name.to_owned(), instance.to_owned())).copied()
    }

    /// Everything that must not have been: more at once than there may be, and two answers to one request.
    pub fn wrongs(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let mut wrongs = heard.doubled.clone();
        for (name, count) in &self.names {
            let spans: Vec<(&String, Span)> =
                heard.spans.iter().filter(|((of, _), _)| of == name).map(|((_, who), span)| (who, *span)).collect();
            for (who, span) in &spans {
                // Most overlap where one of them begins.
                let at = span.first_heard;
                let with = spans.iter().filter(|(_, other)| other.first_heard <= at && at < other.last_asked);
                let with: Vec<String> =
                    with.map(|(who, s)| format!("{who} from {:?} to {:?}", s.first_heard, s.last_asked)).collect();
                if with.len() > *count {
                    wrongs.push(format!("{name}: when {who} began, {} ran at once: {with:?}", with.len()));
                }
            }
        }
        wrongs
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connected to the machine's own server and no other, so that both sides of a cut are heard.
async fn probe(machine: usize, names: &[(String, usize)], began: Instant, heard: &Mutex<Heard>, stop: &AtomicBool) {
    let options = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .ignore_discovered_servers()
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|_| Duration::from_millis(200))
        .connection_timeout(Duration::from_secs(2));
    let client = options.connect("nats://127.0.0.1:4222").await.unwrap();
    let mut answers = client.subscribe(format!("{INBOX}.{machine}.>")).await.unwrap();
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                number += 1;
                for (index, (name, _)) in names.iter().enumerate() {
                    let reply = format!("{INBOX}.{machine}.{index}");
                    let text = format!("{number} {}", began.elapsed().as_micros());
                    // A client that is not connected keeps it until it is.
                    let _ = client.publish_with_reply(format!("echo.{name}"), reply, text.into()).await;
                }
            }
            Some(answer) = answers.next() => {
                let index = answer.subject.rsplit('.').next().and_then(|index| index.parse::<usize>().ok());
                let text = String::from_utf8_lossy(&answer.payload).into_owned();
                if let Some((name, count)) = index.and_then(|index| names.get(index)) {
                    heard.lock().unwrap().hear(name, *count, machine, &text, began.elapsed());
                }
            }
        }
    }
}

impl Heard {
    fn hear(&mut self, name: &str, count: usize, machine: usize, text: &str, now: Duration) {
        let words: Vec<&str> = text.split(' ').collect();
        let [who, number, sent] = words[..] else { return };
        let (Ok(number), Ok(sent)) = (number.parse::<u64>(), sent.parse().map(Duration::from_micros)) else { return };
        let new = Span { first_heard: now, last_asked: sent, last_heard: now };
        let span = self.spans.entry((name.to_owned(), who.to_owned())).or_insert(new);
        span.last_asked = span.last_asked.max(sent);
        span.last_heard = now;
        let request = number * 16 + u64::try_from(machine).unwrap();
        let answers = self.answers.entry((request, name.to_owned())).or_default();
        answers.push(who.to_owned());
        if answers.len() > count {
            self.doubled.push(format!("{name}: request {number} of machine {machine} was answered by {answers:?}"));
        }
        if self.answers.len() > 50_000 {
            self.answers.pop_first();
        }
    }
}
