//! A resolver with its askers, and rules that do what the test says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::NetworkMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::super::upstream::Patience;
use super::super::{Pinner, Resolver, testing};
use crate::config::NetConfig;
use crate::table::{Attached, Table};

pub const DEADLINE: Duration = Duration::from_secs(60);

/// As in [`testing`], at an address that a test can ask from.
pub fn attached(slot: u8, namespace: &str, name: Option<&str>, mode: NetworkMode) -> Attached {
    let mut one = testing::attached(slot, namespace, name, mode);
    one.lease.address = Ipv4Addr::new(127, 77, 0, slot);
    one
}

pub struct Stage {
    pub resolver: Resolver,
    pub pins: Pins,
    pub config: NetConfig,
    table: Table,
    rules: Arc<Rules>,
}

impl Stage {
    pub async fn new(all: &[&Attached]) -> Self {
        Self::with(all, &["127.77.0.254:9".parse().unwrap()]).await
    }

    /// With a resolver that waits for its servers as long as a test does.
    pub async fn with(all: &[&Attached], upstreams: &[SocketAddr]) -> Self {
        Self::patient(all, upstreams, Patience { each: vec![DEADLINE], all: DEADLINE }).await
    }

    pub async fn patient(all: &[&Attached], upstreams: &[SocketAddr], patience: Patience) -> Self {
        let table = Table::default();
        let (send, held) = mpsc::channel(64);
        let config = NetConfig { upstreams: upstreams.to_vec(), ..NetConfig::new("/nowhere") };
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        // The kernel chooses a port that is free for datagrams; another test may hold it for streams just then.
        let rules = Arc::new(Rules { held: send });
        let start = |_| Resolver::start_at(at, patience.clone(), &config, table.clone(), rules.clone()).ok();
        let resolver = (0..100).find_map(start).unwrap();
        let stage = Self { resolver, pins: Pins { held: Mutex::new(held) }, config, table, rules };
        all.iter().for_each(|one| stage.put(one));
        stage
    }

    pub fn put(&self, one: &Attached) {
        self.table.put(one.lease, one.attachment.clone()).unwrap();
    }

    pub fn table(&self) -> Table {
        self.table.clone()
    }

    pub fn pinner(&self) -> Arc<dyn Pinner> {
        self.rules.clone()
    }

    /// The same with a new resolver, as after a restart: the old one's sockets are closed once its tasks are gone.
    pub async fn restarted(self, at: SocketAddr) -> Self {
        let Self { resolver, pins, config, table, rules } = self;
        drop(resolver);
        let start = async || Resolver::start_at(at, Patience::default(), &config, table.clone(), rules.clone()).ok();
        let resolver = moat_testkit::wait_until(DEADLINE, "the address", start).await.unwrap();
        Self { resolver, pins, config, table, rules }
    }

    pub async fn socket(&self, from: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.connect(self.resolver.address()).await.unwrap();
        socket
    }

    pub async fn ask(&self, from: &Attached, name: &str, kind: RecordType) -> Message {
        let socket = self.socket(from.lease.address).await;
        socket.send(&question(name, kind)).await.unwrap();
        receive(&socket).await
    }

    pub async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.resolver.address()).await.unwrap()
    }

    pub async fn ask_tcp(&self, from: &Attached, name: &str, kind: RecordType) -> Message {
        let mut stream = self.connect(from.lease.address).await;
        let bytes = question(name, kind);
        let length = u16::try_from(bytes.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
        let mut answer = vec![0; usize::from(timeout(DEADLINE, stream.read_u16()).await.unwrap().unwrap())];
        timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        Message::from_vec(&answer).unwrap()
    }

    /// Everything that comes back for some bytes until the other side closes.
    pub async fn connect_from(&self, from: Ipv4Addr, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(from).await;
        // It may be closed already, by a reset.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut all = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut all)).await.unwrap();
        all
    }
}

pub fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4242, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn question(name: &str, kind: RecordType) -> Vec<u8> {
    message(name, kind).to_vec().unwrap()
}

pub fn question_with_edns(name: &str, kind: RecordType, payload: u16) -> Vec<u8> {
    let (mut message, mut edns) = (message(name, kind), Edns::new());
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

pub async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65_535];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let message = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(message.metadata.message_type, MessageType::Response);
    message
}

pub fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    message.answers.iter().filter_map(super::super::reply::address_of).collect()
}

/// Rules that wait until the test says what becomes of a pin.
#[derive(Debug)]
struct Rules {
    held: mpsc::Sender<Held>,
}

#[derive(Debug)]
pub struct Held {
    slot: u32,
    rules: Vec<usize>,
    addresses: Vec<Ipv4Addr>,
    ttl: Duration,
    release: oneshot::Sender<bool>,
}

impl Held {
    pub fn pinned(&self) -> (u32, Vec<usize>, Vec<Ipv4Addr>, Duration) {
        (self.slot, self.rules.clone(), self.addresses.clone(), self.ttl)
    }

    pub fn release(self, well: bool) {
        self.release.send(well).unwrap();
    }
}

pub struct Pins {
    held: Mutex<mpsc::Receiver<Held>>,
}

impl Pins {
    pub async fn next(&self) -> Held {
        timeout(DEADLINE, async { self.held.lock().await.recv().await }).await.expect("a pin").unwrap()
    }

    pub fn none(&self) -> bool {
        self.held.try_lock().unwrap().try_recv().is_err()
    }
}

#[async_trait]
impl Pinner for Rules {
    async fn pin(&self, asker: &Attached, rules: &[usize], addresses: &[Ipv4Addr], ttl: Duration) -> Result<()> {
        let (release, released) = oneshot::channel();
        let (rules, addresses) = (rules.to_vec(), addresses.to_vec());
        self.held.send(Held { slot: asker.lease.slot, rules, addresses, ttl, release }).await.unwrap();
        match released.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Error::new(ErrorKind::Unavailable, "the test says no")),
        }
    }
}
