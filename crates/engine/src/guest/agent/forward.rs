//! A connection a program inside made to a forwarded port: from the agent's stream to the one configured address.

use std::time::Duration;

use moat_agent::protocol::GuestRequest;
use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::FrameReader;
use moat_model::spec::Forward;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The agent sends its header at once, or it is not our agent.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Connecting to the target.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// First byte of the answer.
const CONNECTED: u8 = 1;
/// First byte of the answer, and the last.
const REFUSED: u8 = 0;

/// Carries one connection to its end. Failures concern nobody but the program that connected.
pub async fn carry(stream: Stream, forwards: &[Forward]) {
    let mut reader = FrameReader::<_, AgentFrame>::new(stream);
    let Ok(Ok(GuestRequest::Forward { port })) = timeout(HEADER_DEADLINE, reader.header::<GuestRequest>()).await else {
        tracing::warn!("the agent opened a stream without saying what for");
        return;
    };
    let (mut stream, early) = reader.into_parts();
    let Some(mut target) = connect(port, forwards).await else {
        let _ = stream.write_all(&[REFUSED]).await;
        let _ = stream.shutdown().await;
        return;
    };
    if stream.write_all(&[CONNECTED]).await.is_err() || target.write_all(&early).await.is_err() {
        return;
    }
    if let Err(error) = copy_bidirectional(&mut stream, &mut target).await {
        tracing::debug!(port, %error, "forwarded connection broke");
    }
}

async fn connect(port: u16, forwards: &[Forward]) -> Option<TcpStream> {
    let Some(forward) = forwards.iter().find(|f| f.listen_port == port) else {
        tracing::warn!(port, "the agent asked for a port that is not forwarded");
        return None;
    };
    match timeout(CONNECT_DEADLINE, TcpStream::connect(&forward.target)).await {
        Ok(Ok(target)) => Some(target),
        Ok(Err(error)) => {
            tracing::debug!(port, target = forward.target, %error, "cannot reach the target of a forward");
            None
        }
        Err(_) => {
            tracing::debug!(port, target = forward.target, "the target of a forward does not answer");
            None
        }
    }
}
