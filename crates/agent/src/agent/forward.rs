//! Ports on the sandbox's own loopback whose connections are carried over the daemon's channel.

use std::net::{Ipv4Addr, TcpListener as StdTcpListener};
use std::rc::Rc;
use std::time::Duration;

use moat_agent::protocol::GuestRequest;
use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::write_header;
use moat_model::ErrorKind;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Agent;
use super::failure::Failure;

/// The daemon opens a stream at once or is not there.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// It connects to the target within ten seconds, then answers.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// After accepting failed: no descriptors are left, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The daemon's answer when it has connected.
const CONNECTED: u8 = 1;

/// Listens on every port, or says which cannot be had. Done before privileges go: a port may be below 1024.
pub fn listen(ports: &[u16]) -> Result<Vec<StdTcpListener>, Failure> {
    let listen = |port: &u16| {
        let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, *port)).and_then(|l| {
            l.set_nonblocking(true)?;
            Ok(l)
        });
        listener.map_err(|e| Failure::new(ErrorKind::Unavailable, format!("forward: listen on 127.0.0.1:{port}: {e}")))
    };
    ports.iter().map(listen).collect()
}

/// Accepts connections to one port for ever.
pub async fn serve(agent: Rc<Agent>, listener: StdTcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let Ok(port) = listener.local_addr().map(|addr| addr.port()) else { return };
    loop {
        // Beyond the bound, connections wait in the kernel's queue.
        let Ok(permit) = agent.forwards.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let agent = agent.clone();
                tokio::task::spawn_local(async move {
                    // Ending closes the connection, which is all a program here can be told.
                    let _ = carry(&agent, port, socket).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn carry(agent: &Agent, port: u16, mut socket: TcpStream) -> Option<()> {
    let mut stream = timeout(OPEN_DEADLINE, open(agent)).await.ok()??;
    write_header::<AgentFrame>(&mut stream, &GuestRequest::Forward { port }).await.ok()?;
    let answer = timeout(ANSWER_DEADLINE, stream.read_u8()).await.ok()?.ok()?;
    if answer == CONNECTED {
        copy_bidirectional(&mut socket, &mut stream).await.ok()?;
    }
    Some(())
}

/// A stream to the daemon, if there is one.
async fn open(agent: &Agent) -> Option<Stream> {
    let opens = agent.opens.borrow().clone()?;
    let (reply, stream) = oneshot::channel();
    opens.send(reply).await.ok()?;
    stream.await.ok()
}
