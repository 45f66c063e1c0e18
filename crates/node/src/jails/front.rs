//! What others ask of jails. Everything that takes a while is done by a task of the node's own: whoever asked may go away,
//! and then it is done all the same, or undone; never half.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use moat_model::Namespace;
use moat_model::jail::{
    Applied, ApplyTemplate, Bootstrap, ChangeJail, CloneJail, DestroyJail, FetchTemplate, ImportJail, JailEvent,
    JailName, JailView, NewJail, ReleaseArchive, ReleaseName, ReleaseView, Setting, SnapshotTag, SnapshotView,
    StopJail, TemplateCheck, TemplateName, TemplateView,
};
use tokio::sync::mpsc;

use crate::error::Result;

use super::events::Events;
use super::table::Key;
use super::{Jails, apply, archive, branch, console, life, make, settings, templates};

/// Events that wait for whoever listens: what is done waits for its listener beyond that, and goes on without one that left.
pub const EVENTS_WAITING: usize = 64;

/// Where what is told of an operation goes: never `Done` or `Failed`, which are the result.
pub type Listener = mpsc::Sender<JailEvent>;

/// An archive of a jail, whole, in a file that has no name any more.
#[derive(Debug)]
pub struct Exported {
    /// What the file should be called: `<jail>_<YYYY-MM-DD-HHMMSS>.tar`.
    pub name: String,
    /// At its beginning.
    pub file: File,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of it, 64 hex digits.
    pub sha256: String,
}

/// Which part of a console log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleWanted {
    /// All that is kept.
    All,
    /// The last lines.
    Lines(usize),
}

/// Pieces of a console log; ends when everything was sent, or, if it is followed, when the jail is destroyed.
pub type ConsolePieces = mpsc::Receiver<Result<Bytes>>;

fn key(namespace: &Namespace, name: &JailName) -> Key {
    (namespace.clone(), name.clone())
}

impl Jails {
    /// Makes one, and starts it unless that was not wanted. After an error nothing of it is left.
    pub async fn create(&self, namespace: &Namespace, asked: NewJail, events: Listener) -> Result<JailView> {
        let (namespace, events) = (namespace.clone(), Events::to(events));
        self.run(move |shared| async move { make::create(&shared, &namespace, asked, &events).await }).await
    }

    /// One.
    pub fn get(&self, namespace: &Namespace, name: &JailName) -> Result<JailView> {
        self.shared.view(&key(namespace, name))
    }

    /// All of a namespace, in the order they are started in.
    pub fn list(&self, namespace: &Namespace) -> Vec<JailView> {
        self.shared.views(namespace)
    }

    /// Starts one, those it depends on first. One that is up is a conflict.
    pub async fn start(&self, namespace: &Namespace, name: &JailName, events: Listener) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            life::up(&shared, &key, &events).await?;
            shared.view(&key)
        })
        .await
    }

    /// Stops one, those that depend on it first. One that is down is a conflict.
    pub async fn stop(
        &self,
        namespace: &Namespace,
        name: &JailName,
        how: StopJail,
        events: Listener,
    ) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            life::down(&shared, &key, how.force, &events).await?;
            shared.view(&key)
        })
        .await
    }

    /// Stops and starts one; those that depend on it too. One that is down is started.
    pub async fn restart(&self, namespace: &Namespace, name: &JailName, events: Listener) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            life::again(&shared, &key, &events).await?;
            shared.view(&key)
        })
        .await
    }

    /// Removes one and all its files; its console log stays, with the date in its name.
    pub async fn destroy(
        &self,
        namespace: &Namespace,
        name: &JailName,
        how: DestroyJail,
        events: Listener,
    ) -> Result<()> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move { make::destroy(&shared, &key, &how, &events).await }).await
    }

    /// Changes what is declared of one.
    pub async fn change(&self, namespace: &Namespace, name: &JailName, change: ChangeJail) -> Result<JailView> {
        let key = key(namespace, name);
        self.run(move |shared| async move {
            settings::change(&shared, &key, change).await?;
            shared.view(&key)
        })
        .await
    }

    /// Sets or takes away a limit, a mount or a redirect; one that is up gets it at once where that can be.
    pub async fn set(&self, namespace: &Namespace, name: &JailName, setting: Setting) -> Result<JailView> {
        let key = key(namespace, name);
        self.run(move |shared| async move {
            settings::set(&shared, &key, setting).await?;
            shared.view(&key)
        })
        .await
    }

    /// Makes a copy of one, up or down, which is down.
    pub async fn clone_jail(
        &self,
        namespace: &Namespace,
        name: &JailName,
        asked: CloneJail,
        events: Listener,
    ) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move { branch::clone(&shared, &key, asked, &events).await }).await
    }

    /// Gives one that is down another name.
    pub async fn rename(&self, namespace: &Namespace, name: &JailName, new: JailName) -> Result<JailView> {
        let key = key(namespace, name);
        self.run(move |shared| async move {
            let key = branch::rename(&shared, &key, new).await?;
            shared.view(&key)
        })
        .await
    }

    /// Makes one that is down, thin or a clone, thick.
    pub async fn convert(&self, namespace: &Namespace, name: &JailName, events: Listener) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            branch::convert(&shared, &key, &events).await?;
            shared.view(&key)
        })
        .await
    }

    /// Gives a thin one that is down another release.
    pub async fn upgrade(
        &self,
        namespace: &Namespace,
        name: &JailName,
        release: ReleaseName,
        events: Listener,
    ) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            branch::upgrade(&shared, &key, release).await?;
            events.note("what was changed in it lies over the new release from its next start on").await;
            shared.view(&key)
        })
        .await
    }

    /// Applies a template, or says what it would do. Ends before the next step when nobody listens any more.
    pub async fn apply(
        &self,
        namespace: &Namespace,
        name: &JailName,
        asked: ApplyTemplate,
        events: Listener,
    ) -> Result<Applied> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move { apply::apply(&shared, &key, asked, &events).await }).await
    }

    /// Its snapshots, oldest first.
    pub fn snapshots(&self, namespace: &Namespace, name: &JailName) -> Result<Vec<SnapshotView>> {
        Ok(self.shared.snapshots_of(&key(namespace, name))?.into_iter().map(branch::shown).collect())
    }

    /// Keeps its files as they are, up or down.
    pub async fn snapshot(
        &self,
        namespace: &Namespace,
        name: &JailName,
        tag: Option<SnapshotTag>,
        events: Listener,
    ) -> Result<SnapshotView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move { branch::snapshot(&shared, &key, tag, &events).await }).await
    }

    /// Makes the files of one that is down what they were; without a tag, in its newest snapshot. Later ones stay.
    pub async fn rollback(
        &self,
        namespace: &Namespace,
        name: &JailName,
        tag: Option<SnapshotTag>,
        events: Listener,
    ) -> Result<JailView> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move {
            branch::rollback(&shared, &key, tag, &events).await?;
            shared.view(&key)
        })
        .await
    }

    /// Removes a snapshot.
    pub async fn drop_snapshot(&self, namespace: &Namespace, name: &JailName, tag: &SnapshotTag) -> Result<()> {
        let (key, tag) = (key(namespace, name), tag.clone());
        self.run(move |shared| async move { branch::drop_snapshot(&shared, &key, &tag).await }).await
    }

    /// Makes an archive of one, up or down.
    pub async fn export(&self, namespace: &Namespace, name: &JailName, events: Listener) -> Result<Exported> {
        let (key, events) = (key(namespace, name), Events::to(events));
        self.run(move |shared| async move { archive::export(&shared, &key, &events).await }).await
    }

    /// Makes a jail of an archive. The file is read, and stays the caller's.
    pub async fn import(
        &self,
        namespace: &Namespace,
        asked: ImportJail,
        archive: PathBuf,
        events: Listener,
    ) -> Result<JailView> {
        let (namespace, events) = (namespace.clone(), Events::to(events));
        self.run(move |shared| async move { archive::import(&shared, &namespace, asked, archive, &events).await }).await
    }

    /// What its main program wrote to its console.
    pub async fn console(
        &self,
        namespace: &Namespace,
        name: &JailName,
        wanted: ConsoleWanted,
        follow: bool,
    ) -> Result<ConsolePieces> {
        console::read(&self.shared, &key(namespace, name), wanted, follow).await
    }

    /// All releases of the node; of the jails that need them those of `namespace`, or of all.
    pub fn releases(&self, namespace: Option<&Namespace>) -> Vec<ReleaseView> {
        let all = self.shared.releases.all();
        all.into_iter().map(|record| self.shared.shown_release(record, namespace)).collect()
    }

    /// Makes a release, or finds it whole. A jail it is made of is one of `namespace`.
    pub async fn bootstrap(&self, namespace: &Namespace, asked: Bootstrap, events: Listener) -> Result<ReleaseView> {
        let (namespace, events) = (namespace.clone(), Events::to(events));
        self.run(move |shared| async move { shared.bootstrap(&namespace, asked, &events).await }).await
    }

    /// Makes a release of an archive somebody sent. The file is read, and stays the caller's.
    pub async fn bootstrap_from(
        &self,
        name: ReleaseName,
        kind: ReleaseArchive,
        archive: PathBuf,
        events: Listener,
    ) -> Result<ReleaseView> {
        let events = Events::to(events);
        self.run(move |shared| async move { shared.bootstrap_from(name, kind, archive, &events).await }).await
    }

    /// Removes a release, unless jails need it.
    pub async fn drop_release(&self, name: &ReleaseName) -> Result<()> {
        let name = name.clone();
        self.run(move |shared| async move { shared.drop_release(&name).await }).await
    }

    /// Templates of a namespace.
    pub fn templates(&self, namespace: &Namespace) -> Result<Vec<TemplateView>> {
        templates::list(&self.shared, namespace)
    }

    /// Fetches a repository of templates; those that are there are replaced.
    pub async fn add_template(
        &self,
        namespace: &Namespace,
        asked: FetchTemplate,
        events: Listener,
    ) -> Result<Vec<TemplateView>> {
        let (namespace, events) = (namespace.clone(), Events::to(events));
        self.run(move |shared| async move { templates::fetch(&shared, &namespace, asked, &events).await }).await
    }

    /// Takes a template from a tar archive somebody sent. The file is read, and stays the caller's.
    pub async fn put_template(
        &self,
        namespace: &Namespace,
        name: TemplateName,
        archive: PathBuf,
    ) -> Result<TemplateView> {
        let namespace = namespace.clone();
        self.run(move |shared| async move { templates::receive_archive(&shared, &namespace, name, archive).await })
            .await
    }

    /// Looks through a template and all it includes, as far as that goes without a jail's values. Nothing is done.
    pub async fn check_template(&self, namespace: &Namespace, name: &TemplateName) -> Result<TemplateCheck> {
        let (namespace, name) = (namespace.clone(), name.clone());
        self.run(move |shared| async move { templates::check(&shared, &namespace, &name).await }).await
    }

    /// Removes a template.
    pub async fn drop_template(&self, namespace: &Namespace, name: &TemplateName) -> Result<()> {
        let (namespace, name) = (namespace.clone(), name.clone());
        self.run(move |shared| async move { templates::remove(&shared, &namespace, &name).await }).await
    }
}
