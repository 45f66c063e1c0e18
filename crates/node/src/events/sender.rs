//! The one task that tells facts to NATS.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::spool::Spooled;
use super::{Inner, Outbox, Passing};
use crate::jetstream::{History, HistoryConfig, StreamSpec, ensure};
use crate::outlet::blocking;

/// A confirmation that takes longer was lost with its connection.
const CONFIRM_MAX: Duration = Duration::from_secs(5);
/// First wait after a failure; doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait: how late a fact may be after NATS is back.
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Tells facts until it is cancelled. Started once for an outbox; a second call returns at once.
pub(crate) async fn run(outbox: Outbox, client: Client, history: HistoryConfig, cancel: CancellationToken) {
    let inner = outbox.inner;
    let taken = inner.passing_out.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(passing) = taken else { return };
    let sender = Sender { inner, client, history, mode: None };
    cancel.run_until_cancelled(sender.run(passing)).await;
}

struct Sender {
    inner: Arc<Inner>,
    client: Client,
    history: HistoryConfig,
    /// `None`: not known since the last failure.
    mode: Option<Mode>,
}

enum Mode {
    Stream(Box<jetstream::Context>),
    Plain,
}

impl Sender {
    async fn run(mut self, mut passing: mpsc::Receiver<Passing>) {
        let mut depth = self.inner.depth.subscribe();
        let mut retry = RETRY_FIRST;
        loop {
            if *depth.borrow_and_update() == 0 {
                tokio::select! {
                    _ = depth.changed() => {}
                    Some(fact) = passing.recv() => self.pass(fact).await,
                }
                continue;
            }
            while let Ok(fact) = passing.try_recv() {
                self.pass(fact).await;
            }
            match self.tell_oldest().await {
                Ok(()) => retry = RETRY_FIRST,
                Err(reason) => {
                    tracing::debug!(reason, "an event is not confirmed yet");
                    self.mode = None;
                    tokio::time::sleep(retry).await;
                    retry = retry.saturating_mul(2).min(RETRY_LONGEST);
                }
            }
        }
    }

    async fn pass(&self, fact: Passing) {
        if self.client.connection_state() == State::Connected {
            let _ = self.client.publish(fact.subject, fact.body).await;
        }
    }

    async fn tell_oldest(&mut self) -> Result<(), String> {
        let inner = Arc::clone(&self.inner);
        let oldest = blocking("read the outbox", move || {
            let mut spool = inner.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = spool.oldest();
            inner.depth.send_if_modified(|depth| std::mem::replace(depth, spool.len()) != spool.len());
            Ok(oldest)
        })
        .await
        .map_err(|error| error.chain())?;
        let Some((number, fact)) = oldest else { return Ok(()) };
        self.tell(fact).await?;
        counter!("moat_events_published_total").increment(1);
        let inner = Arc::clone(&self.inner);
        blocking("remove a told event", move || {
            let mut spool = inner.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = spool.remove(number);
            inner.depth.send_replace(spool.len());
            outcome
        })
        .await
        .map_err(|error| error.chain())
    }

    async fn tell(&mut self, fact: Spooled) -> Result<(), String> {
        if self.client.connection_state() != State::Connected {
            return Err("NATS is not connected".to_owned());
        }
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, fact.id.as_str());
        let body = Bytes::from(fact.body);
        match self.mode().await? {
            Mode::Stream(context) => {
                let ack = context.publish_with_headers(fact.subject, headers, body).await.map_err(|e| e.to_string())?;
                ack.await.map_err(|e| e.to_string())?;
            }
            Mode::Plain => {
                self.client.publish_with_headers(fact.subject, headers, body).await.map_err(|e| e.to_string())?;
                barrier(&self.client).await?;
            }
        }
        Ok(())
    }

    async fn mode(&mut self) -> Result<&Mode, String> {
        if self.mode.is_none() {
            let spec = StreamSpec::events(self.inner.subjects.events_all(), &self.history);
            let found = ensure(&self.client, &spec, &self.history).await.map_err(|e| e.to_string())?;
            self.mode = Some(match found {
                History::Kept(_) => {
                    let mut context = jetstream::new(self.client.clone());
                    context.set_timeout(CONFIRM_MAX);
                    Mode::Stream(Box::new(context))
                }
                History::None(why) => {
                    tracing::warn!(why, "events have no history: a subscriber that is away misses them");
                    Mode::Plain
                }
            });
        }
        self.mode.as_ref().ok_or_else(|| "the stream is not set up".to_owned())
    }
}

/// Returns when the server has processed everything published on this connection before: it then has processed this
/// request too, which nobody answers.
pub(crate) async fn barrier(client: &Client) -> Result<(), String> {
    use async_nats::client::RequestErrorKind;
    let request = client.request(client.new_inbox(), Bytes::new());
    match tokio::time::timeout(CONFIRM_MAX, request).await {
        Ok(Err(error)) if error.kind() != RequestErrorKind::NoResponders => Err(error.to_string()),
        Ok(_) => Ok(()),
        Err(_) => Err("NATS did not answer in time".to_owned()),
    }
}
