//! Both sides over one stream that is never told where a connection begins.

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::codec::{Word, encode, encode_word};
use super::{Nonce, connect, serve};

/// Runs on one thread, as the agent does.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, work)
}

/// An agent that echoes; gives the number of connections it had when its device has ended.
fn echo(mut device: DuplexStream) -> JoinHandle<usize> {
    spawn_local(async move {
        let mut connections: Vec<JoinHandle<()>> = Vec::new();
        let begun = |connection: DuplexStream| {
            connections.push(spawn_local(async move {
                let (mut from, mut to) = tokio::io::split(connection);
                // Ends with the connection.
                let _ = tokio::io::copy(&mut from, &mut to).await;
            }));
        };
        // An error where it could not be written any more.
        let _ = serve(&mut device, begun).await;
        connections.len()
    })
}

/// What one daemon does with the line before it dies.
#[derive(Debug, Clone)]
struct Life {
    /// Left by somebody before it, cut off anywhere.
    garbage: Vec<u8>,
    nonce: Nonce,
    says: Vec<u8>,
    /// How much of the echo it hears.
    hears: prop::sample::Index,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let byte = || prop_oneof![Just(0x10), Just(b'S'), Just(b'D'), any::<u8>()];
    let life = (
        prop::collection::vec(byte(), 0..40),
        any::<Nonce>(),
        prop::collection::vec(byte(), 0..500),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(garbage, nonce, says, hears)| Life { garbage, nonce, says, hears });
    prop::collection::vec(life, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However the ones before it ended, and however small the pieces are: each hears its own echo and nothing else.
    #[test]
    fn each_connection_hears_itself_only(lives in lives(), room in 1_usize..100) {
        block_on(async {
            let (mut host, device) = duplex(room);
            let agent = echo(device);
            for life in &lives {
                host.write_all(&life.garbage).await.unwrap();
                let mut line = connect(&mut host, life.nonce).await.unwrap();
                let (mut from, mut to) = tokio::io::split(&mut line);
                let mut heard = vec![0; life.hears.index(life.says.len() + 1)];
                let saying = async {
                    to.write_all(&life.says).await.unwrap();
                    to.flush().await.unwrap();
                };
                // What it does not hear is still on its way when the next one comes.
                tokio::select! {
                    biased;
                    ((), read) = async { tokio::join!(saying, from.read_exact(&mut heard)) } => drop(read.unwrap()),
                }
                assert_eq!(heard, life.says[..heard.len()]);
            }
            drop(host);
            assert_eq!(agent.await.unwrap(), lives.len());
        });
    }

    /// Answers to others and what is left of their connections are not taken for one's own.
    #[test]
    fn what_came_before_the_answer_is_thrown_away(
        before in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
        stale in any::<Nonce>(),
        mut nonce in any::<Nonce>(),
        says in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        nonce[0] = !stale[0];
        block_on(async {
            let (host, mut device) = duplex(1 << 16);
            let mut wire = BytesMut::new();
            encode_word(Word::Begun, stale, &mut wire);
            encode(&before, &mut wire);
            encode_word(Word::End, nonce, &mut wire);
            encode_word(Word::Begun, nonce, &mut wire);
            // The answer itself is cut off, and so is what was before it.
            wire.truncate(cut.index(wire.len()));
            encode_word(Word::Begun, nonce, &mut wire);
            encode(&says, &mut wire);
            encode_word(Word::End, nonce, &mut wire);
            device.write_all(&wire).await.unwrap();
            let mut heard = Vec::new();
            connect(host, nonce).await.unwrap().read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, says);
        });
    }
}

#[test]
fn a_line_that_breaks_is_an_error_and_not_an_end() {
    for wire in [&b"\x10x"[..], b"\x10S0000000000000000", b"\x10E0000000000000000"] {
        block_on(async {
            let (host, mut device) = duplex(1 << 10);
            let mut begun = BytesMut::new();
            encode_word(Word::Begun, [7; 8], &mut begun);
            device.write_all(&begun).await.unwrap();
            device.write_all(wire).await.unwrap();
            let mut line = connect(host, [7; 8]).await.unwrap();
            let error = line.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{wire:?}");
        });
    }
}

#[test]
fn each_side_learns_that_the_other_has_ended_it() {
    block_on(async {
        let (mut host, mut device) = duplex(1 << 10);
        let (connections, mut begun) = mpsc::channel(4);
        let agent = spawn_local(async move { serve(&mut device, |one| connections.try_send(one).unwrap()).await });

        let mut line = connect(&mut host, [1; 8]).await.unwrap();
        let mut served = begun.recv().await.unwrap();
        served.write_all(b"bye").await.unwrap();
        drop(served);
        let mut heard = Vec::new();
        line.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye", "what was said before the end is heard");
        drop(line);

        let _line = connect(&mut host, [2; 8]).await.unwrap();
        let mut older = begun.recv().await.unwrap();
        // Nobody said that this one is over; the next one does.
        let mut line = connect(&mut host, [3; 8]).await.unwrap();
        assert_eq!(older.read(&mut [0; 8]).await.unwrap(), 0);
        let mut served = begun.recv().await.unwrap();
        line.write_all(b"bye").await.unwrap();
        line.shutdown().await.unwrap();
        let mut heard = Vec::new();
        served.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
        drop(line);
        drop(host);
        let _ = agent.await.unwrap();
    });
}

/// A device can say too late that the one before has gone, and the agent gives up the one that has begun since: whoever speaks then
/// learns it, once, and begins again.
#[test]
fn whoever_speaks_without_a_connection_learns_it() {
    block_on(async {
        let (mut host, mut device) = duplex(1 << 10);
        let mut line = connect_and_serve(&mut host, &mut device, [1; 8]).await;
        // Here the agent was told that nobody is there any more, and serves anew.
        for _ in 0..3 {
            line.write_all(b"hello").await.unwrap();
        }
        {
            let serving = serve(&mut device, |_| panic!("nobody has begun"));
            let mut heard = [0; 8];
            let error = tokio::select! {
                read = line.read(&mut heard) => read.unwrap_err(),
                ended = serving => panic!("{ended:?}"),
            };
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
        drop(line);
        connect_and_serve(&mut host, &mut device, [2; 8]).await;
        let mut more = [0; 8];
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(20), host.read(&mut more)).await;
        assert!(nothing.is_err(), "it is told once: {more:?}");
    });
}

/// A connection whose agent's side was given up as soon as it had begun, by who serves the device.
async fn connect_and_serve<'a>(
    host: &'a mut DuplexStream,
    device: &mut DuplexStream,
    nonce: Nonce,
) -> super::Line<&'a mut DuplexStream> {
    let mut held = Vec::new();
    tokio::select! {
        line = connect(host, nonce) => line.unwrap(),
        ended = serve(device, |one| held.push(one)) => panic!("{ended:?}"),
    }
}

/// With nobody there to answer it waits, and whoever does not want to wait drops it.
#[test]
fn without_an_answer_it_waits() {
    block_on(async {
        let (host, _device) = duplex(1 << 10);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), connect(host, [1; 8])).await;
        assert!(waited.is_err());
        let (host, device) = duplex(1 << 10);
        drop(device);
        assert!(connect(host, [1; 8]).await.is_err());
    });
}
