//! Ports of the host that lead to a sandbox.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use moat_model::network::{NetworkMode, NetworkSpec, Protocol, PublishSpec};
use moat_net::NetConfig;
use moat_net::rules::Rules;
use moat_net::table::Attached;

use crate::bed::{Bed, NODE, Space};
use crate::in_spaces;
use crate::packet::Packet;

const PATIENCE: Duration = Duration::from_secs(60);
/// For what is not to come: a packet on its way takes no time here, and one that is too late is no failure.
const SHORT: Duration = Duration::from_millis(300);

fn publish(host_address: Ipv4Addr, host_port: u16, port: u16, count: u16, protocol: Protocol) -> PublishSpec {
    PublishSpec { host_address, host_port, port, count, protocol }
}

/// What a server inside says of who asked.
fn ask(from: &Space, to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    from.within(|| {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })
}

fn serve(space: &Space, port: u16) {
    let listener = space.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(from.as_bytes());
        }
    });
}

async fn bed() -> (Bed, Rules, Attached) {
    let mut bed = Bed::new(NetConfig::new("/run/moat/net"));
    let all = vec![
        publish(Ipv4Addr::LOCALHOST, 2001, 80, 1, Protocol::Tcp),
        publish(NODE, 2002, 80, 2, Protocol::Tcp),
        publish(Ipv4Addr::UNSPECIFIED, 2004, 80, 1, Protocol::Tcp),
        publish(Ipv4Addr::UNSPECIFIED, 2004, 80, 1, Protocol::Udp),
    ];
    let open = NetworkSpec::new(NetworkMode::Internal);
    let guide = bed.wire("guide", 1, "red", false, NetworkSpec::new(NetworkMode::Internet));
    let web = bed.wire("web", 2, "red", false, NetworkSpec { publish: all, ..open.clone() });
    let blue = bed.wire("blue", 3, "blue", false, open);
    let rules = Rules::install(&bed.config, false, &[]).await.unwrap();
    for attached in [&guide, &web, &blue] {
        rules.attach(attached).await.unwrap();
    }
    serve(&bed.sandboxes["web"].space, 80);
    serve(&bed.sandboxes["web"].space, 81);
    (bed, rules, web)
}

#[test]
fn the_host_and_those_outside_reach_what_is_published() {
    in_spaces(async || {
        let (bed, _rules, _) = bed().await;
        let (node, outside, gateway) = (&bed.node, &bed.outside, bed.config.gateway.to_string());
        let at = |address: Ipv4Addr, port: u16| SocketAddr::from((address, port));
        let local = Ipv4Addr::LOCALHOST;
        assert_eq!(ask(node, at(local, 2001), PATIENCE).unwrap(), gateway, "loopback");
        assert_eq!(ask(node, at(local, 2004), PATIENCE).unwrap(), gateway, "loopback, of all addresses");
        assert_eq!(ask(node, at(NODE, 2002), PATIENCE).unwrap(), NODE.to_string(), "the host at its own address");
        let stranger = "192.168.77.1";
        for port in [2002, 2003, 2004] {
            assert_eq!(ask(outside, at(NODE, port), PATIENCE).unwrap(), stranger, "from outside, port {port}");
        }
        assert!(ask(outside, at(NODE, 2001), SHORT).is_err(), "published at loopback only");
        // A sandbox is also at its own address, for the host.
        assert_eq!(ask(node, at(bed.address("web"), 80), PATIENCE).unwrap(), gateway);
        // Nobody outside reaches it there, nor loopback through our links.
        assert!(ask(outside, at(bed.address("web"), 80), SHORT).is_err());
    });
}

#[test]
fn udp_too() {
    in_spaces(async || {
        let (bed, _rules, _) = bed().await;
        let server = bed.sandboxes["web"].space.within(|| UdpSocket::bind("0.0.0.0:80").unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        for (from, to) in [(&bed.outside, NODE), (&bed.node, Ipv4Addr::LOCALHOST)] {
            let client = from.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.connect((to, 2004)).unwrap();
            client.send(b"ping").unwrap();
            let mut data = [0; 8];
            let (length, asker) = server.recv_from(&mut data).unwrap();
            server.send_to(&data[..length], asker).unwrap();
            assert_eq!(client.recv(&mut data).unwrap(), 4);
        }
    });
}

#[test]
fn sandboxes_reach_no_port_of_the_host() {
    in_spaces(async || {
        let (mut bed, _rules, _) = bed().await;
        for name in ["guide", "blue"] {
            let from = bed.address(name);
            for to in [NODE, Ipv4Addr::LOCALHOST, bed.config.gateway] {
                for port in 2001..=2004 {
                    for protocol in [6, 17] {
                        let places = bed.reaches(name, "guide", &Packet::new(from, to, protocol, port));
                        assert!(places.is_empty(), "{name} to {to}:{port}: {places:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_no_longer_published_is_cut() {
    in_spaces(async || {
        let (bed, rules, web) = bed().await;
        let listener = bed.sandboxes["web"].space.within(|| TcpListener::bind("0.0.0.0:90").unwrap());
        let mut published = web.clone();
        published.attachment.spec.publish =
            vec![publish(NODE, 2090, 90, 1, Protocol::Tcp), publish(NODE, 2002, 80, 1, Protocol::Tcp)];
        rules.change(&web, &published).await.unwrap();
        let mut client = bed.outside.within(|| TcpStream::connect_timeout(&(NODE, 2090).into(), PATIENCE).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let mut after = published.clone();
        after.attachment.spec.publish.remove(0);
        rules.change(&published, &after).await.unwrap();
        let _ = client.write(b"late");
        let _ = server.write(b"late");
        assert_eq!(ask(&bed.outside, (NODE, 2002).into(), PATIENCE).unwrap(), "192.168.77.1");
        for end in [&mut client, &mut server] {
            end.set_nonblocking(true).unwrap();
            let mut data = [0; 4];
            assert!(!matches!(end.read(&mut data), Ok(1..)), "{data:?}");
        }
        assert!(ask(&bed.outside, (NODE, 2090).into(), SHORT).is_err());
    });
}
