//! Templates of a namespace, as directories: fetched with git, or sent. They are read here, and never run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_formats::bastille::{FILE_BYTES_MAX, Facts, Hook, Sources, TemplateUrl, verify};
use moat_getter::{FetchRequest, ProgressSink, Source};
use moat_model::jail::{FetchTemplate, JailName, TemplateCheck, TemplateHook, TemplateName, TemplateView};
use moat_model::job::{ArtifactMode, ArtifactSpec};
use moat_model::{ErrorKind, Namespace};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};
use crate::outlet::blocking;

use super::events::Events;
use super::place;
use super::table::Shared;
use super::tree::{Shape, Top};

/// The file that makes a directory a template.
pub(super) const BASTILLEFILE: &str = "Bastillefile";
/// Templates of one repository, at most.
const OF_REPOSITORY_MAX: usize = 256;

/// Where a template is from; kept beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    source: Option<String>,
    commit: Option<String>,
}

fn origin_path(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.json"))
}

fn origin(dir: &Path) -> Origin {
    let body = std::fs::read(origin_path(dir));
    body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default()
}

/// All of a namespace. Blocking, briefly.
pub(super) fn list(shared: &Shared, namespace: &Namespace) -> Result<Vec<TemplateView>> {
    let failed = |e| Error::caused_by(ErrorKind::Unavailable, "list the templates of jails", e);
    let mut found = Vec::new();
    for project in names(&shared.place.templates(namespace)).map_err(failed)? {
        for name in names(&shared.place.templates(namespace).join(&project)).map_err(failed)? {
            if let Ok(name) = TemplateName::parse(&format!("{project}/{name}")) {
                found.push(view(shared, namespace, name));
            }
        }
    }
    Ok(found)
}

fn view(shared: &Shared, namespace: &Namespace, name: TemplateName) -> TemplateView {
    let Origin { source, commit } = origin(&shared.place.template(namespace, &name));
    TemplateView { name, source, commit }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string())
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Fetches a repository.
pub(super) async fn fetch(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    asked: FetchTemplate,
    events: &Events,
) -> Result<Vec<TemplateView>> {
    let url = TemplateUrl::parse(&asked.url).map_err(|e| Error::invalid("url", e))?;
    let commit = asked.commit.or_else(|| url.commit().map(str::to_owned));
    if let Some(commit) = &commit
        && !((7..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Error::invalid("commit", "7 to 64 hexadecimal digits"));
    }
    let scratch = shared.place.new_scratch();
    events.note(format!("fetches {}", url.repository())).await;
    let fetched = fetched(shared, namespace, &url, commit.as_deref(), &scratch).await;
    let left = blocking("remove what was fetched", move || super::copy::remove(&scratch)).await;
    left.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "left until the next start"));
    fetched
}

async fn fetched(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    url: &TemplateUrl,
    commit: Option<&str>,
    scratch: &Path,
) -> Result<Vec<TemplateView>> {
    let mut options = BTreeMap::new();
    if let Some(commit) = commit {
        options.insert("ref".to_owned(), commit.to_owned());
    }
    let request = FetchRequest {
        artifact: artifact(format!("git::{}", url.repository()), options),
        ..request(scratch, Source::Network)
    };
    receive(shared, scratch, request).await?;
    let tree = scratch.join(TREE);
    let (this, namespace, url, commit) =
        (Arc::clone(shared), namespace.clone(), url.clone(), commit.map(str::to_owned));
    let installed = tokio::task::spawn_blocking(move || {
        let commit = head(&tree).or(commit);
        place::remove(&tree.join(".git")).map_err(put_failed)?;
        let origin = Origin { source: Some(url.repository().to_owned()), commit };
        let found = found(&tree, &url).map_err(put_failed)?;
        if found.is_empty() {
            let what =
                format!("url: {} has no {BASTILLEFILE}, neither at its top nor in its directories", url.repository());
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        let put = |(name, dir): (TemplateName, PathBuf)| {
            put(&this, &namespace, &name, &dir, &origin).map_err(put_failed)?;
            Ok(view(&this, &namespace, name))
        };
        found.into_iter().map(put).collect::<Result<Vec<_>>>()
    });
    installed.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "keep templates", e))?
}

fn put_failed(error: io::Error) -> Error {
    Error::caused_by(ErrorKind::Unavailable, "keep a template", error)
}

/// Name of what is fetched, in the scratch directory.
const TREE: &str = "tree";

fn artifact(source: String, options: BTreeMap<String, String>) -> ArtifactSpec {
    let headers = BTreeMap::new();
    let (mode, destination) = (ArtifactMode::Dir, TREE.to_owned());
    ArtifactSpec { source, destination, mode, options, headers, insecure: false, chown: false }
}

fn request(scratch: &Path, source: Source) -> FetchRequest {
    FetchRequest {
        artifact: artifact(String::new(), BTreeMap::new()),
        alloc_dir: scratch.to_owned(),
        task_dir: scratch.to_owned(),
        owner: None,
        source,
        deadline: None,
    }
}

async fn receive(shared: &Shared, scratch: &Path, request: FetchRequest) -> Result<()> {
    let dir = scratch.to_owned();
    blocking("make room for a template", move || place::make(&dir)).await?;
    let fetched = shared.base.getter.fetch(request, ProgressSink::none()).await;
    fetched.map(drop).map_err(|e| Error::new(ErrorKind::Unavailable, format!("url: {e}")))
}

/// The commit a checkout is of, if it says so plainly.
fn head(tree: &Path) -> Option<String> {
    let git = Top::open(&tree.join(".git")).ok()?;
    let read = |path: &str| git.text(Path::new(path), 1 << 20).ok();
    let head = read("HEAD")?;
    let plain = |text: &str| text.trim().bytes().all(|b| b.is_ascii_hexdigit()).then(|| text.trim().to_owned());
    let Some(reference) = head.trim().strip_prefix("ref: ") else { return plain(&head) };
    if reference.contains("..") || reference.starts_with('/') {
        return None;
    }
    read(reference).and_then(|text| plain(&text)).or_else(|| {
        let packed = read("packed-refs")?;
        let line = packed.lines().find(|line| line.split_once(' ').is_some_and(|(_, name)| name == reference))?;
        plain(line.split_once(' ')?.0)
    })
}

/// Templates of a checkout: itself, or directories one or two levels below its top.
fn found(tree: &Path, url: &TemplateUrl) -> io::Result<Vec<(TemplateName, PathBuf)>> {
    let top = Top::open(tree)?;
    let is = |path: &Path| matches!(top.shape(&path.join(BASTILLEFILE)), Ok(Some(Shape::File)));
    if is(Path::new("")) {
        return Ok(vec![(url.template().clone(), tree.to_owned())]);
    }
    let repository = url.template().as_str().split_once('/').map_or("", |(_, name)| name).to_owned();
    let mut found = Vec::new();
    for first in names(tree)? {
        let mut candidates = vec![(repository.clone(), first.clone(), PathBuf::from(&first))];
        for second in names(&tree.join(&first))? {
            candidates.push((first.clone(), second.clone(), Path::new(&first).join(&second)));
        }
        for (project, name, path) in candidates {
            if found.len() < OF_REPOSITORY_MAX
                && is(&path)
                && let Ok(name) = TemplateName::parse(&format!("{project}/{name}"))
            {
                found.push((name, tree.join(path)));
            }
        }
    }
    Ok(found)
}

/// Lets a directory be a template: what was there before is replaced as one. Blocking.
fn put(shared: &Shared, namespace: &Namespace, name: &TemplateName, dir: &Path, origin: &Origin) -> io::Result<()> {
    let to = shared.place.template(namespace, name);
    place::make(to.parent().unwrap_or(Path::new("/")))?;
    // First who it is said to be: of a template that is there already this is then early, never wrong for long.
    durable::replace(&origin_path(&to), &serde_json::to_vec_pretty(origin)?)?;
    if to.exists() {
        renameat_with(CWD, dir, CWD, &to, RenameFlags::EXCHANGE)?;
        super::copy::remove(dir)
    } else {
        std::fs::rename(dir, &to)
    }
}

/// Takes a template from an archive that was sent.
pub(super) async fn receive_archive(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    name: TemplateName,
    archive: PathBuf,
) -> Result<TemplateView> {
    let scratch = shared.place.new_scratch();
    let taken = taken(shared, namespace, &name, archive, &scratch).await;
    let left = blocking("remove what was sent", move || super::copy::remove(&scratch)).await;
    left.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "left until the next start"));
    taken.map(|()| view(shared, namespace, name))
}

async fn taken(
    shared: &Arc<Shared>,
    namespace: &Namespace,
    name: &TemplateName,
    archive: PathBuf,
    scratch: &Path,
) -> Result<()> {
    let (this, namespace, name, scratch) = (Arc::clone(shared), namespace.clone(), name.clone(), scratch.to_owned());
    let unpacked = tokio::task::spawn_blocking(move || {
        place::make(&scratch).map_err(put_failed)?;
        let tree = scratch.join(TREE);
        let file = std::fs::File::open(&archive).map_err(put_failed)?;
        let limits = moat_drivers::lasting::ImportLimits { bytes_max: TEMPLATE_BYTES_MAX, entries_max: 100_000 };
        let go = std::sync::atomic::AtomicBool::new(false);
        moat_drivers::lasting::import(&mut io::BufReader::new(file), &tree, 0, &limits, &go)?;
        let top = Top::open(&tree).map_err(put_failed)?;
        if !matches!(top.shape(Path::new(BASTILLEFILE)), Ok(Some(Shape::File))) {
            let what = format!("archive: it has no {BASTILLEFILE} at its top");
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        put(&this, &namespace, &name, &tree, &Origin::default()).map_err(put_failed)
    });
    unpacked.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "keep a template", e))?
}

/// Most bytes of a template: what it copies into jails lies with it.
const TEMPLATE_BYTES_MAX: u64 = 4 << 30;

/// Removes one.
pub(super) async fn remove(shared: &Arc<Shared>, namespace: &Namespace, name: &TemplateName) -> Result<()> {
    let dir = shared.place.template(namespace, name);
    if !dir.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("no such template {name}")));
    }
    let scratch = shared.place.new_scratch();
    blocking("remove a template", move || {
        std::fs::rename(&dir, &scratch)?;
        durable::remove(&origin_path(&dir))?;
        super::copy::remove(&scratch)
    })
    .await
}

/// Looks through one.
pub(super) async fn check(shared: &Arc<Shared>, namespace: &Namespace, name: &TemplateName) -> Result<TemplateCheck> {
    if !shared.place.template(namespace, name).is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("no such template {name}")));
    }
    let shelf = Shelf { shared: Arc::clone(shared), namespace: namespace.clone() };
    let jail = JailName::parse("jail").map_err(|e| Error::caused_by(ErrorKind::Internal, "name a jail", e))?;
    let name = name.clone();
    let looked = tokio::task::spawn_blocking(move || verify(&name, &shelf, &Facts { name: jail, address: None })).await;
    let found = looked.map_err(|e| Error::caused_by(ErrorKind::Internal, "read a template", e))?;
    let found = found.map_err(|problems| Error::new(ErrorKind::InvalidSpec, problems.to_string()))?;
    let hook = |Hook { template, line, verb, text }| TemplateHook { template, line, verb, text };
    Ok(TemplateCheck {
        hooks: found.hooks.into_iter().map(hook).collect(),
        templates: found.templates,
        missing: found.needs.iter().map(|need| need.url.repository().to_owned()).collect(),
        warnings: found.warnings.iter().map(ToString::to_string).collect(),
    })
}

/// Templates of a namespace, to those who read them.
#[derive(Debug)]
pub(super) struct Shelf {
    pub shared: Arc<Shared>,
    pub namespace: Namespace,
}

impl Sources for Shelf {
    fn bastillefile(
        &self,
        template: &TemplateName,
        url: Option<&TemplateUrl>,
    ) -> std::result::Result<Option<String>, String> {
        let dir = self.shared.place.template(&self.namespace, template);
        let top = match Top::open(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            top => top.map_err(|e| format!("template {template}: {e}"))?,
        };
        if let (Some(url), Some(source)) = (url, origin(&dir).source)
            && source != url.repository()
        {
            return Err(format!("template {template} is there, from {source}: drop it, or include that one"));
        }
        let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
        top.text(Path::new(BASTILLEFILE), most).map(Some).map_err(|e| format!("{template}/{BASTILLEFILE}: {e}"))
    }

    fn exists(&self, template: &TemplateName, path: &Path) -> std::result::Result<bool, String> {
        let top = Top::open(&self.shared.place.template(&self.namespace, template));
        let shape = top.and_then(|top| top.shape(path));
        shape.map(|shape| shape.is_some()).map_err(|e| format!("{template}/{}: {e}", path.display()))
    }
}
