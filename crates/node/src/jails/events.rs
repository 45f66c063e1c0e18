//! What is told while something is done.

use std::time::Duration;

use moat_model::jail::JailEvent;

use super::front::Listener;

/// How long a listener may take for one event before nobody waits for it any more: what is done must not hang on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Events(Option<Listener>);

impl Events {
    pub(super) fn to(listener: Listener) -> Self {
        Self(Some(listener))
    }

    /// To nobody.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Whether somebody listens still; always where nobody was meant to.
    pub(super) fn are_heard(&self) -> bool {
        self.0.as_ref().is_none_or(|listener| !listener.is_closed())
    }

    pub(super) async fn tell(&self, event: JailEvent) {
        if let Some(listener) = &self.0 {
            // Whoever left, or does not read, is not waited for.
            let _ = listener.send_timeout(event, PATIENCE).await;
        }
    }

    pub(super) async fn note(&self, text: impl Into<String>) {
        self.tell(JailEvent::Note { text: text.into() }).await;
    }
}
