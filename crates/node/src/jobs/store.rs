//! The buckets as they are used: compare-and-set, read, remove, watch. Everything has a deadline of its own, and a write
//! whose answer was not heard says so: it may have been done.

use std::time::Duration;

use async_nats::client::Request;
use async_nats::header::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::object_store::Object;
use async_nats::{Client, jetstream};
use futures::StreamExt as _;
use moat_model::{ErrorKind, Namespace};
use serde::Deserialize;

use super::buckets::{self, Missing, stream_of};
use super::keys::Key;
use crate::artifact;
use crate::error::Error;

/// A write is heard of within this, or not at all: the fence counts on two tries.
pub const WRITE_MAX: Duration = Duration::from_millis(1500);
/// A read is tried anew by whoever needs it: after an election it must not wait for an answer that never comes.
const READ_MAX: Duration = Duration::from_secs(2);
/// A server that lives sends a message back to where it came from within this.
const ECHO_MAX: Duration = Duration::from_millis(1500);
/// A watcher that hears nothing for twice this is cut off.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// "wrong last sequence"
const WRONG_LAST: u64 = 10071;
/// What headers and subject take of a message.
const OVERHEAD: usize = 1024;

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody was faster.
    #[error("it was changed by somebody else meanwhile")]
    Conflict,
    /// It does not fit a message.
    #[error("it has {size} bytes, and the NATS server takes {max}; raise its max_payload")]
    TooLarge {
        /// Bytes of it.
        size: usize,
        /// Bytes there may be.
        max: usize,
    },
    /// Nothing was heard: it may have been written.
    #[error("the NATS server does not answer: {0}")]
    Unheard(String),
    /// The server does not want it.
    #[error("the NATS server refuses: {0}")]
    Refused(String),
}

impl WriteError {
    /// As a failure of what was asked.
    pub fn into_error(self, doing: impl Into<String>) -> Error {
        let kind = match &self {
            Self::Conflict => ErrorKind::Conflict,
            Self::TooLarge { .. } => ErrorKind::InvalidSpec,
            Self::Unheard(_) | Self::Refused(_) => ErrorKind::Unavailable,
        };
        Error::caused_by(kind, doing, self)
    }
}

/// A message of a bucket.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its place in the bucket.
    pub revision: u64,
    /// Its value; none if it was removed.
    pub value: Option<bytes::Bytes>,
    /// Nothing that was there when the watch began is still to come.
    pub current: bool,
}

/// The buckets.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    context: jetstream::Context,
    replicas: Option<u8>,
}

#[derive(Deserialize)]
struct Answer {
    seq: Option<u64>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Store {
    /// Over this connection. Nothing is asked of it yet.
    pub fn new(client: &Client, replicas: Option<u8>) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(READ_MAX);
        Self { client: client.clone(), context, replicas }
    }

    /// Finds or makes the buckets.
    pub async fn ensure(&self) -> Result<(), Missing> {
        buckets::ensure(&self.client, self.replicas).await
    }

    /// Connects anew if the connection leads nowhere: a machine that vanished closes none, and the client's own pings take
    /// three times as long as a node may be silent.
    pub async fn reconnect_if_dead(&self) {
        let echo = async {
            let inbox = self.client.new_inbox();
            let mut own = self.client.subscribe(inbox.clone()).await.ok()?;
            self.client.publish(inbox, bytes::Bytes::new()).await.ok()?;
            own.next().await
        };
        if matches!(tokio::time::timeout(ECHO_MAX, echo).await, Ok(Some(_))) {
            return;
        }
        tracing::warn!("the NATS server does not answer: connecting anew");
        if let Err(error) = self.client.force_reconnect().await {
            tracing::debug!(%error, "connecting anew");
        }
    }

    /// A value of a namespace's own bucket, `moat_kv_<namespace>`, which its users make and fill.
    pub async fn value_of(&self, namespace: &Namespace, key: &str) -> Result<Option<String>, Error> {
        let bucket = format!("moat_kv_{namespace}");
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unavailable, format!("read {key:?} of bucket {bucket}: {error}"))
        };
        let store = self.context.get_key_value(&bucket).await.map_err(|e| failed(&e))?;
        let value = store.get(key).await.map_err(|e| failed(&e))?;
        Ok(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Begins to read an object of a bucket its users made.
    pub async fn object(&self, bucket: &str, key: &str) -> Result<Object, Error> {
        let opened = artifact::open(&self.client, None, bucket, key).await;
        opened.map_err(|e| Error::caused_by(e.kind(), format!("read nats://{bucket}/{key}"), e))
    }

    /// Bytes a document may have.
    pub fn value_max(&self) -> usize {
        self.client.server_info().max_payload.saturating_sub(OVERHEAD)
    }

    /// Writes, if the key is still at this revision (0: it was never there); whatever it is at, if none is named.
    pub async fn put(&self, key: &Key, value: Vec<u8>, over: Option<u64>) -> Result<u64, WriteError> {
        let max = self.value_max();
        if value.len() > max {
            return Err(WriteError::TooLarge { size: value.len(), max });
        }
        self.publish(key, value, over, HeaderMap::new()).await
    }

    /// Removes, if the key is still at this revision. Watchers see it.
    pub async fn remove(&self, key: &Key, over: Option<u64>) -> Result<u64, WriteError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "PURGE");
        headers.insert("Nats-Rollup", "sub");
        self.publish(key, Vec::new(), over, headers).await
    }

    /// Forgets that a key was removed by this revision, and nothing that was written after it. Nobody sees it.
    pub async fn forget(&self, key: &Key, removed: u64) -> Result<(), WriteError> {
        let unheard = |error: &dyn std::fmt::Display| WriteError::Unheard(error.to_string());
        let stream = self.context.get_stream(stream_of(key.bucket())).await.map_err(|e| unheard(&e))?;
        stream
            .purge()
            .filter(key.subject())
            .sequence(removed.saturating_add(1))
            .await
            .map(drop)
            .map_err(|e| unheard(&e))
    }

    async fn publish(
        &self,
        key: &Key,
        value: Vec<u8>,
        over: Option<u64>,
        mut headers: HeaderMap,
    ) -> Result<u64, WriteError> {
        if let Some(over) = over {
            headers.insert("Nats-Expected-Last-Subject-Sequence", over.to_string().as_str());
        }
        let request = Request::new().payload(value.into()).headers(headers).timeout(Some(WRITE_MAX));
        let sent = tokio::time::timeout(WRITE_MAX * 2, self.client.send_request(key.subject(), request)).await;
        let reply = match sent {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(WriteError::Unheard(error.to_string())),
            Err(_) => return Err(WriteError::Unheard("it is not connected".to_owned())),
        };
        match serde_json::from_slice(&reply.payload) {
            Ok(Answer { error: Some(refusal), .. }) if refusal.err_code == WRONG_LAST => Err(WriteError::Conflict),
            Ok(Answer { error: Some(refusal), .. }) => Err(WriteError::Refused(refusal.description)),
            Ok(Answer { seq: Some(revision), .. }) => Ok(revision),
            Ok(Answer { .. }) => Err(WriteError::Unheard("an answer without a sequence".to_owned())),
            Err(error) => Err(WriteError::Unheard(error.to_string())),
        }
    }

    /// What the leader of the bucket has: the value, and the revision also of one that was removed.
    pub async fn read(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unavailable, format!("read {key} of the cluster's state: {error}"))
        };
        let stream = self.context.get_stream(stream_of(key.bucket())).await.map_err(|e| failed(&e))?;
        match stream.get_last_raw_message_by_subject(&key.subject()).await {
            Ok(message) => {
                let removed = message.headers.get("KV-Operation").is_some();
                let value = (!removed).then_some(message.payload);
                Ok(Some(Entry { key: key.to_string(), revision: message.sequence, value, current: true }))
            }
            Err(error) if error.kind() == async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound => {
                Ok(None)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Everything in a bucket and then what changes. It ends when anything of it may have been missed: whoever watches begins
    /// anew, and takes what the new watch begins with for all there is.
    pub async fn watch(&self, bucket: &'static str) -> Result<Watch, Error> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unavailable, format!("watch bucket {bucket}: {error}"))
        };
        let stream = self.context.get_stream(stream_of(bucket)).await.map_err(|e| failed(&e))?;
        let config = push::Config {
            deliver_subject: self.client.new_inbox(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(30),
            filter_subject: format!("$KV.{bucket}.>"),
            ..push::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
        let empty = consumer.cached_info().num_pending == 0;
        let created = stream.cached_info().created.unix_timestamp_nanos();
        let messages = consumer.messages().await.map_err(|e| failed(&e))?;
        Ok(Watch { bucket, messages, delivered: 0, empty, created })
    }
}

/// See [`Store::watch`].
pub struct Watch {
    bucket: &'static str,
    messages: push::Messages,
    delivered: u64,
    /// There was nothing when it began.
    pub empty: bool,
    /// When the stream was made: another one has revisions of its own.
    pub created: i128,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.bucket)
    }
}

impl Watch {
    /// The next one; an error is the last.
    pub async fn next(&mut self) -> Result<Entry, Error> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unavailable, format!("watch bucket {}: {why}", self.bucket))
        };
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(failed(&error)),
            None => return Err(failed(&"the connection was closed")),
        };
        let info = message.info().map_err(|error| failed(&error))?;
        self.delivered += 1;
        if info.consumer_sequence != self.delivered {
            return Err(failed(&"a message was missed"));
        }
        let key = message.subject.as_str().splitn(3, '.').nth(2).unwrap_or_default().to_owned();
        let removed = message.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
        Ok(Entry {
            key,
            revision: info.stream_sequence,
            value: (!removed).then(|| message.payload.clone()),
            current: info.pending == 0,
        })
    }
}
