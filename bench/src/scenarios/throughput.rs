//! How fast a sandbox's link is beside one without rules, and how exactly a limit holds.
//!
//! Everything happens in network namespaces of the measurement's own; nothing leaves the machine.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use moat_engine::fabric::{Attachment, Fabric};
use moat_model::network::{NetworkLimits, NetworkMode, NetworkSpec};
use moat_model::{Namespace, SandboxId, Timestamp};
use moat_net::slots::namespace;
use moat_net::{Net, NetConfig};
use tempfile::TempDir;

use crate::samples::Sample;

/// Series of the one link: what comes in, what goes out, each beside a bare pair of links.
pub const INTO: &str = "moat: host → sandbox";
pub const BARE_INTO: &str = "bare veth: host → namespace";
pub const OUT: &str = "moat: sandbox → host";
pub const BARE_OUT: &str = "bare veth: namespace → host";
/// Series of two links with the host between them.
pub const ACROSS: &str = "moat: sandbox → sandbox";
pub const BARE_ACROSS: &str = "two bare veths, routed";

/// Limits that are measured: a name of the series up, one down, and bits per second.
pub const LIMITS: [(&str, &str, u64); 3] = [
    ("moat: 10 Mbit/s up", "moat: 10 Mbit/s down", 10_000_000),
    ("moat: 100 Mbit/s up", "moat: 100 Mbit/s down", 100_000_000),
    ("moat: 1 Gbit/s up", "moat: 1 Gbit/s down", 1_000_000_000),
];

const ROUNDS: usize = 10;
const LIMIT_ROUNDS: usize = 3;
/// Not counted: slow start, and what a bucket of a limit held when the stream began.
const WARM: Duration = Duration::from_millis(700);
const COUNTED: Duration = Duration::from_millis(1500);
/// Longer for limits: a pause of one stream on a busy machine is made up for.
const COUNTED_LIMITED: Duration = Duration::from_secs(4);
const CHUNK: usize = 128 * 1024;
const PORT: u16 = 7000;
/// Of a full frame of 1514 bytes, which limits count, this is what a program sends: the rest is Ethernet, IP and TCP with
/// its timestamps.
const PAYLOAD_SHARE: f64 = 1448.0 / 1514.0;

/// `T-N1`.
pub async fn link() -> anyhow::Result<Vec<Sample>> {
    in_own_network(|| {
        let bare = Bare::new(1)?;
        let node = Node::start()?;
        let sandbox = node.sandbox(1, NetworkLimits::default())?;
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            for (end, into, out) in [(&bare.end, BARE_INTO, BARE_OUT), (&sandbox, INTO, OUT)] {
                samples.push(gigabits("T-N1", into, transfer(None, end, Towards::Listener, COUNTED)?));
                samples.push(gigabits("T-N1", out, transfer(None, end, Towards::Caller, COUNTED)?));
            }
        }
        node.stop()?;
        Ok(samples)
    })
    .await
}

/// `T-N3`.
pub async fn across() -> anyhow::Result<Vec<Sample>> {
    in_own_network(|| {
        let bare = (Bare::new(1)?, Bare::new(2)?);
        let node = Node::start()?;
        let none = NetworkLimits::default();
        let sandboxes = (node.sandbox(1, none)?, node.sandbox(2, none)?);
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            let rate = transfer(Some(&bare.0.end), &bare.1.end, Towards::Listener, COUNTED)?;
            samples.push(gigabits("T-N3", BARE_ACROSS, rate));
            let rate = transfer(Some(&sandboxes.0), &sandboxes.1, Towards::Listener, COUNTED)?;
            samples.push(gigabits("T-N3", ACROSS, rate));
        }
        node.stop()?;
        Ok(samples)
    })
    .await
}

/// `T-N2`.
pub async fn limits() -> anyhow::Result<Vec<Sample>> {
    in_own_network(|| {
        let node = Node::start()?;
        let peer = node.sandbox(1, NetworkLimits::default())?;
        let mut samples = Vec::new();
        for (n, (up, down, bits)) in (2..).zip(LIMITS) {
            let limits = NetworkLimits {
                up_bits_per_sec: Some(bits),
                down_bits_per_sec: Some(bits),
                ..NetworkLimits::default()
            };
            let limited = node.sandbox(n, limits)?;
            for _ in 0..LIMIT_ROUNDS {
                for (series, towards) in [(up, Towards::Listener), (down, Towards::Caller)] {
                    let rate = transfer(Some(&limited), &peer, towards, COUNTED_LIMITED)? / PAYLOAD_SHARE;
                    let off = (rate / bits as f64 - 1.0).abs() * 100.0;
                    samples.push(Sample::new("T-N2", series, "% off", off));
                }
            }
        }
        node.stop()?;
        Ok(samples)
    })
    .await
}

fn gigabits(scenario: &str, series: &str, bits: f64) -> Sample {
    Sample::new(scenario, series, "Gbit/s", bits / 1e9)
}

async fn in_own_network(
    job: impl FnOnce() -> anyhow::Result<Vec<Sample>> + Send + 'static,
) -> anyhow::Result<Vec<Sample>> {
    let run = move || {
        namespace::fresh(|_| {
            let lo = ip(&["link", "set", "lo", "up"]);
            Ok(lo.and_then(|()| job()))
        })
    };
    tokio::task::spawn_blocking(run).await??
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let out = Command::new("ip").args(args).output().context("run ip")?;
    if !out.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// A namespace, and its address there.
struct End {
    namespace: OwnedFd,
    address: Ipv4Addr,
}

/// A pair of links without anything on them, one end in a namespace of its own.
struct Bare {
    end: End,
}

impl Bare {
    fn new(n: u8) -> anyhow::Result<Self> {
        let namespace = namespace::fresh(Ok)?;
        let (host, guest) = (format!("bare{n}"), format!("bare{n}x"));
        let (gateway, address) = (Ipv4Addr::new(10, 200, n, 1), Ipv4Addr::new(10, 200, n, 2));
        ip(&["link", "add", &host, "type", "veth", "peer", "name", &guest])?;
        let file = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        ip(&["link", "set", &guest, "netns", &file])?;
        ip(&["addr", "add", &format!("{gateway}/24"), "dev", &host])?;
        ip(&["link", "set", &host, "up"])?;
        namespace::within(namespace.as_fd(), || {
            let up = || {
                ip(&["addr", "add", &format!("{address}/24"), "dev", &guest])?;
                ip(&["link", "set", &guest, "up"])?;
                ip(&["route", "add", "default", "via", &gateway.to_string()])
            };
            Ok(up())
        })??;
        Ok(Self { end: End { namespace, address } })
    }
}

/// The network of a node, as the daemon makes it.
struct Node {
    runtime: tokio::runtime::Runtime,
    net: Arc<Net>,
    attached: std::cell::RefCell<Vec<moat_model::network::NetworkLease>>,
    _dir: TempDir,
}

impl Node {
    fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        // Its threads are born where this one is.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = NetConfig { name: "bench".to_owned(), ready: 0, ..NetConfig::new(dir.path().join("net")) };
        let net = runtime.block_on(async {
            let net = Net::start(config).await?;
            net.restore(Vec::new()).await?;
            anyhow::Ok(net)
        })?;
        Ok(Self { runtime, net, attached: Vec::new().into(), _dir: dir })
    }

    fn sandbox(&self, n: u8, limits: NetworkLimits) -> anyhow::Result<End> {
        let attachment = Attachment {
            tap_owner: None,
            id: SandboxId::from_parts(Timestamp::from_millis(1), [n; 10]),
            namespace: Namespace::default_namespace(),
            labels: BTreeMap::new(),
            pooled: false,
            spec: NetworkSpec { limits, ..NetworkSpec::new(NetworkMode::Internal) },
        };
        let lease = self.net.reserve(&attachment)?;
        self.attached.borrow_mut().push(lease);
        self.runtime.block_on(self.net.attach(&lease, &attachment))?;
        let namespace = std::fs::File::open(self.net.place(&lease).netns)?.into();
        Ok(End { namespace, address: lease.address })
    }

    fn stop(self) -> anyhow::Result<()> {
        for lease in self.attached.take() {
            self.runtime.block_on(self.net.detach(&lease))?;
            self.net.free(&lease);
        }
        Ok(self.runtime.block_on(self.net.stop())?)
    }
}

/// Who receives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Listener,
    Caller,
}

/// Bits per second of one TCP stream, as the receiver counts them. `from` calls `to`; none: this namespace does.
fn transfer(from: Option<&End>, to: &End, towards: Towards, counted: Duration) -> anyhow::Result<f64> {
    let (ready, listening) = mpsc::channel();
    let at = SocketAddr::from((to.address, PORT));
    let listen = || {
        let listener = TcpListener::bind(at)?;
        // Whoever waits for this is gone only if everything failed.
        let _ = ready.send(());
        let (stream, _) = listener.accept()?;
        play(stream, towards == Towards::Listener, counted)
    };
    let call = || play(TcpStream::connect(at)?, towards == Towards::Caller, counted);
    let (heard, called) = std::thread::scope(|scope| {
        let heard = scope.spawn(|| namespace::within(to.namespace.as_fd(), listen));
        let called = match (listening.recv(), from) {
            (Err(_), _) => Err(std::io::Error::other("nobody listens")),
            (Ok(()), None) => call(),
            (Ok(()), Some(end)) => namespace::within(end.namespace.as_fd(), call),
        };
        (heard.join().unwrap_or_else(|_| Err(std::io::Error::other("the listener panicked"))), called)
    });
    heard?.or(called?).context("nothing was received for as long as was counted")
}

/// One side of a stream: the receiver's rate, none for the sender.
fn play(mut stream: TcpStream, receives: bool, counted: Duration) -> std::io::Result<Option<f64>> {
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    if !receives {
        while start.elapsed() < WARM + counted {
            stream.write_all(&chunk)?;
        }
        stream.shutdown(Shutdown::Write)?;
        // The other side closes once it has everything.
        while stream.read(&mut chunk)? > 0 {}
        return Ok(None);
    }
    let (mut since, mut bytes, mut last) = (None, 0u64, start);
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        last = Instant::now();
        match since {
            Some(_) => bytes += read as u64,
            None if start.elapsed() >= WARM => since = Some(last),
            None => {}
        }
    }
    let counted = since.map(|since| last - since).filter(|counted| !counted.is_zero());
    Ok(counted.map(|counted| bytes as f64 * 8.0 / counted.as_secs_f64()))
}
