//! Cases about connections to ports inside.

use moat_agent::protocol::{Offsets, StreamName};
use moat_model::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::bed::{Bed, Sandbox, plain};
use super::patience::soon;
use super::{Fault, Verdict, ensure, ensure_kind};
use crate::guest::{AttachOutput, Channel};

/// More than all buffers on the way hold together.
const FLOOD: usize = 64 << 20;
/// Connections at once.
const MANY: usize = 20;

/// A sandbox in which something listens, and where.
async fn listening(bed: &Bed) -> Result<(Sandbox, u16), Fault> {
    let listener = bed.listener()?;
    let sandbox = bed.idle().await?;
    let pid = sandbox.guest.spawn(&plain(listener)).await?;
    let mut follower = sandbox.guest.attach(pid, Offsets::default()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        match timeout(soon(), follower.output.recv()).await {
            Ok(Some(AttachOutput::Data(chunk))) if chunk.stream == StreamName::Stdout => {
                line.extend_from_slice(&chunk.bytes);
            }
            other => return Err(Fault::Failed(format!("the listener does not print its port: {other:?}"))),
        }
    }
    let line = String::from_utf8_lossy(&line).trim().to_owned();
    let port = line.parse().map_err(|_| Fault::Failed(format!("the listener printed {line:?} for a port")))?;
    Ok((sandbox, port))
}

async fn within<T>(doing: &str, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Fault> {
    match timeout(soon(), work).await {
        Ok(result) => result.map_err(|error| Fault::Failed(format!("{doing}: {error}"))),
        Err(_) => Err(Fault::Failed(format!("{doing}: not within {} s", soon().as_secs()))),
    }
}

/// Says something and hears it again.
async fn exchange(channel: Box<dyn Channel>, text: Vec<u8>) -> Verdict {
    let (mut hears, mut says) = tokio::io::split(channel);
    let expected = [text.as_slice(), b"bye"].concat();
    let mut heard = Vec::new();
    within("exchange bytes", async {
        let saying = async {
            says.write_all(&text).await?;
            says.shutdown().await
        };
        let (said, read) = tokio::join!(saying, hears.read_to_end(&mut heard));
        said.and(read)
    })
    .await?;
    ensure(heard == expected, || format!("{} bytes came back of {}", heard.len(), expected.len()))
}

pub async fn connected(bed: &Bed) -> Verdict {
    let (sandbox, port) = listening(bed).await?;
    let mut open = Vec::new();
    for n in 0..MANY {
        let length = if n == 0 { 3_000_000 } else { n * 1000 };
        open.push(exchange(sandbox.guest.connect_port(port).await?, vec![n.to_le_bytes()[0]; length]));
    }
    futures::future::try_join_all(open).await?;
    Ok(())
}

pub async fn refused(bed: &Bed) -> Verdict {
    let sandbox = bed.idle().await?;
    // Nothing binds to the first port there is.
    let answer = sandbox.guest.connect_port(1).await.map(|_| ());
    ensure_kind(answer, ErrorKind::NotFound, "connect to a port nobody listens on")?;
    Ok(())
}

pub async fn unread(bed: &Bed) -> Verdict {
    let (sandbox, port) = listening(bed).await?;
    let mut full = sandbox.guest.connect_port(port).await?;
    let block = vec![0; 1 << 20];
    // Nobody reads what comes back, so at some point nothing more is taken.
    let stuck = async {
        for _ in 0..FLOOD / block.len() {
            full.write_all(&block).await?;
        }
        std::io::Result::Ok(())
    };
    let mut stuck = std::pin::pin!(stuck);
    for n in 0..3 {
        let exchange = exchange(sandbox.guest.connect_port(port).await?, vec![7; 1_000_000 + n]);
        tokio::select! {
            biased;
            done = &mut stuck => {
                return Err(Fault::Failed(format!("{FLOOD} bytes went where nobody reads: {done:?}")));
            }
            exchanged = exchange => exchanged?,
        }
    }
    Ok(())
}
