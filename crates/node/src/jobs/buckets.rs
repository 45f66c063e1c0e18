//! The streams below the buckets, made by hand: the client's own creation of buckets fails on nats-server 2.9.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};

use super::keys::{JOBS, NODES, STATUS};

/// A request to the JetStream API that takes longer has been lost.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Copies where there are enough servers: one may be lost.
const REPLICAS: usize = 3;
/// "replicas > 1 not supported in non-clustered mode"
const NOT_CLUSTERED: u64 = 10074;
/// "insufficient resources", and "no suitable peers for placement": fewer servers than copies.
const TOO_FEW: [u64; 2] = [10023, 10005];

/// Why there are no buckets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Not on this server: nobody needs to try again before it is another.
    #[error("{0}")]
    Never(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
}

/// Finds or makes the streams. One that exists is taken as it is, but for its number of copies, which is raised.
pub async fn ensure(client: &Client, replicas: Option<u8>) -> Result<(), Missing> {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(REQUEST_MAX);
    for bucket in [JOBS, NODES, STATUS] {
        let wanted = replicas.map_or(REPLICAS, usize::from);
        let stream = match make(&context, config(bucket, wanted)).await {
            Err(Refused::Few) if replicas.is_none() => make(&context, config(bucket, 1)).await,
            other => other,
        };
        let stream = stream.map_err(|refused| refused.into_missing(bucket))?;
        raise(&context, &stream, wanted).await;
    }
    Ok(())
}

/// Name of the stream below a bucket.
pub fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

fn config(bucket: &str, replicas: usize) -> Config {
    Config {
        name: stream_of(bucket),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_bytes: -1,
        max_messages: -1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

enum Refused {
    Few,
    Never(String),
    NotNow(String),
}

impl Refused {
    fn into_missing(self, bucket: &str) -> Missing {
        match self {
            Self::Few => Missing::NotNow(format!("bucket {bucket}: too few NATS servers for jobs.replicas copies")),
            Self::Never(why) => Missing::Never(format!("bucket {bucket}: {why}")),
            Self::NotNow(why) => Missing::NotNow(format!("bucket {bucket}: {why}")),
        }
    }
}

async fn make(context: &Context, config: Config) -> Result<Stream, Refused> {
    // Asked for first: creating one that exists with other settings is an error, and needs the cluster's leader.
    if let Ok(stream) = context.get_stream(&config.name).await {
        return Ok(stream);
    }
    context.create_stream(config.clone()).await.map_err(|error| match error.kind() {
        jetstream::context::CreateStreamErrorKind::JetStream(error) => {
            let code = error.error_code().0;
            if config.num_replicas > 1 && (code == NOT_CLUSTERED || TOO_FEW.contains(&code)) {
                Refused::Few
            } else {
                Refused::NotNow(error.to_string())
            }
        }
        jetstream::context::CreateStreamErrorKind::JetStreamUnavailable => {
            Refused::Never("the server has no JetStream, or this account may not use it".to_owned())
        }
        _ => Refused::NotNow(error.to_string()),
    })
}

/// A cluster that had too few servers when its first node came has enough later.
async fn raise(context: &Context, stream: &Stream, wanted: usize) {
    let now = &stream.cached_info().config;
    if now.num_replicas >= wanted || stream.cached_info().cluster.as_ref().is_none_or(|c| c.name.is_none()) {
        return;
    }
    let more = Config { num_replicas: wanted, ..now.clone() };
    if let Err(error) = context.update_stream(more).await {
        tracing::debug!(stream = now.name, %error, "fewer copies than wanted are kept for now");
    }
}
