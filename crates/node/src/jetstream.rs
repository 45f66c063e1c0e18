//! The JetStream streams a node keeps its logs and events in, on servers that do little and on those that do much.
//!
//! A server that does not know a setting accepts it and drops it, so what it echoes is compared with what was asked. What
//! is missing is named once, in the log; nothing fails for it, it only promises less.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, ErrorCode};
use serde::{Deserialize, Serialize};

/// A request to the JetStream API that takes longer has been lost.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Sizes of the histories, and whether there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Keep logs and events in JetStream if the server has it.
    pub enabled: bool,
    /// Bytes of log lines kept; the oldest go first.
    pub logs_bytes_max: u64,
    /// Bytes of events kept; the oldest go first.
    pub events_bytes_max: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { enabled: true, logs_bytes_max: 256 << 20, events_bytes_max: 64 << 20 }
    }
}

/// A stream as we want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: &'static str,
    /// The subject it captures.
    pub subject: String,
    /// Bytes kept.
    pub bytes_max: u64,
    /// How long the server remembers message ids. Costs it some 150 bytes for each message of that time.
    pub duplicate_window: Duration,
}

impl StreamSpec {
    /// The history of log lines. A line is only ever sent again within moments, see `publish`.
    pub fn logs(subject: String, config: &HistoryConfig) -> Self {
        let duplicate_window = Duration::from_secs(2);
        Self { name: "MOAT_LOGS", subject, bytes_max: config.logs_bytes_max, duplicate_window }
    }

    /// The history of events: few, and sent again after however long a server was away.
    pub fn events(subject: String, config: &HistoryConfig) -> Self {
        let duplicate_window = Duration::from_secs(3600);
        Self { name: "MOAT_EVENTS", subject, bytes_max: config.events_bytes_max, duplicate_window }
    }

    fn config(&self) -> Config {
        Config {
            name: self.name.to_owned(),
            subjects: vec![self.subject.clone()],
            max_bytes: i64::try_from(self.bytes_max).unwrap_or(i64::MAX),
            discard: DiscardPolicy::Old,
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            duplicate_window: self.duplicate_window,
            allow_direct: true,
            num_replicas: 1,
            ..Config::default()
        }
    }
}

/// What a stream came to.
#[derive(Debug, Clone)]
pub enum History {
    /// It is kept here.
    Kept(Box<Stream>),
    /// There is none, for this reason.
    None(String),
}

/// Why it is not known whether there is a history.
#[derive(Debug, thiserror::Error)]
#[error("set up the stream {stream}: {reason}")]
pub struct EnsureError {
    stream: &'static str,
    reason: String,
}

/// Finds or makes a stream. An existing one is taken as it is: the operator may have his own bounds.
pub async fn ensure(client: &Client, spec: &StreamSpec, config: &HistoryConfig) -> Result<History, EnsureError> {
    if !config.enabled {
        return Ok(History::None("history.enabled is false".to_owned()));
    }
    let info = client.server_info();
    let mut context = jetstream::new(client.clone());
    context.set_timeout(REQUEST_MAX);
    let failed = |reason: String| EnsureError { stream: spec.name, reason };
    // A server only says so of itself; behind one without JetStream there may be a cluster with it, so it is asked anyway.
    let asked = spec.config();
    match context.create_stream(asked.clone()).await {
        Ok(stream) => {
            report_differences(&asked, &stream.cached_info().config, &info.version);
            Ok(History::Kept(Box::new(stream)))
        }
        Err(error) => match error.kind() {
            jetstream::context::CreateStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                let stream = context.get_stream(spec.name).await.map_err(|error| failed(error.to_string()))?;
                let echoed = &stream.cached_info().config;
                if !echoed.subjects.contains(&spec.subject) {
                    let other = echoed.subjects.join(", ");
                    return Ok(History::None(format!(
                        "{} exists and captures {other}, not {}",
                        spec.name, spec.subject
                    )));
                }
                report_differences(&asked, echoed, &info.version);
                Ok(History::Kept(Box::new(stream)))
            }
            jetstream::context::CreateStreamErrorKind::JetStreamUnavailable => {
                Ok(History::None("the server has no JetStream, or this account may not use it".to_owned()))
            }
            jetstream::context::CreateStreamErrorKind::JetStream(error) => {
                Ok(History::None(format!("the server refuses {}: {error}", spec.name)))
            }
            _ if !info.jetstream => Ok(History::None(format!("the server has no JetStream ({error})"))),
            _ => Err(failed(error.to_string())),
        },
    }
}

fn report_differences(asked: &Config, echoed: &Config, version: &str) {
    let differences = differences(asked, echoed);
    if !differences.is_empty() {
        let stream = asked.name.as_str();
        tracing::warn!(
            stream,
            server = version,
            differences = differences.join("; "),
            "stream is not as this node would make it"
        );
    }
}

fn differences(asked: &Config, echoed: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if echoed.max_bytes != asked.max_bytes {
        found.push(format!("max_bytes is {}, not {}", echoed.max_bytes, asked.max_bytes));
    }
    if echoed.discard != asked.discard {
        found.push("discard is not old: a full stream refuses new messages".to_owned());
    }
    if echoed.duplicate_window != asked.duplicate_window {
        found.push(format!("duplicate_window is {:?}, not {:?}", echoed.duplicate_window, asked.duplicate_window));
    }
    if echoed.allow_direct != asked.allow_direct {
        found.push("allow_direct is off".to_owned());
    }
    if echoed.max_age != asked.max_age {
        found.push(format!("max_age is {:?}", echoed.max_age));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_was_dropped_is_named() {
        let spec = StreamSpec::logs("$NEX.logs.>".to_owned(), &HistoryConfig::default());
        let asked = spec.config();
        assert!(differences(&asked, &asked).is_empty());
        let echoed = Config { allow_direct: false, duplicate_window: Duration::from_secs(120), ..asked.clone() };
        let found = differences(&asked, &echoed);
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
