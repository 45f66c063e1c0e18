//! What every command has at hand: whom it speaks to, which jails are meant, and what is told while something is done.

use std::process::ExitCode;

use moat_api::client::rest::{Lines, RestClient};
use moat_api::rest::ErrorBody;
use moat_model::ErrorKind;
use moat_model::jail::target::{Candidate, Reach, resolve, resolve_one};
use moat_model::jail::{Applied, JailEvent, JailName, JailState, JailView, StopJail};
use serde::de::DeserializeOwned;

use super::say::Say;
use crate::failure::Failure;
use crate::progress::told;

/// Most jails a code tells of: larger ones mean other things to shells.
const FAILED_MAX: usize = 124;

/// One command at work.
#[derive(Debug)]
pub struct Front {
    /// Whom it speaks to.
    pub client: RestClient,
    /// How it speaks.
    pub say: Say,
}

/// The last line of something that took long.
#[derive(Debug, Default)]
pub struct Ended {
    /// The jail as it is then.
    pub jail: Option<Box<JailView>>,
    /// What became of a template.
    pub applied: Option<Applied>,
    result: Option<serde_json::Value>,
}

impl Ended {
    /// Any other result.
    pub fn result<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let value = self.result.ok_or_else(|| Failure::internal("read the answer", "it has no result"))?;
        serde_json::from_value(value).map_err(|error| Failure::internal("read the answer", error))
    }
}

impl Front {
    /// The same, saying what is done if that is wanted.
    pub fn louder(&self, yes: bool) -> Self {
        Self { client: self.client.clone(), say: Say { trace: self.say.trace || yes, ..self.say } }
    }

    /// All jails, in the order they are started in.
    pub async fn jails(&self) -> Result<Vec<JailView>, Failure> {
        Ok(self.client.jails().await?.jails)
    }

    /// The jails a target means, in the order they are started in.
    pub async fn several(&self, asked: &str, reach: Reach) -> Result<Vec<JailView>, Failure> {
        let jails = self.jails().await?;
        let names = resolve(asked, &candidates(&jails), reach).map_err(unfound)?;
        Ok(chosen(jails, &names))
    }

    /// The one jail a target means.
    pub async fn one(&self, asked: &str) -> Result<JailView, Failure> {
        self.one_by(asked, Reach::Any).await
    }

    /// The same, with what may be written for it.
    pub async fn one_by(&self, asked: &str, reach: Reach) -> Result<JailView, Failure> {
        let jails = self.jails().await?;
        let name = resolve_one(asked, &candidates(&jails), reach).map_err(unfound)?;
        let found = chosen(jails, &[name]).pop();
        found.ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("no jail {asked}")))
    }

    /// Does something to each, under its name. One that fails is told and counted, and the next one comes; with a single
    /// jail the code is its own.
    pub async fn each(
        &self,
        jails: &[JailView],
        mut act: impl AsyncFnMut(&JailView) -> Result<ExitCode, Failure>,
    ) -> Result<ExitCode, Failure> {
        let mut failed = 0_usize;
        for jail in jails {
            self.say.heading(jail.spec.name.as_str())?;
            let code = match act(jail).await {
                Ok(code) => code,
                Err(failure) => {
                    if failure.is_quiet() {
                        return Err(failure);
                    }
                    self.say.error(&failure);
                    ExitCode::from(1)
                }
            };
            if jails.len() == 1 {
                return Ok(code);
            }
            failed += usize::from(code != ExitCode::SUCCESS);
        }
        if failed > 0 {
            self.say.error(&Failure::new(ErrorKind::Guest, format!("it failed on {failed} of {} jails", jails.len())));
        }
        Ok(ExitCode::from(u8::try_from(failed.min(FAILED_MAX)).unwrap_or(u8::MAX)))
    }

    /// Tells what a node tells, up to the end.
    pub async fn follow(&self, mut events: Lines<JailEvent>) -> Result<Ended, Failure> {
        let mut doing = String::new();
        while let Some(event) = events.next().await {
            match event? {
                JailEvent::Keepalive => {}
                JailEvent::Note { text } => self.say.warn(&text)?,
                JailEvent::Progress { doing: now, .. } => {
                    if self.say.trace && now != doing {
                        self.say.output.note(&now);
                    }
                    doing = now;
                }
                JailEvent::Step { number, of, step } => {
                    self.say.info(&format!("[{number}/{of}] {}", step.text))?;
                }
                JailEvent::Output { stderr: false, text } if !self.say.quiet => {
                    self.say.output.bytes(text.as_bytes())?;
                }
                JailEvent::Output { text, .. } => self.say.output.error_bytes(text.as_bytes())?,
                JailEvent::Done { jail, applied, result } => return Ok(Ended { jail, applied, result }),
                JailEvent::Failed { error } => {
                    let body: ErrorBody =
                        serde_json::from_value(error).map_err(|e| Failure::internal("read why it failed", e))?;
                    return Err(told(body));
                }
            }
        }
        Err(Failure::new(ErrorKind::Unavailable, "the node hung up before it was done"))
    }

    /// The sandbox a jail is. One that is down is started, if that is wanted.
    pub async fn up(&self, jail: &JailView, auto: bool) -> Result<String, Failure> {
        if let Some(sandbox) = &jail.sandbox {
            return Ok(sandbox.to_string());
        }
        let name = jail.spec.name.as_str();
        if !auto {
            return Err(Failure::new(ErrorKind::Conflict, format!("jail {name} is not running"))
                .with_hint(format!("use -a (--auto) to start it, or `moat jail start {name}`")));
        }
        self.follow(self.client.start_jail(name).await?).await?;
        let started = self.client.jail(name).await?;
        let gone = || Failure::new(ErrorKind::Conflict, format!("jail {name} ended as soon as it was started"));
        started.sandbox.map(|id| id.to_string()).ok_or_else(gone)
    }

    /// A jail that is up is stopped, if that is wanted. Whether it was up.
    pub async fn down(&self, jail: &JailView, auto: bool) -> Result<bool, Failure> {
        if !is_up(jail) {
            return Ok(false);
        }
        let name = jail.spec.name.as_str();
        if !auto {
            return Err(Failure::new(ErrorKind::Conflict, format!("jail {name} is running"))
                .with_hint(format!("use -a (--auto) to stop it and start it again, or `moat jail stop {name}`")));
        }
        self.follow(self.client.stop_jail(name, &StopJail::default()).await?).await?;
        Ok(true)
    }

    /// Starts a jail again that [`Front::down`] stopped.
    pub async fn back(&self, name: &str, was_up: bool) -> Result<(), Failure> {
        if was_up {
            self.follow(self.client.start_jail(name).await?).await?;
        }
        Ok(())
    }
}

/// Whether a jail runs.
pub fn is_up(jail: &JailView) -> bool {
    jail.sandbox.is_some() || jail.state == JailState::Up
}

fn candidates(jails: &[JailView]) -> Vec<Candidate<'_>> {
    let mut candidates = Vec::with_capacity(jails.len());
    for JailView { spec, number, .. } in jails {
        candidates.push(Candidate { name: &spec.name, number: *number, priority: spec.priority, tags: &spec.tags });
    }
    candidates
}

/// Those that were meant, in the order in which the node lists them: that of starting, which knows who depends on whom.
fn chosen(mut jails: Vec<JailView>, names: &[JailName]) -> Vec<JailView> {
    jails.retain(|jail| names.contains(&jail.spec.name));
    jails
}

fn unfound(error: moat_model::jail::target::TargetError) -> Failure {
    Failure::new(ErrorKind::NotFound, error.to_string())
}
