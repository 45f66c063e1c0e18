//! Names and rules together: what is pinned passes from the first packet on, and a name leads nowhere an address could not.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use moat_model::network::{Action, Destination, Domain, EgressPolicy, EgressRule, HostLabel, NetworkMode, NetworkSpec};
use moat_net::NetConfig;
use moat_net::resolver::Resolver;
use moat_net::rules::Rules;
use moat_net::table::Table;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bed::{Bed, PUBLIC, Place, Space};
use crate::in_spaces;

const GOOD: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(151, 101, 0, 223);
const PATIENCE: Duration = Duration::from_secs(60);

/// A name server outside, which notes what it is asked.
struct Outside {
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Outside {
    fn start(space: &Space, all: &[(&str, &[Ipv4Addr])]) -> Self {
        let all: Vec<(String, Vec<Ipv4Addr>)> = all.iter().map(|(n, a)| ((*n).to_owned(), a.to_vec())).collect();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let socket = space.within(|| UdpSocket::bind((PUBLIC, 53)).unwrap());
        // Only so that it looks whether it is to end.
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (noted, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let serve = move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name.to_ascii();
                let addresses = all.iter().find(|(known, _)| *known == name).map(|(_, addresses)| addresses);
                noted.lock().unwrap().push(name);
                let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
                answer.add_queries(question.queries.clone());
                let record =
                    |a: &Ipv4Addr| Record::from_rdata(question.queries[0].name.clone(), 60, RData::A((*a).into()));
                match addresses {
                    Some(addresses) => drop(answer.add_answers(addresses.iter().map(record))),
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                let _ = socket.send_to(&answer.to_vec().unwrap(), from);
            }
        };
        Self { asked, stop, thread: Some(std::thread::spawn(serve)) }
    }

    /// Since it was last looked at; what was asked again because it was slow counts once.
    fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.dedup();
        asked
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Sandboxes with names: `guide` and `friend` and `red` of one namespace, `blue` of another.
struct Stage {
    bed: Bed,
    rules: Arc<Rules>,
    table: Table,
    _resolver: Resolver,
    outside: Outside,
}

impl Stage {
    async fn new(red: EgressPolicy) -> Self {
        let config = NetConfig { upstreams: vec![SocketAddr::from((PUBLIC, 53))], ..NetConfig::new("/run/moat/net") };
        let mut bed = Bed::new(config);
        let spec = |name, mode| NetworkSpec { name: HostLabel::parse(name).ok(), ..NetworkSpec::new(mode) };
        let all = [
            bed.wire("guide", 1, "red", false, spec("guide", NetworkMode::Internet)),
            bed.wire("friend", 2, "red", false, spec("friend", NetworkMode::Internal)),
            bed.wire("blue", 3, "blue", false, spec("blue", NetworkMode::Internet)),
            bed.wire("red", 5, "red", false, NetworkSpec { egress: red, ..spec("red", NetworkMode::Internet) }),
        ];
        let inside = [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(169, 254, 169, 254), bed.address("friend")];
        let mixed = [inside.as_slice(), &[GOOD]].concat();
        let known: [(&str, &[Ipv4Addr]); 4] =
            [("good.test.", &[GOOD]), ("other.test.", &[OTHER]), ("inside.test.", &inside), ("mixed.test.", &mixed)];
        let outside = Outside::start(&bed.outside, &known);
        let rules = Arc::new(Rules::install(&bed.config, false, &[]).await.unwrap());
        let table = Table::default();
        for attached in &all {
            table.put(attached.lease, attached.attachment.clone()).unwrap();
            rules.attach(attached).await.unwrap();
        }
        let resolver = Resolver::start(&bed.config, table.clone(), rules.clone()).unwrap();
        Self { bed, rules, table, _resolver: resolver, outside }
    }

    /// What a sandbox is answered, once it is: on a slow machine the one outside may have been too slow.
    async fn ask(&self, who: Place, name: &str) -> Result<Vec<Ipv4Addr>, ResponseCode> {
        loop {
            match self.ask_once(who, name).await {
                Err(ResponseCode::ServFail) => {}
                answer => return answer,
            }
        }
    }

    /// The resolver runs on this thread, so the question is asked by another.
    async fn ask_once(&self, who: Place, name: &str) -> Result<Vec<Ipv4Addr>, ResponseCode> {
        let (pid, gateway) = (self.bed.sandboxes[who].space.pid(), self.bed.config.gateway);
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let bytes = question.to_vec().unwrap();
        let ask = move || {
            let way = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
            move_into_link_name_space(way.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((gateway, 53)).unwrap();
            socket.send(&bytes).unwrap();
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            Message::from_vec(&buffer[..length]).unwrap()
        };
        let answer = tokio::task::spawn_blocking(|| std::thread::spawn(ask).join().unwrap()).await.unwrap();
        match answer.metadata.response_code {
            ResponseCode::NoError => Ok(answer.answers.iter().filter_map(address).collect()),
            code => Err(code),
        }
    }

    /// What a program of a sandbox says that looks names up as its C library does.
    async fn run(&self, who: Place, script: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let gateway = self.bed.config.gateway;
        std::fs::write(&file, format!("nameserver {gateway}\nsearch moat.internal\n")).unwrap();
        let script = format!("mount --bind {} /etc/resolv.conf && {script}", file.display());
        let mut command = Command::new("nsenter");
        let pid = self.bed.sandboxes[who].space.pid().to_string();
        command.args(["-t", &pid, "-n", "unshare", "-m", "sh", "-c", &script]);
        let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    fn reaches(&mut self, who: Place, to: Ipv4Addr, port: u16) -> bool {
        let number = self.bed.send_to(who, to, port);
        let mut places = self.bed.arrived("guide", &[number]).remove(&number).unwrap();
        places.remove(who);
        !places.is_empty()
    }
}

fn address(record: &Record) -> Option<Ipv4Addr> {
    match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    }
}

fn allow(name: &str) -> EgressRule {
    let to = Destination::Domain(Domain::parse(name).unwrap());
    EgressRule { action: Action::Allow, to, ports: Vec::new(), protocol: None }
}

fn closed_but(rules: Vec<EgressRule>) -> EgressPolicy {
    EgressPolicy { default: Action::Deny, rules }
}

const NOBODY: Result<Vec<Ipv4Addr>, ResponseCode> = Err(ResponseCode::NXDomain);

#[test]
fn a_name_that_is_allowed_opens_its_addresses_and_no_other() {
    in_spaces(async || {
        let mut stage = Stage::new(closed_but(vec![allow("good.test")])).await;
        assert!(!stage.reaches("red", GOOD, 443));
        assert_eq!(stage.ask("red", "good.test.").await, Ok(vec![GOOD]));
        assert!(stage.reaches("red", GOOD, 443), "the first packet after the answer");
        assert!(!stage.reaches("red", OTHER, 443));
        assert_eq!(stage.ask("red", "other.test.").await, NOBODY);
        assert_eq!(stage.ask("red", "secret.good.test.").await, NOBODY);
        assert_eq!(stage.outside.asked(), ["good.test."], "nothing else left the node");

        // Others' questions open nothing for it, and its policy no name.
        assert_eq!(stage.ask("guide", "other.test.").await, Ok(vec![OTHER]));
        assert!(!stage.reaches("red", OTHER, 443));
        let friend = stage.bed.address("friend");
        assert_eq!(stage.ask("red", "friend.moat.internal.").await, Ok(vec![friend]));
        assert!(!stage.reaches("red", friend, 443));

        let mut new = stage.bed.sandboxes["red"].attached.clone();
        new.attachment.spec.egress = closed_but(vec![allow("other.test")]);
        stage.table.put(new.lease, new.attachment.clone()).unwrap();
        let old = stage.bed.sandboxes["red"].attached.clone();
        stage.rules.change(&old, &new).await.unwrap();
        assert!(!stage.reaches("red", GOOD, 443), "under the new rules it is nobody's");
        assert_eq!(stage.ask("red", "good.test.").await, NOBODY);
        assert_eq!(stage.ask("red", "other.test.").await, Ok(vec![OTHER]));
        assert!(stage.reaches("red", OTHER, 443));
    });
}

#[test]
fn names_lead_nowhere_an_address_could_not() {
    in_spaces(async || {
        let mut stage = Stage::new(closed_but(vec![allow("mixed.test")])).await;
        assert_eq!(stage.ask("guide", "inside.test.").await, Ok(vec![]));
        assert_eq!(stage.ask("guide", "mixed.test.").await, Ok(vec![GOOD]));
        assert_eq!(stage.ask("red", "mixed.test.").await, Ok(vec![GOOD]));
        let friend = stage.bed.address("friend");
        for inside in [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(169, 254, 169, 254), friend] {
            assert!(!stage.reaches("red", inside, 80), "{inside}");
        }
        assert_eq!(stage.ask("blue", "friend.moat.internal.").await, NOBODY);
        assert_eq!(stage.ask("guide", "blue.moat.internal.").await, NOBODY);
        stage.outside.asked();
        for name in ["good.test.", "secret.test.", "friend."] {
            let _ = stage.ask("friend", name).await;
        }
        assert_eq!(stage.outside.asked(), [""; 0], "internal asks nobody outside");
    });
}

#[test]
fn programs_look_up_names_as_they_are_used_to() {
    in_spaces(async || {
        let stage = Stage::new(EgressPolicy::default()).await;
        let friend = stage.bed.address("friend").to_string();
        // glibc: both families at once, the search domain, then a name as it stands.
        for name in ["friend", "friend.moat.internal", "FRIEND"] {
            let said = stage.run("red", &format!("getent ahosts {name}")).await;
            assert!(said.starts_with(&friend) && !said.contains("::"), "{name}: {said}");
        }
        // Remembered from here on, so that no program waits for the one outside.
        assert_eq!(stage.ask("red", "good.test.").await, Ok(vec![GOOD]));
        let said = stage.run("red", "getent ahosts good.test").await;
        assert!(said.starts_with("1.1.1.1 "), "{said}");
        let said = stage.run("red", &format!("getent hosts {friend}")).await;
        assert!(said.contains("friend.moat.internal"), "{said}");
        let said = stage.run("red", "getent ahosts nobody.moat.internal || echo none").await;
        assert_eq!(said, "none\n");
        let Some(busybox) = moat_testkit::busybox() else { return moat_testkit::not_run_here("no busybox") };
        let said = stage.run("red", &format!("{} nslookup friend.moat.internal", busybox.display())).await;
        assert!(said.contains(&friend), "{said}");
    });
}
