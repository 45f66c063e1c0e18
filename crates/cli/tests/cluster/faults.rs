//! What befalls the cluster in a round, drawn by a generator whose seed is printed.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::prober::Probers;
use super::rig::{Cluster, JobFile, MACHINES};

/// A node is given up 9 s after its last beat; one that is away for less keeps what it runs.
const LONG: std::ops::Range<u64> = 12_000..20_000;
const SHORT: std::ops::Range<u64> = 500..7_000;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine's wire is cut, and mended after that long.
    Cut(Duration),
    /// The daemon is killed, and started again after that long.
    Daemon(Duration),
    /// The daemon is killed, and started again only when others have what it ran.
    DaemonForGood,
    /// The nats-server is killed, and started again after that long.
    Server(Duration),
    /// Whichever daemon controls is killed that long after there was something to plan.
    Controller(Duration),
}

impl Fault {
    /// The first ones are of each kind; then any.
    pub fn draw(rng: &mut StdRng, round: u32) -> Self {
        let kind = if round < 4 { [1, 3, 4, 0][round as usize] } else { rng.random_range(0..6) };
        let long = rng.random_bool(0.6);
        let span = Duration::from_millis(rng.random_range(if long || round == 3 { LONG } else { SHORT }));
        match kind {
            0 | 5 => Self::Cut(span),
            1 => Self::DaemonForGood,
            2 => Self::Daemon(Duration::from_millis(rng.random_range(SHORT))),
            3 => Self::Server(Duration::from_millis(rng.random_range(SHORT))),
            _ => Self::Controller(Duration::from_millis(rng.random_range(0..400))),
        }
    }

    /// What the machine ran must be run by others.
    pub fn moves(self) -> bool {
        match self {
            Self::Cut(span) => span >= Duration::from_millis(LONG.start),
            Self::DaemonForGood => true,
            Self::Daemon(_) | Self::Server(_) | Self::Controller(_) => false,
        }
    }
}

/// A fault goes on for a while: there is nothing to wait for but time.
fn last(span: Duration) {
    let began = Instant::now();
    while let Some(left) = span.checked_sub(began.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// Goes through with one at this machine; how long each of `services`, which ran there, was nowhere to be heard.
pub fn befall(
    cluster: &mut Cluster,
    probers: &Probers,
    fault: Fault,
    machine: usize,
    services: &[(&str, String)],
    round: u32,
) -> Vec<Duration> {
    let (switch, began, at) = (cluster.switch.clone(), Instant::now(), probers.now());
    match fault {
        Fault::Cut(span) => {
            switch.cut(machine).unwrap();
            let moved = if fault.moves() { all_moved(cluster, probers, services, at) } else { Vec::new() };
            last(span.saturating_sub(began.elapsed()));
            switch.mend(machine).unwrap();
            moved
        }
        Fault::Daemon(span) => {
            cluster.members[machine].kill_daemon();
            last(span);
            cluster.members[machine].start_daemon(&switch);
            Vec::new()
        }
        Fault::DaemonForGood => {
            cluster.members[machine].kill_daemon();
            let moved = all_moved(cluster, probers, services, at);
            cluster.members[machine].start_daemon(&switch);
            moved
        }
        Fault::Server(span) => {
            cluster.members[machine].kill_server();
            last(span);
            cluster.members[machine].start_server(&switch);
            Vec::new()
        }
        Fault::Controller(after) => {
            // Another version of it: every instance is to be replaced.
            let env = format!("ROUND = \"{round}\"");
            cluster.submit(&JobFile { name: "six", driver: "raw_exec", count: 6, group: SIX, env: &env });
            last(after);
            let holder = cluster.documents().and_then(|documents| cluster.machine_of(&documents.holder()?));
            let holder = holder.unwrap_or(machine) % MACHINES;
            cluster.members[holder].kill_daemon();
            last(Duration::from_millis(1500));
            cluster.members[holder].start_daemon(&switch);
            Vec::new()
        }
    }
}

/// How the six are replaced: all that can be said of its speed is that a round should not take minutes.
pub const SIX: &str = "update {\n      max_parallel = 3\n      health_check = \"task_states\"\n      \
                       min_healthy_time = \"500ms\"\n      healthy_deadline = \"50s\"\n      \
                       progress_deadline = \"100s\"\n    }";

/// Waits until each of these services is answered by another instance; nothing may be doubled meanwhile.
fn all_moved(cluster: &Cluster, probers: &Probers, services: &[(&str, String)], at: Duration) -> Vec<Duration> {
    let mut moved = Vec::new();
    for (name, old) in services {
        let heard = cluster.until(&format!("{name}, which ran there, runs elsewhere"), |cluster| {
            let wrongs = probers.wrongs();
            if !wrongs.is_empty() {
                cluster.fail(&format!("while {name} moves: {wrongs:#?}"));
            }
            let new = probers.answering(name, at).into_iter().find(|instance| instance != old)?;
            Some(probers.span(name, &new)?.first_heard)
        });
        moved.push(heard.saturating_sub(at));
    }
    moved
}
