//! From a monitor that runs to a guest that may be handed out.
//!
//! A machine that boots waits to be told what it is; one that was kept waits to be told that time has passed, and perhaps
//! who it is now. Nothing of the user runs before either was done, and a machine that does not prove it is not handed out:
//! its driver ends it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::machine::{GuestSetup, Identity, Renewal, Renewed};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest as _;
use moat_engine::guest::agent::AgentGuest;
use moat_model::ErrorKind;
use moat_model::file::Transfer;
use moat_model::spec::{Artifact, Forward};
use tokio::io::AsyncReadExt as _;

use super::endpoint::MachineEndpoint;
use super::machine::Machine;
use super::setup::{moment, unix_nanos};

/// How long a machine may take until its agent answers for the first time: twenty times what emulation needs when it has a
/// processor for itself.
pub const BOOT_WITHIN: Duration = Duration::from_secs(120);
/// The same for one that is only let go on.
pub const RESUME_WITHIN: Duration = Duration::from_secs(60);
/// How far its clock may be from the host's when it is handed out.
pub const CLOCK_WITHIN: Duration = Duration::from_millis(50);
/// One read of an artifact.
const PIECE_LEN: usize = 64 << 10;

/// What has to be done before a guest is handed out.
#[derive(Debug, Clone, Copy)]
pub enum First<'a> {
    /// It boots: it becomes this sandbox.
    Setup(&'a Machine),
    /// It goes on, as this one if one is given.
    Renewal(Option<&'a Identity>),
    /// It was never stopped.
    Nothing,
}

/// Connects to the agent, and does what has to be done first.
pub async fn bring_up(
    endpoint: Arc<MachineEndpoint>,
    forwards: &[Forward],
    first: First<'_>,
) -> Result<Arc<AgentGuest>> {
    let deadline = if let First::Setup(_) = first { BOOT_WITHIN } else { RESUME_WITHIN };
    let guest = AgentGuest::connect_within(endpoint, forwards.to_vec(), deadline).await?;
    match first {
        First::Setup(machine) => set_up(&guest, machine).await?,
        First::Renewal(identity) => renew(&guest, identity).await?,
        First::Nothing => {}
    }
    Ok(guest)
}

/// Makes it what it is to be, and puts the program in place. Whoever was told before is told again only what may be half done:
/// a daemon may have died in between.
async fn set_up(guest: &AgentGuest, machine: &Machine) -> Result<()> {
    if guest.hello().await?.awaits_setup {
        guest.setup(&GuestSetup { moment: moment()?, ..machine.setup.clone() }).await?;
    }
    match &machine.artifact {
        Some(artifact) => push_artifact(guest, artifact).await,
        None => Ok(()),
    }
}

/// Copies the program in: a machine shows no file of the host.
async fn push_artifact(guest: &AgentGuest, artifact: &Artifact) -> Result<()> {
    let failed = |e: std::io::Error| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Internal };
        Error::caused_by(kind, format!("artifact.path: {}", artifact.path.display()), e)
    };
    let mut file = tokio::fs::File::open(&artifact.path).await.map_err(failed)?;
    let into = Path::new("/local").join(&artifact.name).to_string_lossy().into_owned();
    let mut sink = guest.push(Some("root"), &Transfer::Write { path: into, mode: Some(0o555) }).await?;
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece).await.map_err(failed)? {
            0 => break,
            length => sink.send(Bytes::copy_from_slice(piece.get(..length).unwrap_or_default())).await?,
        }
    }
    sink.finish().await?;
    Ok(())
}

/// Tells a machine that was kept the time, gives it randomness, and perhaps another identity, and checks the proof. What was
/// stopped in it goes on only when all of it holds.
pub async fn renew(guest: &AgentGuest, identity: Option<&Identity>) -> Result<()> {
    let renewal = Renewal { moment: moment()?, identity: identity.cloned() };
    let renewed = guest.renew(&renewal).await?;
    check(&renewal, &renewed, unix_nanos())
}

/// Whether the proof holds. `now` is the time by the host's clock when it arrived.
fn check(renewal: &Renewal, renewed: &Renewed, now: i64) -> Result<()> {
    let failed = |what: String| Err(Error::new(ErrorKind::Guest, format!("renew the machine: {what}")));
    if !renewed.reseeded {
        return failed("its random number generator was not reseeded".to_owned());
    }
    let within = i64::try_from(CLOCK_WITHIN.as_nanos()).unwrap_or(i64::MAX);
    // What it read lies between sending and arriving if its clock is right.
    let (early, late) = (renewal.moment.unix_nanos - within, now + within);
    if !(early..=late).contains(&renewed.unix_nanos) {
        let off = (renewed.unix_nanos - now) / 1_000_000;
        return failed(format!("its clock is {off} ms off"));
    }
    let Some(identity) = &renewal.identity else { return Ok(()) };
    if renewed.machine_id != identity.machine_id {
        return failed("it has another machine-id than it was given".to_owned());
    }
    if renewed.hostname != identity.hostname {
        return failed("it has another host name than it was given".to_owned());
    }
    let wanted = identity.network.as_ref().map(|network| (network.mac, network.address));
    if renewed.link != wanted {
        return failed(format!("its link is {:?}, not {wanted:?} as it was told", renewed.link));
    }
    Ok(())
}
