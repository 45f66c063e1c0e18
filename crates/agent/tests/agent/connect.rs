//! Connections the daemon makes to ports inside.

use std::io::ErrorKind as IoKind;
use std::net::SocketAddr;

use moat_agent::launch::AgentConfig;
use moat_agent::protocol::mux::CONNECTS_MAX;
use moat_engine::Guest;
use moat_model::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, echo, run};

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(DEADLINE, listener.accept()).await.unwrap().unwrap().0
}

#[tokio::test]
async fn a_hundred_connections_carry_both_ways_and_end_each_way() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    assert!(guest.hello().await.unwrap().capabilities.contains(&"connect".to_owned()));
    let port = echo().await.port();
    let mut many = JoinSet::new();
    for n in 0..100_u8 {
        let guest = guest.clone();
        many.spawn(async move {
            let channel = guest.connect_port(port).await.unwrap();
            let text = vec![n; 200_000];
            let expected = [text.as_slice(), b"bye"].concat();
            let (mut read, mut write) = tokio::io::split(channel);
            // In tasks of their own: neither direction may depend on the other's being looked at.
            let writing = tokio::spawn(async move {
                write.write_all(&text).await.unwrap();
                write.shutdown().await.unwrap();
                assert_eq!(write.write(b"x").await.unwrap_err().kind(), IoKind::BrokenPipe);
            });
            let mut back = Vec::new();
            timeout(DEADLINE, read.read_to_end(&mut back)).await.unwrap().unwrap();
            assert!(back == expected, "{} bytes came back", back.len());
            writing.await.unwrap();
        });
    }
    while let Some(one) = many.join_next().await {
        one.unwrap();
    }
}

#[tokio::test]
async fn the_program_may_end_its_side_first() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let (listener, port) = listener().await;
    let mut channel = guest.connect_port(port).await.unwrap();
    let mut program = accept(&listener).await;
    program.write_all(b"all there is").await.unwrap();
    program.shutdown().await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, channel.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "all there is");
    // The other direction is open as before.
    channel.write_all(b"late").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, program.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "late");
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_one_that_ended() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let (listener, port) = listener().await;

    // The program's side breaks.
    let mut channel = guest.connect_port(port).await.unwrap();
    let program = accept(&listener).await;
    program.set_zero_linger().unwrap();
    drop(program);
    let error = timeout(DEADLINE, channel.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), IoKind::ConnectionReset);
    assert!(error.to_string().contains("os error 104"), "{error}");

    // The daemon's side is dropped: before its end, after it, and while the program does not read.
    for case in ["open", "ended", "unread"] {
        let mut channel = guest.connect_port(port).await.unwrap();
        let mut program = accept(&listener).await;
        match case {
            "ended" => channel.shutdown().await.unwrap(),
            "unread" => {
                let block = vec![0; 1 << 20];
                // What fits goes; then it waits for a reader.
                let flood = async { while channel.write_all(&block).await.is_ok() {} };
                let never = timeout(std::time::Duration::from_secs(1), flood).await;
                assert!(never.is_err(), "bytes went where nobody reads");
            }
            _ => {}
        }
        drop(channel);
        let gone = async {
            let mut buffer = vec![0; 1 << 16];
            let mut ends = 0;
            // After an end, only a write shows that the other side has gone altogether.
            while program.write_all(b"x").await.is_ok() {
                ends += usize::from(program.read(&mut buffer).await.unwrap_or(0) == 0);
                tokio::task::yield_now().await;
            }
            ends
        };
        timeout(DEADLINE, gone).await.unwrap_or_else(|_| panic!("{case}: the program is not told"));
    }
    guest.hello().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_refused_by_kind() {
    let (listener, free) = listener().await;
    drop(listener);
    let forwarded = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let sandbox = Sandbox::launch_with(|agent: &mut AgentConfig| agent.forward_ports = vec![forwarded]);
    let guest = sandbox.connect().await;
    let refusal = async |port| guest.connect_port(port).await.map(|_| ()).unwrap_err();

    let error = refusal(free).await;
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.chain().contains("os error 111") && error.chain().contains(&free.to_string()), "{}", error.chain());
    assert_eq!(refusal(0).await.kind, ErrorKind::InvalidSpec);
    assert_eq!(refusal(forwarded).await.kind, ErrorKind::Denied);
    guest.hello().await.unwrap();
}

#[tokio::test]
async fn the_other_loopback_is_tried_after_the_first() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        return moat_testkit::not_run("connect v6", "no ::1 here");
    };
    let port = listener.local_addr().unwrap().port();
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let mut channel = guest.connect_port(port).await.unwrap();
    let (mut program, from) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
    assert!(matches!(from, SocketAddr::V6(_)));
    program.write_all(b"six").await.unwrap();
    drop(program);
    let mut text = String::new();
    timeout(DEADLINE, channel.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "six");
}

#[tokio::test]
async fn a_program_that_neither_reads_nor_closes_holds_up_nobody_else() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let (listener, port) = listener().await;
    let block = vec![0; 1 << 20];
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut channel = guest.connect_port(port).await.unwrap();
        held.push(accept(&listener).await);
        let block = block.clone();
        let (full_tx, full) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut full_tx = Some(full_tx);
            loop {
                match timeout(std::time::Duration::from_millis(500), channel.write_all(&block)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return,
                    Err(_) => drop(full_tx.take()),
                }
            }
        });
        // Dropped when a write has waited for long: no more goes in there.
        let _ = timeout(DEADLINE, full).await.expect("the buffers have a bound");
    }
    assert!(sandbox.rss() < 32 << 20, "{} bytes in the agent", sandbox.rss());

    let echo = echo().await.port();
    let (mut read, mut write) = tokio::io::split(guest.connect_port(echo).await.unwrap());
    let mut back = Vec::new();
    let exchange = async {
        let writing = async {
            write.write_all(&block).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(writing, read.read_to_end(&mut back)).1.unwrap();
    };
    timeout(DEADLINE, exchange).await.unwrap();
    assert_eq!(back.len(), block.len() + 3);
    assert_eq!(run(&guest, "echo fine").await.stdout, "fine\n");
}

#[tokio::test]
async fn there_is_a_bound_and_what_was_closed_no_longer_counts() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let (listener, port) = listener().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTS_MAX {
        held.push((guest.connect_port(port).await.unwrap(), accept(&listener).await));
    }
    let error = guest.connect_port(port).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert_eq!(run(&guest, "echo fine").await.stdout, "fine\n", "everything else goes on");

    let (channel, mut program) = held.pop().unwrap();
    drop(channel);
    // The agent counts as well, and has let go when the program is told.
    assert_eq!(timeout(DEADLINE, program.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    guest.connect_port(port).await.unwrap();
    accept(&listener).await;
}

/// A daemon that comes back connects anew; connections of the one before are closed.
#[tokio::test]
async fn connections_end_with_the_daemon_that_made_them() {
    let sandbox = Sandbox::launch();
    let first = sandbox.connect().await;
    let (listener, port) = listener().await;
    let mut channel = first.connect_port(port).await.unwrap();
    let mut program = accept(&listener).await;
    drop(first);
    assert_eq!(timeout(DEADLINE, program.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    let error = timeout(DEADLINE, channel.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), IoKind::ConnectionReset);

    let second = sandbox.connect().await;
    let mut channel = second.connect_port(port).await.unwrap();
    let mut program = accept(&listener).await;
    channel.write_all(b"again").await.unwrap();
    let mut text = [0; 5];
    timeout(DEADLINE, program.read_exact(&mut text)).await.unwrap().unwrap();
    assert_eq!(&text, b"again");
}
