//! Templates applied: a plan of steps, each done and told, the place of the one under way written down before it begins.

use std::sync::Arc;

use moat_formats::bastille::{ArgFile, Args, Facts, Plan, Planned, plan};
use moat_model::ErrorKind;
use moat_model::jail::steps::{Action, Step};
use moat_model::jail::{
    Applied, ApplyTemplate, ChangeJail, FetchTemplate, JailEvent, RemoveLimit, RemoveMount, Setting, SnapshotTag,
};

use crate::clock;
use crate::error::{Error, Result};

use super::events::Events;
use super::record::JailRecord;
use super::table::{Claim, Key, Shared};
use super::templates::Shelf;
use super::{branch, inside, life, settings, templates};

/// How often templates that are included are fetched before it is a mistake: each may include others.
const FETCHES_MAX: usize = 16;

/// Applies one, or says what it would do.
pub(super) async fn apply(shared: &Arc<Shared>, key: &Key, asked: ApplyTemplate, events: &Events) -> Result<Applied> {
    let plan = planned(shared, key, &asked, events).await?;
    let notes: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    for note in &notes {
        events.note(note.clone()).await;
    }
    if asked.dry_run {
        return Ok(Applied { steps: plan.steps, done: 0, notes });
    }
    let claim = shared.claim(key, "template")?;
    let before = match asked.rollback {
        true => Some(Before::keep(&claim, events).await?),
        false => None,
    };
    let done = all(&claim, &plan.steps, events).await;
    match (done, before) {
        (Ok(()), before) => {
            claim.update(|record| record.template = None).await?;
            if let Some(before) = before {
                before.discard(&claim).await;
            }
            Ok(Applied { done: plan.steps.len(), steps: plan.steps, notes })
        }
        (Err(error), None) => Err(error),
        (Err(error), Some(before)) => match before.restore(&claim, events).await {
            Ok(()) => Err(Error { doing: format!("{}; the jail is as it was before", error.doing), ..error }),
            Err(left) => {
                let what = format!("{}; and it could not be taken back: {}", error.doing, left.chain());
                Err(Error { doing: what, ..error })
            }
        },
    }
}

/// Its steps, what it includes fetched.
async fn planned(shared: &Arc<Shared>, key: &Key, asked: &ApplyTemplate, events: &Events) -> Result<Plan> {
    let record = shared.record(key)?;
    let args = Args {
        given: asked.args.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        file: asked.arg_file.clone().map(|text| ArgFile { origin: "--arg-file".to_owned(), text }),
    };
    for _ in 0..FETCHES_MAX {
        let shelf = Shelf { shared: Arc::clone(shared), namespace: key.0.clone() };
        let facts = Facts { name: key.1.clone(), address: record.spec.network.address.or(record.given) };
        let (template, args) = (asked.template.clone(), args.clone());
        let planned = tokio::task::spawn_blocking(move || plan(&template, &shelf, &args, &facts));
        let planned = planned.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "read a template", e))?;
        match planned.map_err(|problems| Error::new(ErrorKind::InvalidSpec, problems.to_string()))? {
            Planned::Plan(plan) => return Ok(plan),
            Planned::Needs(needs) if asked.dry_run => {
                let urls: Vec<&str> = needs.iter().map(|need| need.url.repository()).collect();
                let what = format!("it includes what is not here: moat jail bootstrap {}", urls.join(" "));
                return Err(Error::new(ErrorKind::NotFound, what));
            }
            Planned::Needs(needs) => {
                for need in needs {
                    let commit = need.url.commit().map(str::to_owned);
                    let fetch = FetchTemplate { url: need.url.repository().to_owned(), commit };
                    templates::fetch(shared, &key.0, fetch, events).await?;
                }
            }
        }
    }
    let what = format!("template {}: includes templates that include others without end", asked.template);
    Err(Error::new(ErrorKind::InvalidSpec, what))
}

async fn all(claim: &Claim, steps: &[Step], events: &Events) -> Result<()> {
    for (step, number) in steps.iter().zip(1..) {
        let place = format!("{}:{}", step.origin, step.line);
        if !events.are_heard() {
            let what = format!("{place}: nobody listens any more; the steps before it are done");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let begun = place.clone();
        claim.update(|record| record.template = Some(begun)).await?;
        events.tell(JailEvent::Step { number, of: steps.len(), step: Box::new(step.clone()) }).await;
        one(claim, &step.action, events).await.map_err(|e| Error { doing: format!("{place}: {}", e.doing), ..e })?;
    }
    Ok(())
}

async fn one(claim: &Claim, action: &Action, events: &Events) -> Result<()> {
    let set = |setting| settings::set_claimed(claim, setting);
    let change = |change| settings::apply(claim, change);
    match action {
        Action::Cmd { script } => inside::run(claim, "sh", &["-c".to_owned(), script.clone()], events).await,
        Action::Copy { source, contents, target, into } => inside::copy(claim, source, *contents, target, *into).await,
        Action::LineInFile { line, path } => inside::line_in_file(claim, line, path).await,
        Action::Render { path, values } => inside::render(claim, path, values, events).await,
        Action::Pkg { packages } => {
            let args: Vec<String> = ["install", "-y"].map(str::to_owned).into_iter().chain(packages.clone()).collect();
            inside::run(claim, "pkg", &args, events).await
        }
        Action::Sysrc { args } => inside::run(claim, "sysrc", args, events).await,
        Action::Service { name, action } => {
            inside::run(claim, "service", &[name.clone(), action.clone()], events).await
        }
        Action::Mount(mount) => {
            set(Setting::Mount(mount.clone())).await?;
            events.note("holds from the next start on: RESTART").await;
            Ok(())
        }
        Action::Unmount { target } => {
            ignore_missing(set(Setting::NoMount(RemoveMount { target: target.clone() })).await)
        }
        Action::Limit(limit) => set(Setting::Limit(limit.clone())).await,
        Action::Unlimit { resource } => {
            ignore_missing(set(Setting::NoLimit(RemoveLimit { resource: resource.clone() })).await)
        }
        Action::Redirect(redirect) if claim.record()?.spec.redirects.contains(redirect) => Ok(()),
        Action::Redirect(redirect) => set(Setting::Redirect(*redirect)).await,
        Action::Unredirect => set(Setting::NoRedirect(None)).await,
        Action::Config { property, value } => {
            let properties = [(property.clone(), value.clone())].into();
            change(ChangeJail { properties, ..ChangeJail::default() }).await
        }
        Action::Tags { tags } => {
            change(ChangeJail { add_tags: tags.iter().cloned().collect(), ..ChangeJail::default() }).await
        }
        Action::Untag { tags } => {
            change(ChangeJail { remove_tags: tags.iter().cloned().collect(), ..ChangeJail::default() }).await
        }
        Action::Watch { services } => {
            change(ChangeJail { watch: services.iter().cloned().collect(), ..ChangeJail::default() }).await
        }
        Action::Unwatch { services } => {
            change(ChangeJail { unwatch: services.iter().cloned().collect(), ..ChangeJail::default() }).await
        }
        Action::Restart => {
            life::stop(claim, false).await?;
            life::start(claim).await
        }
        Action::Start if life::is_up(&claim.shared, claim.record()?.as_ref()) => Ok(()),
        Action::Start => life::start(claim).await,
        Action::Stop => life::stop(claim, false).await,
    }
}

/// What is not there any more is taken away already: a template may be applied again.
fn ignore_missing(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The jail as it was before a template.
struct Before {
    record: Arc<JailRecord>,
    tag: SnapshotTag,
    up: bool,
}

impl Before {
    async fn keep(claim: &Claim, events: &Events) -> Result<Self> {
        let record = claim.record()?;
        let tag = SnapshotTag::parse(&format!("before-template-{}", super::stamp(clock::now())))
            .map_err(|e| Error::invalid("tag", e))?;
        branch::take(claim, Some(tag.clone()), events).await?;
        Ok(Self { up: life::is_up(&claim.shared, &record), record, tag })
    }

    async fn restore(self, claim: &Claim, events: &Events) -> Result<()> {
        life::stop(claim, false).await?;
        branch::back(claim, Some(&self.tag), events).await?;
        let spec = self.record.spec.clone();
        let template = self.record.template.clone();
        claim.update(|record| (record.spec, record.template) = (spec, template)).await?;
        if self.up {
            life::start(claim).await?;
        }
        self.discard(claim).await;
        Ok(())
    }

    async fn discard(&self, claim: &Claim) {
        if let Err(error) = branch::discard(claim, &self.tag).await {
            tracing::warn!(jail = %claim.key.1, error = %error.chain(), "the snapshot before a template stays");
        }
    }
}
