//! Three nodes, each beside a NATS server of its own; the three servers are one cluster, and the wires between them are cut.
//! A node that is cut off still talks to its own server, which has no quorum.

use std::net::TcpListener;

use moat_testkit::{NatsServer, Release};
use tokio::time::Instant;

use super::cluster::{Member, answering, comes_back, rounds, submit, until};
use super::cut::Wire;

const LETTERS: [char; 3] = ['A', 'B', 'C'];

struct System {
    servers: Vec<NatsServer>,
    /// `wires[i][j]` carries what server i sends to server j.
    wires: Vec<Vec<Wire>>,
}

impl System {
    async fn start() -> Option<Self> {
        let ports: Vec<u16> = {
            let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
            held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
        };
        let (mut servers, mut wires) = (Vec::new(), Vec::new());
        for (own, port) in ports.iter().enumerate() {
            let mut row = Vec::new();
            for to in &ports {
                row.push(Wire::to(*to).await);
            }
            let others = row.iter().enumerate().filter(|(to, _)| *to != own);
            let routes: Vec<String> = others.map(|(_, wire)| wire.url()).collect();
            // Servers tell each other of the others: by an address nobody has, so that no wire is gone around.
            let config = format!(
                "cluster {{ name: moat, listen: \"127.0.0.1:{port}\", advertise: \"127.0.0.1:1\", no_advertise: true, \
                 pool_size: -1, routes: [{}] }}",
                routes.join(", ")
            );
            servers.push(NatsServer::start_with(Release::Current, &config).await.unwrap()?);
            wires.push(row);
        }
        Some(Self { servers, wires })
    }

    fn of(&self, node: usize) -> impl Iterator<Item = &Wire> {
        let others = (0..3).filter(move |other| *other != node);
        others.flat_map(move |other| [&self.wires[node][other], &self.wires[other][node]])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_quorum_lets_nothing_answer_that_runs_elsewhere() {
    let Some(mut system) = System::start().await else { return };
    let mut members = Vec::new();
    for (n, letter) in LETTERS.into_iter().enumerate() {
        members.push(Member::new(letter, system.servers[n].url()).await);
    }
    submit(&members, "once", 1).await;
    let mut now = until(&members, "first", |now| now.len() == 1).await;
    for round in 0..rounds() {
        let (letter, alloc) = now[0].clone();
        let at = LETTERS.iter().position(|other| *other == letter).unwrap();
        let cut = rand::random_bool(0.5);
        let what = format!("round {round}: {letter} {}", if cut { "cut off" } else { "killed" });
        let began = Instant::now();
        if cut {
            system.of(at).for_each(Wire::cut);
        } else {
            members[at].kill();
            members[at].hands.die();
            system.servers[at].kill();
        }
        let moved = |now: &[(char, moat_model::AllocId)]| {
            now.len() == 1 && now[0] != (letter, alloc.clone()) && now[0].0 != letter
        };
        until(&members, &what, moved).await;
        println!("{what}: elsewhere after {:?}", began.elapsed());
        if cut {
            system.of(at).for_each(Wire::mend);
        } else {
            system.servers[at].restart().await.unwrap();
            members[at].start().await;
        }
        comes_back(&members, letter, &what).await;
        now = until(&members, &format!("{what}, back"), |now| now.len() == 1).await;
    }
    assert_eq!(answering(&members).len(), 1);
}
