//! One workload's lines, from its files to NATS.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{HeaderMap, HeaderName, Subject};
use metrics::counter;
use moat_agent::protocol::StreamName;
use moat_api::Subjects;
use moat_api::nex::log::CURSOR_HEADER;
use moat_api::subjects::LogSource;
use moat_model::WorkloadId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lines::{BYTES_MAX, Batch, Frame, MESSAGES_MAX, Message};
use super::link::Link;
use crate::events::barrier;
use crate::logfile::{Cursor, Reader, WorkloadLog};
use crate::outlet::blocking;

/// An unfinished line is published when nothing followed it for this long.
const QUIET: Duration = Duration::from_millis(200);
/// Batches of one workload under way: while one is confirmed the next is sent.
const FLIGHT_MAX: usize = 2;
/// How often the cursor file is written at most; it only matters where the history has forgotten the workload.
const KEEP_CURSOR_EVERY: Duration = Duration::from_millis(200);
/// Wait after the server refused a line.
const REFUSED_WAIT: Duration = Duration::from_secs(1);
/// Wait before the history is asked again, so that whatever else is on its way arrives.
const STRAGGLER_WAIT: Duration = Duration::from_millis(10);

const CURSOR: HeaderName = HeaderName::from_static(CURSOR_HEADER);

/// Why publishing over a link stopped.
enum Trouble {
    /// The link does not work any more.
    Link(String),
    /// The server refuses this workload's lines.
    Refused(String),
    /// Something of ours arrived meanwhile: ask again where to go on.
    Straggler,
    /// Some of a batch is missing: send it again, each line is kept once.
    Incomplete(Repeat),
}

/// What is to be sent again.
#[derive(Clone, Copy)]
struct Repeat {
    from: Cursor,
    upto: Cursor,
}

/// A batch that is not confirmed yet.
struct Flight {
    ack: PublishAckFuture,
    count: u64,
    start: Cursor,
    end: Cursor,
    _permit: OwnedSemaphorePermit,
}

/// How one stream of the log looked last time.
struct Edge {
    end: watch::Receiver<u64>,
    changed_at: Instant,
}

/// Publishes one workload's log.
pub(super) struct Feed {
    log: Arc<WorkloadLog>,
    subject: Subject,
    frame: Arc<Frame>,
    links: watch::Receiver<Option<Arc<Link>>>,
    permits: Arc<Semaphore>,
    readers: Option<Readers>,
    stdout: Edge,
    stderr: Edge,
    sealed: watch::Receiver<bool>,
    cursor_kept_at: Instant,
}

type Readers = (Reader, Reader);

impl Feed {
    pub(super) fn new(
        log: Arc<WorkloadLog>,
        subjects: &Subjects,
        links: watch::Receiver<Option<Arc<Link>>>,
        permits: Arc<Semaphore>,
    ) -> Self {
        let workload = log.workload().clone();
        let frame = Arc::new(Frame::new(&workload.id));
        let source =
            LogSource { namespace: workload.namespace, node: workload.node, name: workload.name, id: workload.id };
        let edge = |stream| Edge { end: log.watch_end(stream), changed_at: Instant::now() };
        let reader = |stream| Reader::new(Arc::clone(&log), stream);
        Self {
            subject: subjects.log(&source).into(),
            frame,
            links,
            permits,
            readers: Some((reader(StreamName::Stdout), reader(StreamName::Stderr))),
            stdout: edge(StreamName::Stdout),
            stderr: edge(StreamName::Stderr),
            sealed: log.watch_sealed(),
            cursor_kept_at: Instant::now(),
            log,
        }
    }

    /// Publishes until the workload has ended and everything is confirmed, or until it is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> WorkloadId {
        cancel.run_until_cancelled(self.publish_all()).await;
        self.keep_cursor().await;
        self.log.workload().id.clone()
    }

    async fn publish_all(&mut self) {
        let mut repeat = None;
        loop {
            let Some(link) = self.next_link().await else { return };
            let Err(trouble) = self.publish_over(&link, repeat.take()).await else { return };
            match trouble {
                Trouble::Link(reason) => {
                    tracing::debug!(workload = %self.log.workload().id, reason, "publishing stopped");
                    link.broken.cancel();
                    let number = link.number;
                    let other = |l: &Option<Arc<Link>>| l.as_ref().is_some_and(|l| l.number != number);
                    if self.links.wait_for(other).await.is_err() {
                        return;
                    }
                }
                Trouble::Refused(reason) => {
                    counter!("moat_log_batches_refused_total").increment(1);
                    tracing::warn!(workload = %self.log.workload().id, reason, "the server refuses log lines");
                    tokio::time::sleep(REFUSED_WAIT).await;
                }
                Trouble::Straggler => tokio::time::sleep(STRAGGLER_WAIT).await,
                Trouble::Incomplete(missing) => {
                    counter!("moat_log_batches_repeated_total").increment(1);
                    repeat = Some(missing);
                }
            }
        }
    }

    async fn next_link(&mut self) -> Option<Arc<Link>> {
        self.links.wait_for(Option::is_some).await.ok()?.clone()
    }

    async fn publish_over(&mut self, link: &Link, repeat: Option<Repeat>) -> Result<(), Trouble> {
        let (mut head, mut sequence) = match repeat {
            // Partly there already, so the numbers of its answers tell nothing.
            Some(repeat) => (repeat.from, None),
            None => self.resume(link).await?,
        };
        let mut alone = sequence.is_some();
        let mut flights: VecDeque<Flight> = VecDeque::new();
        loop {
            let max = if alone { 1 } else { MESSAGES_MAX };
            let (messages, cursor, partial) = self.collect(head, link.text_max, max).await?;
            if messages.is_empty() {
                match flights.pop_front() {
                    Some(flight) => self.settle(flight, &mut sequence, head).await?,
                    None if *self.sealed.borrow() && head == self.log.end() => return Ok(()),
                    None => self.wait(partial, link).await?,
                }
                continue;
            }
            let permit = match self.permit(flights.is_empty()).await {
                Some(permit) => permit,
                None => {
                    // Never wait for a turn while holding one.
                    if let Some(flight) = flights.pop_front() {
                        self.settle(flight, &mut sequence, head).await?;
                    }
                    self.permit(true).await.ok_or_else(|| Trouble::Link("the publisher ends".to_owned()))?
                }
            };
            let fence = if alone { sequence } else { None };
            let count = messages.len() as u64;
            let ack = self.send(link, messages, fence).await?;
            let start = std::mem::replace(&mut head, cursor);
            match ack {
                Some(ack) => flights.push_back(Flight { ack, count, start, end: cursor, _permit: permit }),
                None => self.confirmed(cursor, count).await,
            }
            let repeated = repeat.is_some_and(|repeat| head.covers(repeat.upto));
            let keep = if alone || repeated { 0 } else { FLIGHT_MAX - 1 };
            while flights.len() > keep
                && let Some(flight) = flights.pop_front()
            {
                if repeat.is_some() {
                    sequence = None;
                }
                self.settle(flight, &mut sequence, head).await?;
            }
            if repeated {
                // The history knows how to go on.
                return Err(Trouble::Straggler);
            }
            alone = false;
        }
    }

    /// Where to go on, and the sequence of the workload's last line in the history.
    async fn resume(&self, link: &Link) -> Result<(Cursor, Option<u64>), Trouble> {
        let kept = {
            let log = Arc::clone(&self.log);
            blocking("read a cursor", move || log.load_cursor()).await.map_err(|e| Trouble::Refused(e.chain()))?
        };
        let mut cursor = kept;
        let mut sequence = None;
        if let Some((_, stream)) = &link.history {
            sequence = Some(0);
            match stream.get_last_raw_message_by_subject(&self.subject).await {
                Ok(last) => {
                    sequence = Some(last.sequence);
                    let told: Option<Cursor> = last.headers.get(CURSOR).and_then(|c| c.as_str().parse().ok());
                    let told = told.unwrap_or_default();
                    // Either may be behind: the history is bounded, and the file is written now and then.
                    cursor = Cursor { stdout: kept.stdout.max(told.stdout), stderr: kept.stderr.max(told.stderr) };
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(Trouble::Link(error.to_string())),
            }
        }
        // A cursor beyond the end speaks of files that were lost: what is there now is new.
        let (begin, end) = (self.log.begin(), self.log.end());
        let within = |cursor: u64, begin: u64, end: u64| if cursor > end { begin } else { cursor };
        cursor.stdout = within(cursor.stdout, begin.stdout, end.stdout);
        cursor.stderr = within(cursor.stderr, begin.stderr, end.stderr);
        self.log.set_published(cursor);
        Ok((cursor, sequence))
    }

    /// The next lines after `head`, and whether an unfinished one was left.
    async fn collect(
        &mut self,
        head: Cursor,
        text_max: usize,
        max: usize,
    ) -> Result<(Vec<Message>, Cursor, bool), Trouble> {
        let sealed = *self.sealed.borrow_and_update();
        let flush = (self.stdout.look() || sealed, self.stderr.look() || sealed);
        let Some((mut stdout, mut stderr)) = self.readers.take() else {
            return Err(Trouble::Refused("a read was interrupted".to_owned()));
        };
        let frame = Arc::clone(&self.frame);
        let work = move || {
            let mut batch = Batch::new(&frame, head, 0);
            let mut partial = take_lines(&mut batch, &mut stdout, StreamName::Stdout, (flush.0, text_max, max))?;
            let room = if max == 1 { 1 - batch.messages.len().min(1) } else { max };
            partial |= take_lines(&mut batch, &mut stderr, StreamName::Stderr, (flush.1, text_max, room))?;
            Ok(((stdout, stderr), batch.messages, batch.cursor, partial))
        };
        match blocking("read a log", work).await {
            Ok((readers, messages, cursor, partial)) => {
                self.readers = Some(readers);
                Ok((messages, cursor, partial))
            }
            Err(error) => {
                let reader = |stream| Reader::new(Arc::clone(&self.log), stream);
                self.readers = Some((reader(StreamName::Stdout), reader(StreamName::Stderr)));
                Err(Trouble::Refused(error.chain()))
            }
        }
    }

    async fn permit(&self, may_wait: bool) -> Option<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.permits);
        if may_wait { permits.acquire_owned().await.ok() } else { permits.try_acquire_owned().ok() }
    }

    /// Publishes a batch. With a history its last message is to be acknowledged; without, it is processed on return.
    async fn send(
        &self,
        link: &Link,
        messages: Vec<Message>,
        fence: Option<u64>,
    ) -> Result<Option<PublishAckFuture>, Trouble> {
        let lost = |error: &dyn std::fmt::Display| Trouble::Link(error.to_string());
        let last = messages.len().saturating_sub(1);
        for (at, message) in messages.into_iter().enumerate() {
            let mut headers = self.headers(&message);
            match &link.history {
                Some((context, _)) if at == last => {
                    if let Some(fence) = fence {
                        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, fence.to_string());
                    }
                    let ack = context.publish_with_headers(self.subject.clone(), headers, message.payload).await;
                    return ack.map(Some).map_err(|error| lost(&error));
                }
                _ => link
                    .client
                    .publish_with_headers(self.subject.clone(), headers, message.payload)
                    .await
                    .map_err(|error| lost(&error))?,
            }
        }
        barrier(&link.client).await.map_err(Trouble::Link)?;
        Ok(None)
    }

    fn headers(&self, message: &Message) -> HeaderMap {
        use std::fmt::Write as _;
        let mut id = String::with_capacity(48);
        let letter = match message.stream {
            StreamName::Stdout => 'o',
            StreamName::Stderr => 'e',
        };
        let _ = write!(id, "{}.{letter}{}", self.log.workload().id, message.start);
        if let Some(gap) = message.gap {
            let _ = write!(id, ".{gap}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, id);
        headers.insert(CURSOR, message.cursor.to_string());
        headers
    }

    /// Waits for a batch's confirmation.
    async fn settle(&mut self, flight: Flight, sequence: &mut Option<u64>, head: Cursor) -> Result<(), Trouble> {
        let ack = flight.ack.await.map_err(|error| match error.kind() {
            PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => Trouble::Straggler,
            PublishErrorKind::Other => Trouble::Refused(error.to_string()),
            _ => Trouble::Link(error.to_string()),
        })?;
        // A server that is overrun drops messages nobody waits for; the numbers of those it kept tell.
        if let Some(before) = sequence.replace(ack.sequence)
            && ack.sequence.saturating_sub(before) < flight.count
        {
            return Err(Trouble::Incomplete(Repeat { from: flight.start, upto: head }));
        }
        self.confirmed(flight.end, flight.count).await;
        Ok(())
    }

    async fn confirmed(&mut self, cursor: Cursor, count: u64) {
        let before = self.log.published();
        let bytes = (cursor.stdout + cursor.stderr).saturating_sub(before.stdout + before.stderr);
        counter!("moat_log_published_lines_total").increment(count);
        counter!("moat_log_published_bytes_total").increment(bytes);
        self.log.set_published(cursor);
        if self.cursor_kept_at.elapsed() >= KEEP_CURSOR_EVERY {
            self.keep_cursor().await;
        }
    }

    async fn keep_cursor(&mut self) {
        self.cursor_kept_at = Instant::now();
        let (log, cursor) = (Arc::clone(&self.log), self.log.published());
        if let Err(error) = blocking("keep a cursor", move || log.store_cursor(cursor)).await {
            tracing::debug!(error = error.chain(), "the cursor file is behind");
        }
    }

    /// Waits until there may be something to do.
    async fn wait(&mut self, partial: bool, link: &Link) -> Result<(), Trouble> {
        let quiet_at = [&self.stdout, &self.stderr]
            .into_iter()
            .map(|edge| edge.changed_at + QUIET)
            .filter(|at| *at > Instant::now())
            .min();
        let quiet = async {
            match quiet_at {
                Some(at) if partial => tokio::time::sleep_until(at).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stdout.grown() => {}
            () = self.stderr.grown() => {}
            _ = self.sealed.changed() => {}
            () = quiet => {}
            () = link.broken.cancelled() => return Err(Trouble::Link("the connection broke".to_owned())),
        }
        Ok(())
    }
}

impl Edge {
    /// Looks whether the stream has grown, and says whether it has not for a while.
    fn look(&mut self) -> bool {
        if self.end.has_changed().unwrap_or(false) {
            self.end.mark_unchanged();
            self.changed_at = Instant::now();
        }
        self.changed_at.elapsed() >= QUIET
    }

    /// Resolves when the stream has grown since it was last looked at.
    async fn grown(&mut self) {
        if self.end.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.changed_at = Instant::now();
    }
}

/// Adds what `reader` has after the batch's cursor. Says whether an unfinished line was left.
fn take_lines(
    batch: &mut Batch<'_>,
    reader: &mut Reader,
    stream: StreamName,
    (flush, text_max, max): (bool, usize, usize),
) -> std::io::Result<bool> {
    if max == 0 {
        return Ok(false);
    }
    let at = match stream {
        StreamName::Stdout => batch.cursor.stdout,
        StreamName::Stderr => batch.cursor.stderr,
    };
    let piece = reader.read_through(at, BYTES_MAX)?;
    let mut room = max;
    if piece.at > at {
        counter!("moat_log_lost_bytes_total").increment(piece.at - at);
        batch.add_gap(stream, piece.at - at);
        room -= 1;
    }
    // What was cut off by the bound, and not by the end, is not unfinished: there is more.
    let flush = flush && piece.bytes.len() < BYTES_MAX;
    Ok(batch.add(stream, &piece.bytes, flush, text_max, room))
}
