//! The connection of the feeds: it breaks once and for all.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::{self, stream::Stream};
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lines::TEXT_MAX;
use crate::jetstream::{History, HistoryConfig, StreamSpec, ensure};
use crate::outlet::NodeOutlet;

/// An acknowledgement that takes longer was lost with its connection.
pub(super) const CONFIRM_MAX: Duration = Duration::from_secs(5);
/// How often the state of the connection is looked at: the client tells of a break only whoever made its options.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// First wait before another attempt; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait: how late lines may be after NATS is back.
const RETRY_LONGEST: Duration = Duration::from_secs(2);
/// Where nobody can listen: what the client is told to reconnect to.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// Opens connections for the publisher alone. Implemented where connections are made.
#[async_trait]
pub trait Dial: Send + Sync + std::fmt::Debug {
    /// Connects now or fails. The client must give up after a bounded number of attempts to reconnect.
    async fn dial(&self) -> crate::Result<Client>;
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells one from the next.
    pub number: u64,
    pub client: Client,
    /// The stream that keeps the lines, if there is one.
    pub history: Option<(jetstream::Context, Box<Stream>)>,
    /// Most bytes of text in a message here.
    pub text_max: usize,
    /// Cancelled by whoever finds that it does not work.
    pub broken: CancellationToken,
}

impl Link {
    async fn open(number: u64, dial: &dyn Dial, spec: &StreamSpec, config: &HistoryConfig) -> Result<Self, String> {
        let client = dial.dial().await.map_err(|error| error.chain())?;
        // With nowhere to go, the client gives up at once when this connection breaks, and forgets what it had queued.
        client.set_server_pool(NOWHERE).await.map_err(|error| error.to_string())?;
        let history = match ensure(&client, spec, config).await.map_err(|error| error.to_string())? {
            History::Kept(stream) => {
                let mut context = jetstream::new(client.clone());
                context.set_timeout(CONFIRM_MAX);
                Some((context, stream))
            }
            History::None(why) => {
                tracing::warn!(why, "log lines have no history: a subscriber that is away misses them");
                None
            }
        };
        // Escaped for JSON a byte may become six.
        let text_max = (client.server_info().max_payload.saturating_sub(1024) / 6).clamp(1, TEXT_MAX);
        Ok(Self { number, client, history, text_max, broken: CancellationToken::new() })
    }

    async fn until_broken(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        while self.client.connection_state() == State::Connected {
            tokio::select! {
                () = self.broken.cancelled() => break,
                _ = look.tick() => {}
            }
        }
        self.broken.cancel();
    }
}

/// Opens a link, hands it out, and opens the next when it is broken.
pub(super) async fn keep(
    dial: Arc<dyn Dial>,
    spec: StreamSpec,
    config: HistoryConfig,
    links: watch::Sender<Option<Arc<Link>>>,
    outlet: NodeOutlet,
) {
    let mut retry = RETRY_FIRST;
    let mut number = 0;
    let mut failures = 0_u64;
    loop {
        number += 1;
        match Link::open(number, dial.as_ref(), &spec, &config).await {
            Ok(link) => {
                (retry, failures) = (RETRY_FIRST, 0);
                let link = Arc::new(link);
                links.send_replace(Some(Arc::clone(&link)));
                outlet.set_publishing(true);
                link.until_broken().await;
                outlet.set_publishing(false);
                links.send_replace(None);
                metrics::counter!("moat_publisher_links_broken_total").increment(1);
            }
            Err(reason) => {
                if failures.is_multiple_of(32) {
                    tracing::warn!(reason, "no connection for log lines; they stay in the files");
                }
                failures += 1;
            }
        }
        tokio::time::sleep(retry).await;
        retry = retry.saturating_mul(2).min(RETRY_LONGEST);
    }
}
