//! Spawned processes of a fake sandbox: fake execs whose output is kept for whoever follows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use moat_agent::protocol::{Offsets, Spawned, StreamName};
use moat_model::Exit;
use moat_model::spec::ExecSpec;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::guest::{AttachOutput, Attachment, Chunk, ExecInput, ExecOutput, ExecSession};

/// Pieces on their way to one follower.
const PIECES_MAX: usize = 16;

/// One of them. Its clones are the same.
#[derive(Debug, Clone)]
pub(super) struct FakeSpawned {
    input: mpsc::Sender<ExecInput>,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    told: Spawned,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl FakeSpawned {
    /// Keeps what a fake exec says.
    pub fn start(pid: u32, spec: &ExecSpec, session: ExecSession) -> Self {
        let ExecSession { input, mut output, .. } = session;
        let command = std::iter::once(&spec.process.command).chain(&spec.process.args).cloned().collect();
        let told = Spawned {
            pid,
            command,
            started_ms: Clock::start().now().as_millis(),
            written: Offsets::default(),
            pty: spec.pty.is_some(),
            exit: None,
            timed_out: false,
        };
        let state = Arc::new(Mutex::new(State { told, stdout: Vec::new(), stderr: Vec::new() }));
        let one = Self { input, state, changed: watch::Sender::new(()) };
        let keeper = one.clone();
        tokio::spawn(async move {
            while let Some(said) = output.recv().await {
                keeper.hear(said);
            }
        });
        one
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, said: ExecOutput) {
        match said {
            ExecOutput::Data(stream, bytes) => {
                let mut state = self.lock();
                let State { told, stdout, stderr } = &mut *state;
                match stream {
                    StreamName::Stdout => {
                        stdout.extend_from_slice(&bytes);
                        told.written.stdout += bytes.len() as u64;
                    }
                    StreamName::Stderr => {
                        stderr.extend_from_slice(&bytes);
                        told.written.stderr += bytes.len() as u64;
                    }
                }
            }
            ExecOutput::Exited { exit, timed_out } => return self.end(exit, timed_out),
        }
        self.changed.send_replace(());
    }

    /// It has ended, if it had not yet.
    pub fn end(&self, exit: Exit, timed_out: bool) {
        let mut state = self.lock();
        if state.told.exit.is_none() {
            state.told.exit = Some(exit);
            state.told.timed_out = timed_out;
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// As it is listed.
    pub fn told(&self) -> Spawned {
        self.lock().told.clone()
    }

    /// A follower.
    pub fn attach(&self, from: Offsets) -> Attachment {
        let (output_tx, output) = mpsc::channel(PIECES_MAX);
        let one = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = one.follow(from, &output_tx) => {}
                () = output_tx.closed() => {}
            }
        });
        Attachment { input: self.input.clone(), output }
    }

    async fn follow(&self, mut at: Offsets, output: &mpsc::Sender<AttachOutput>) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (said, exit) = self.next(&mut at);
            let ended = said.is_empty() && exit.is_some();
            let waits = said.is_empty();
            for chunk in said {
                if output.send(AttachOutput::Data(chunk)).await.is_err() {
                    return;
                }
            }
            if let Some((exit, timed_out)) = exit.filter(|_| ended) {
                // Nobody may listen any more.
                let _ = output.send(AttachOutput::Exited { exit, timed_out }).await;
                return;
            }
            if waits && changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn next(&self, at: &mut Offsets) -> (Vec<Chunk>, Option<(Exit, bool)>) {
        let state = self.lock();
        let mut said = Vec::new();
        for (stream, kept, at) in
            [(StreamName::Stdout, &state.stdout, &mut at.stdout), (StreamName::Stderr, &state.stderr, &mut at.stderr)]
        {
            let from = usize::try_from(*at).unwrap_or(usize::MAX);
            if let Some(bytes) = kept.get(from..).filter(|bytes| !bytes.is_empty()) {
                said.push(Chunk { stream, offset: *at, bytes: Bytes::copy_from_slice(bytes) });
                *at += bytes.len() as u64;
            }
        }
        (said, state.told.exit.map(|exit| (exit, state.told.timed_out)))
    }
}
