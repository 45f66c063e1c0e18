//! The files of the outbox. Blocking.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use metrics::counter;
use serde::{Deserialize, Serialize};

use crate::logfile::replace_file;

/// A fact as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spooled {
    pub subject: String,
    /// Id of the event.
    pub id: String,
    /// The event, as it is published.
    #[serde(with = "text")]
    pub body: Vec<u8>,
}

/// Bodies are JSON already; in the file they are a string, so that a file can be read by people.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(body: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(std::str::from_utf8(body).map_err(serde::ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(d).map(String::into_bytes)
    }
}

/// Facts in the order in which they came: one file each, `<number>.json`.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    waiting: VecDeque<Waiting>,
    next: u64,
    max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    number: u64,
    id: String,
}

impl Spool {
    pub(super) fn open(dir: &Path, max: usize) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        let mut spool = Self { dir: dir.to_owned(), waiting: VecDeque::new(), next: 0, max };
        for number in numbers {
            spool.next = number + 1;
            match spool.read(number) {
                Ok(fact) => spool.waiting.push_back(Waiting { number, id: fact.id }),
                Err(error) => tracing::warn!(number, %error, "not an event, left alone"),
            }
        }
        Ok(spool)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, fact: Spooled) -> io::Result<()> {
        if self.waiting.iter().any(|waiting| waiting.id == fact.id) {
            return Ok(());
        }
        let number = self.next;
        replace_file(&self.path(number), &serde_json::to_vec(&fact)?, 0o600)?;
        self.next += 1;
        self.waiting.push_back(Waiting { number, id: fact.id });
        while self.waiting.len() > self.max {
            let Some(oldest) = self.waiting.front().map(|waiting| waiting.number) else { break };
            self.remove(oldest)?;
            counter!("moat_events_dropped_total").increment(1);
            tracing::warn!(max = self.max, "the outbox is full: the oldest event is dropped");
        }
        Ok(())
    }

    /// The oldest fact and its number.
    pub(super) fn oldest(&mut self) -> Option<(u64, Spooled)> {
        while let Some(number) = self.waiting.front().map(|waiting| waiting.number) {
            match self.read(number) {
                Ok(fact) => return Some((number, fact)),
                Err(error) => {
                    tracing::warn!(number, %error, "an event was lost from the outbox");
                    counter!("moat_events_dropped_total").increment(1);
                    self.waiting.pop_front();
                }
            }
        }
        None
    }

    /// Forgets a fact: it was confirmed.
    pub(super) fn remove(&mut self, number: u64) -> io::Result<()> {
        self.waiting.retain(|waiting| waiting.number != number);
        match std::fs::remove_file(self.path(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.json"))
    }

    fn read(&self, number: u64) -> io::Result<Spooled> {
        Ok(serde_json::from_slice(&std::fs::read(self.path(number))?)?)
    }
}
