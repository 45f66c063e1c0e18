//! Jails of this node: declared once and kept, with files that last; while one is up it is a sandbox, a new one for each start.
//!
//! A jail is a record ([`record`]) and a directory ([`place`]). Which of the files in it hold, and whether it is whole, the record
//! says, and that is replaced as one: whatever line the daemon dies at, a jail is as it was or as it was to be, and what was half
//! made goes at the next start ([`recovery`]). At most one thing is done to a jail at a time ([`table`]).
//!
//! What is done: [`make`] and [`life`], up and down; [`branch`], clones, snapshots and other names; [`archive`]; [`settings`];
//! [`apply`], templates, whose steps are done [`inside`]. [`plan`] says what sandbox a jail is. [`Jails`] is the cheap handle
//! everybody else has; what goes in and out of it is in [`front`].

mod address;
mod apply;
mod archive;
mod branch;
mod console;
mod copy;
mod events;
mod front;
mod inside;
mod life;
mod make;
mod network;
mod order;
mod place;
mod plan;
mod record;
mod recovery;
mod releases;
mod settings;
mod table;
mod templates;
#[cfg(test)]
mod tests;
mod tree;
mod users;

use std::future::Future;
use std::sync::Arc;

use moat_model::jail::JailName;
use moat_model::{ErrorKind, SandboxId, Timestamp};

use crate::error::{Error, Result};

pub use front::{ConsolePieces, ConsoleWanted, EVENTS_WAITING, Exported, Listener};
pub use table::{Foundation, Inside};

use place::Place;
use releases::Releases;
use table::Shared;

/// All jails of this node. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Jails {
    shared: Arc<Shared>,
}

impl Jails {
    /// Takes up what an earlier daemon left, and starts in the background what should be up.
    pub async fn open(base: Foundation) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || {
            let place = Place::new(base.dir.clone());
            crate::guard::make_private(place.root())?;
            let releases = Releases::open(place.releases(), base.templates.store())?;
            let shared = Arc::new(Shared::new(base, releases));
            let found = recovery::read(&shared)?;
            Ok::<_, Error>((shared, found))
        });
        let (shared, found) =
            opened.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "read the jails", e))??;
        shared.base.templates.add_users(Arc::new(users::Users::of(&shared)));
        let to_start = recovery::take_up(&shared, found).await?;
        let (starting, closed) = (recovery::start_all(Arc::clone(&shared), to_start), shared.closed.clone());
        shared.tasks.spawn(async move {
            closed.run_until_cancelled(starting).await;
        });
        Ok(Self { shared })
    }

    /// Ends what is under way; jails that are up live on. What was half made goes when the next daemon starts.
    pub async fn close(&self) {
        self.shared.closed.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Ends all that are up, each before what it depends on: for a node that leaves nothing running. They are up again with the
    /// next daemon as after its death.
    pub async fn stop_all(&self) {
        // Those that are just being started with the node are not, and nobody takes an end that was asked for for a fault.
        self.shared.closed.cancel();
        life::end_all(&self.shared).await;
    }

    /// The jail that is this sandbox.
    pub fn of_sandbox(&self, id: &SandboxId) -> Option<JailName> {
        self.shared.of_sandbox(id).map(|(_, name)| name)
    }

    /// Has something done by a task of the node's own: it is done whether or not whoever asked waits for it.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if self.shared.closed.is_cancelled() {
            return Err(Error::new(ErrorKind::Unavailable, "the node is shutting down"));
        }
        let done = self.shared.tasks.spawn(work(Arc::clone(&self.shared))).await;
        done.map_err(|e| Error::caused_by(ErrorKind::Internal, "do something to a jail", e))?
    }
}

/// A moment, as names of files have it.
fn stamp(at: Timestamp) -> String {
    let text = moat_api::nex::event::rfc3339(at);
    let (date, time) = text.split_once('T').unwrap_or((&text, ""));
    let digits: String = time.chars().take_while(|c| *c != '.' && *c != 'Z').filter(char::is_ascii_digit).collect();
    format!("{date}-{digits}")
}
