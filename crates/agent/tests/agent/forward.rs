//! Ports inside that lead through the daemon to one address.

use moat_agent::launch::AgentConfig;
use moat_engine::Guest;
use moat_model::spec::Forward;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, echo, sh};

/// A port nobody listens on now.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn connections_are_carried_to_the_target_and_nowhere_else() {
    let (good, refused) = (free_port().await, free_port().await);
    let sandbox = Sandbox::launch_with(|agent: &mut AgentConfig| agent.forward_ports = vec![good, refused]);
    let connect = |port| TcpStream::connect(("127.0.0.1", port));

    // Nobody is there to carry it.
    let listening = moat_testkit::wait_until(DEADLINE, "the agent to listen", async || connect(good).await.ok());
    let mut early = listening.await.unwrap();
    assert_eq!(timeout(DEADLINE, early.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);

    let forwards = vec![Forward { listen_port: good, target: echo().await.to_string() }];
    let guest = sandbox.connect_with(forwards).await;
    let mut many = Vec::new();
    for n in 0..20_u32 {
        let mut socket = connect(good).await.unwrap();
        let text = vec![u8::try_from(n).unwrap(); 100_000];
        let expected = [text.as_slice(), b"bye"].concat();
        many.push(tokio::spawn(async move {
            let (mut read, mut write) = socket.split();
            let mut back = Vec::new();
            let writing = async {
                write.write_all(&text).await.unwrap();
                // Half-closed: the answer still comes.
                write.shutdown().await.unwrap();
            };
            let (_, read) = tokio::join!(writing, read.read_to_end(&mut back));
            read.unwrap();
            assert!(back == expected, "{} bytes came back", back.len());
        }));
    }
    for one in many {
        timeout(DEADLINE, one).await.unwrap().unwrap();
    }

    // The agent listens there, but this daemon was not told of a target.
    let mut socket = connect(refused).await.unwrap();
    assert_eq!(timeout(DEADLINE, socket.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    guest.hello().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_when_main_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let sandbox = Sandbox::launch_with(|agent: &mut AgentConfig| agent.forward_ports = vec![port]);
    let guest = sandbox.connect().await;
    let error = guest.start_main(&sh("true")).await.unwrap_err();
    assert!(error.chain().contains(&format!("127.0.0.1:{port}")), "{}", error.chain());
}
