//! What nodes tell without being asked: events and log lines.

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::SelectAll;
use moat_model::ErrorKind;

use super::{Client, Error, Result};
use crate::nex::log::CURSOR_HEADER;
use crate::nex::{CloudEvent, LogCursor, LogLine};
use crate::subjects::{LogFilter, LogSource, Subjects};

/// A live log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogMessage {
    /// Where it comes from.
    pub source: LogSource,
    /// What it says.
    pub line: LogLine,
    /// Where the workload's log stands after it; absent from nodes that do not say.
    pub cursor: Option<LogCursor>,
}

/// Log lines as they come.
#[derive(Debug)]
pub struct Logs {
    subscriber: Subscriber,
    subjects: Subjects,
}

impl Logs {
    /// The next line; `None` when the connection is closed for good. What cannot be read is left out.
    pub async fn next(&mut self) -> Option<LogMessage> {
        while let Some(message) = self.subscriber.next().await {
            let Some(source) = self.subjects.parse_log(&message.subject) else { continue };
            let Ok(line) = serde_json::from_slice(&message.payload) else {
                tracing::debug!(subject = %message.subject, "a log line cannot be read");
                continue;
            };
            let cursor = message
                .headers
                .as_ref()
                .and_then(|headers| headers.get(CURSOR_HEADER))
                .and_then(|value| value.as_str().parse().ok());
            return Some(LogMessage { source, line, cursor });
        }
        None
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    subscribers: SelectAll<Subscriber>,
}

impl Events {
    /// The next event; `None` when the connection is closed for good. What cannot be read is left out.
    pub async fn next(&mut self) -> Option<CloudEvent> {
        while let Some(message) = self.subscribers.next().await {
            match serde_json::from_slice(&message.payload) {
                Ok(event) => return Some(event),
                Err(error) => tracing::debug!(subject = %message.subject, %error, "an event cannot be read"),
            }
        }
        None
    }
}

impl Client {
    /// Log lines of the namespace from now on.
    pub async fn logs(&self, filter: &LogFilter) -> Result<Logs> {
        let subject = self.options.subjects.logs_of(&self.options.namespace, filter);
        let subscriber = self.listen("listen to logs", subject).await?;
        Ok(Logs { subscriber, subjects: self.options.subjects.clone() })
    }

    /// Events of the namespace, and of nodes, from now on.
    pub async fn events(&self) -> Result<Events> {
        let subjects = &self.options.subjects;
        let mut subscribers = SelectAll::new();
        for subject in [subjects.events_of(&self.options.namespace), subjects.events_of_nodes()] {
            subscribers.push(self.listen("listen to events", subject).await?);
        }
        Ok(Events { subscribers })
    }

    /// Subscribes; when it returns, the server knows.
    pub(super) async fn listen(&self, doing: &str, subject: String) -> Result<Subscriber> {
        let subscriber =
            self.nats.subscribe(subject).await.map_err(|e| Error::new(ErrorKind::Unavailable, doing, e))?;
        // A flush only empties our own buffer. A message to ourselves comes back after the server has read the rest.
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| Error::new(ErrorKind::Unavailable, doing, e);
        let inbox = self.nats.new_inbox();
        let mut echo = self.nats.subscribe(inbox.clone()).await.map_err(|e| failed(e.into()))?;
        self.nats.publish(inbox, Bytes::new()).await.map_err(|e| failed(e.into()))?;
        match tokio::time::timeout(self.options.timeouts.request, echo.next()).await {
            Ok(Some(_)) => Ok(subscriber),
            Ok(None) => Err(failed("the connection was closed".into())),
            Err(_) => Err(Error::new(ErrorKind::Deadline, doing, "the NATS server does not answer")),
        }
    }
}
