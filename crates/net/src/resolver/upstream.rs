//! Asking the outside: which servers, and one question to them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::reply::Reply;
use super::wire::DATAGRAM_MAX;

/// How long one server is waited for before the next is asked, and the second time round.
const PATIENCE: [Duration; 2] = [Duration::from_millis(1200), Duration::from_secs(2)];
/// How long one question takes at most: stub resolvers give up after five seconds.
const PATIENCE_ALL: Duration = Duration::from_millis(4800);

/// How long servers are waited for.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// One server, each time round.
    pub each: Vec<Duration>,
    /// All of them together.
    pub all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { each: PATIENCE.to_vec(), all: PATIENCE_ALL }
    }
}

/// Servers asked; more than resolv.conf(5) has.
const SERVERS_MAX: usize = 4;
/// Most bytes of resolv.conf that are read.
const FILE_MAX: u64 = 64 * 1024;
/// Datagrams with another id or question that are thrown away before the server is given up: somebody guesses.
const STRANGERS_MAX: usize = 16;
const DNS_PORT: u16 = 53;

/// The servers names are asked of.
#[derive(Debug)]
pub(super) struct Upstreams {
    fixed: Vec<SocketAddr>,
    file: PathBuf,
    /// Our own address, which must not be asked: it would ask itself.
    own: IpAddr,
    patience: Patience,
    seen: Mutex<Option<Seen>>,
    /// The one that answered last.
    good: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Seen {
    stamp: Option<(SystemTime, u64)>,
    servers: Arc<[SocketAddr]>,
}

/// Why nobody answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Silence {
    /// There is nobody to ask.
    #[error("network.upstreams is empty and the node's resolv.conf names no server but this one")]
    Nobody,
    /// None of them answered in time.
    #[error("no upstream answered")]
    Unanswered,
}

impl Upstreams {
    /// These, or if there are none, what the file names: looked at again whenever it changes.
    pub fn new(fixed: &[SocketAddr], file: PathBuf, own: IpAddr, patience: Patience) -> Self {
        let fixed = fixed.iter().copied().filter(|s| s.ip() != own).take(SERVERS_MAX).collect();
        Self { fixed, file, own, patience, seen: Mutex::new(None), good: AtomicUsize::new(0) }
    }

    /// The servers, as of now.
    pub async fn servers(&self) -> Arc<[SocketAddr]> {
        if !self.fixed.is_empty() {
            return self.fixed.as_slice().into();
        }
        let metadata = tokio::fs::metadata(&self.file).await.ok();
        let stamp = metadata.as_ref().and_then(|m| Some((m.modified().ok()?, m.len())));
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(seen) = seen.filter(|s| s.stamp == stamp) {
            return seen.servers;
        }
        let text = match metadata {
            Some(m) if m.is_file() && m.len() <= FILE_MAX => tokio::fs::read(&self.file).await.unwrap_or_default(),
            Some(_) | None => Vec::new(),
        };
        let servers: Arc<[SocketAddr]> = named_in(&String::from_utf8_lossy(&text), self.own).into();
        tracing::info!(?servers, file = %self.file.display(), "the outside is asked at these servers");
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { stamp, servers: servers.clone() });
        servers
    }

    /// Asks for a name, of one server after the other, beginning with the one that answered last.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, Silence> {
        let servers = self.servers().await;
        if servers.is_empty() {
            return Err(Silence::Nobody);
        }
        let end = Instant::now() + self.patience.all;
        let first = self.good.load(Ordering::Relaxed);
        for patience in &self.patience.each {
            for turn in 0..servers.len() {
                let index = (first + turn) % servers.len();
                let Some(server) = servers.get(index) else { continue };
                let until = end.min(Instant::now() + *patience);
                if let Ok(Some(reply)) = timeout_at(until, ask_one(*server, name, kind, end)).await {
                    self.good.store(index, Ordering::Relaxed);
                    return Ok(reply);
                }
            }
        }
        Err(Silence::Unanswered)
    }
}

/// Servers named in a resolv.conf. One on every address of the host cannot be asked, and we are not asked by ourselves.
fn named_in(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        address.parse::<IpAddr>().ok()
    });
    let usable = lines.filter(|ip| *ip != own && !ip.is_unspecified() && !ip.is_multicast());
    usable.map(|ip| SocketAddr::new(ip, DNS_PORT)).take(SERVERS_MAX).collect()
}

/// One server: with EDNS, without if it does not know that, over TCP if the answer is cut. None: it is of no use now.
async fn ask_one(server: SocketAddr, name: &Name, kind: RecordType, end: Instant) -> Option<Reply> {
    for edns in [true, false] {
        let asked = Asked::new(name, kind, edns);
        let mut answer = over_udp(server, &asked).await?;
        if answer.metadata.truncation {
            answer = timeout_at(end, over_tcp(server, &asked)).await.ok()??;
        }
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => return Some(Reply::from_message(&answer, name, kind)),
            ResponseCode::FormErr | ResponseCode::NotImp if edns => {}
            _ => return None,
        }
    }
    None
}

/// A question on its way. Its id is random, and so is the port it is sent from.
struct Asked {
    message: Message,
}

impl Asked {
    fn new(name: &Name, kind: RecordType, edns: bool) -> Self {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_MAX).set_version(0);
            message.set_edns(edns);
        }
        Self { message }
    }

    /// Whether these bytes answer it.
    fn answered_by(&self, bytes: &[u8]) -> Option<Message> {
        let answer = Message::from_vec(bytes).ok()?;
        let ours = answer.metadata.message_type == MessageType::Response
            && answer.metadata.id == self.message.metadata.id
            && (answer.queries == self.message.queries || is_bare_refusal(&answer));
        ours.then_some(answer)
    }
}

/// Servers that could not read a question cannot repeat it.
fn is_bare_refusal(answer: &Message) -> bool {
    answer.queries.is_empty() && answer.metadata.response_code != ResponseCode::NoError && answer.answers.is_empty()
}

async fn over_udp(server: SocketAddr, asked: &Asked) -> Option<Message> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await.ok()?;
    // Connected: nobody else is heard, and a server that is not there is known at once.
    socket.connect(server).await.ok()?;
    socket.send(&asked.message.to_vec().ok()?).await.ok()?;
    let mut buffer = vec![0; 4096];
    for _ in 0..STRANGERS_MAX {
        let length = socket.recv(&mut buffer).await.ok()?;
        if let Some(answer) = buffer.get(..length).and_then(|bytes| asked.answered_by(bytes)) {
            return Some(answer);
        }
    }
    None
}

async fn over_tcp(server: SocketAddr, asked: &Asked) -> Option<Message> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let bytes = asked.message.to_vec().ok()?;
    let length = u16::try_from(bytes.len()).ok()?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await.ok()?;
    let mut answer = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut answer).await.ok()?;
    asked.answered_by(&answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_and_we_are_left_out() {
        let text = "# x\nnameserver 169.254.1.1\nnameserver 10.0.0.2 # one\nnameserver\t::1\nnameserver 0.0.0.0\n\
                    options edns0\nnameserver fe80::1%eth0\nsearch a.b\nnameserver nine";
        let own = IpAddr::from([169, 254, 1, 1]);
        assert_eq!(named_in(text, own), ["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn the_file_is_read_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let upstreams = Upstreams::new(&[], file.clone(), IpAddr::from([169, 254, 1, 1]), Patience::default());
        assert!(upstreams.servers().await.is_empty());
        assert_eq!(upstreams.ask(&Name::root(), RecordType::A).await.err(), Some(Silence::Nobody));
        std::fs::write(&file, "nameserver 10.0.0.2").unwrap();
        assert_eq!(upstreams.servers().await[..], ["10.0.0.2:53".parse().unwrap()]);
        std::fs::write(&file, "nameserver 10.0.0.2\nnameserver 10.0.0.3").unwrap();
        assert_eq!(upstreams.servers().await.len(), 2);
        std::fs::remove_file(&file).unwrap();
        assert!(upstreams.servers().await.is_empty());
    }
}
