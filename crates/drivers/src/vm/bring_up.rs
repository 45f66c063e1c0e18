//! From a monitor that runs to a guest that may be handed out.
//!
//! A machine that boots waits to be told what it is; one that was kept waits to be told that time has passed, and perhaps
//! who it is now. Nothing of the user runs before either was done, and a machine that does not prove it is not handed out:
//! its driver ends it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_agent::protocol::machine::{GuestSetup, Identity, Renewal, Renewed};
use moat_engine::error::{Error, Result};
use moat_engine::guest::agent::AgentGuest;
use moat_engine::guest::{Guest as _, put_artifact};
use moat_model::ErrorKind;
use moat_model::spec::Forward;
use tokio::time::Instant;

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
/// How long the time is told again and again until it certainly came in time. Under emulation a word takes milliseconds, on a
/// loaded host a hundred of them now and then.
const PROVEN_WITHIN: Duration = Duration::from_secs(20);

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
        Some(artifact) => put_artifact(guest, artifact).await,
        None => Ok(()),
    }
}

/// Tells a machine that was kept the time, gives it randomness, and perhaps another identity, and checks the proof. What was
/// stopped in it goes on only when all of it holds.
pub async fn renew(guest: &AgentGuest, identity: Option<&Identity>) -> Result<()> {
    prove(guest, identity).await?;
    guest.proceed().await
}

/// Whoever is told that time has passed.
#[async_trait]
trait Told: Send + Sync {
    /// What it read then, and when that arrived here.
    async fn tell(&self, renewal: &Renewal) -> Result<(Renewed, i64)>;
}

#[async_trait]
impl Told for AgentGuest {
    async fn tell(&self, renewal: &Renewal) -> Result<(Renewed, i64)> {
        Ok((self.renew(renewal).await?, unix_nanos()))
    }
}

/// Tells it until the proof holds.
async fn prove(machine: &impl Told, identity: Option<&Identity>) -> Result<()> {
    let until = Instant::now() + PROVEN_WITHIN;
    let mut renewal = Renewal { moment: moment()?, identity: identity.cloned() };
    loop {
        let (renewed, now) = machine.tell(&renewal).await?;
        let late = late_by_at_most(&renewal, &renewed, now)?;
        check(&renewal, &renewed)?;
        if late <= CLOCK_WITHIN {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(failed(format!(
                "its clock may be {} ms late: this host is too busy to tell it",
                late.as_millis()
            )));
        }
        // Who it is stands. The time is told again: the word may be quicker.
        renewal = Renewal { moment: moment()?, identity: None };
    }
}

fn failed(what: String) -> Error {
    Error::new(ErrorKind::Guest, format!("renew the machine: {what}"))
}

/// By how much its clock may be late, as far as can be told from here: what it read arrived at `now` by the host's clock, and
/// the word was on its way before that. It is early only if it was not set.
fn late_by_at_most(renewal: &Renewal, renewed: &Renewed, now: i64) -> Result<Duration> {
    let within = i64::try_from(CLOCK_WITHIN.as_nanos()).unwrap_or(i64::MAX);
    let possible = renewal.moment.unix_nanos.saturating_sub(within)..=now.saturating_add(within);
    if !possible.contains(&renewed.unix_nanos) {
        let off = renewed.unix_nanos.saturating_sub(now) / 1_000_000;
        return Err(failed(format!("its clock is {off} ms off")));
    }
    Ok(Duration::from_nanos(u64::try_from(now.saturating_sub(renewed.unix_nanos)).unwrap_or(0)))
}

/// Whether the rest of the proof holds.
fn check(renewal: &Renewal, renewed: &Renewed) -> Result<()> {
    if !renewed.reseeded {
        return Err(failed("its random number generator was not reseeded".to_owned()));
    }
    let Some(identity) = &renewal.identity else { return Ok(()) };
    if renewed.machine_id != identity.machine_id {
        return Err(failed("it has another machine-id than it was given".to_owned()));
    }
    if renewed.hostname != identity.hostname {
        return Err(failed("it has another host name than it was given".to_owned()));
    }
    let wanted = identity.network.as_ref().map(|network| (network.mac, network.address));
    if renewed.link != wanted {
        return Err(failed(format!("its link is {:?}, not {wanted:?} as it was told", renewed.link)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MILLISECOND: i64 = 1_000_000;

    /// A machine that says what the test says, a while of paused time later.
    struct Machine<F> {
        says: F,
        told: Mutex<Vec<Renewal>>,
    }

    impl<F: Fn(usize, i64) -> (Renewed, i64) + Send + Sync> Machine<F> {
        /// `says` is given how often it was told before, and the time it is told.
        fn new(says: F) -> Self {
            Self { says, told: Mutex::default() }
        }

        fn told(&self) -> Vec<Renewal> {
            self.told.lock().unwrap().clone()
        }
    }

    #[async_trait]
    impl<F: Fn(usize, i64) -> (Renewed, i64) + Send + Sync> Told for Machine<F> {
        async fn tell(&self, renewal: &Renewal) -> Result<(Renewed, i64)> {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut told = self.told.lock().unwrap();
            told.push(renewal.clone());
            Ok((self.says)(told.len() - 1, renewal.moment.unix_nanos))
        }
    }

    fn identity() -> Identity {
        Identity { hostname: "web".to_owned(), machine_id: "07".repeat(16), network: None }
    }

    /// What a machine reads that took the identity and whose clock says `unix_nanos`.
    fn read(unix_nanos: i64) -> Renewed {
        let Identity { hostname, machine_id, .. } = identity();
        Renewed { reseeded: true, unix_nanos, machine_id, hostname, link: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_heard_the_time_late_is_told_again() {
        // The first two words were on their way for too long.
        let took = |times: usize| if times < 2 { 51 * MILLISECOND } else { 50 * MILLISECOND };
        let machine = Machine::new(|times, sent| (read(sent), sent + took(times)));
        prove(&machine, Some(&identity())).await.unwrap();
        let told = machine.told();
        assert_eq!(told.len(), 3);
        assert_eq!(told[0].identity, Some(identity()));
        assert!(told[1].identity.is_none() && told[2].identity.is_none(), "it becomes somebody once");
        assert_ne!(told[0].moment.entropy, told[1].moment.entropy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_not_set_is_refused_at_once() {
        // Earlier than what it was told, however long the word took, and later than that could have become meanwhile.
        for (arrives, reads) in [(1, -51), (900, -60_000), (1, 52), (1, 1 << 40)] {
            let machine = Machine::new(move |_, sent| (read(sent + reads * MILLISECOND), sent + arrives * MILLISECOND));
            let refused = prove(&machine, None).await.unwrap_err();
            assert_eq!((refused.kind, machine.told().len()), (ErrorKind::Guest, 1), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_too_busy_to_tell_the_time_gives_up() {
        let machine = Machine::new(|_, sent| (read(sent), sent + 1000 * MILLISECOND));
        let refused = prove(&machine, None).await.unwrap_err();
        assert!(refused.to_string().contains("too busy"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_not_who_it_was_told_to_be_is_refused() {
        type Lie = fn(&mut Renewed);
        let lies: [(Lie, &str); 4] = [
            (|renewed| renewed.reseeded = false, "reseeded"),
            (|renewed| renewed.hostname = "other".to_owned(), "host name"),
            (|renewed| renewed.machine_id = "08".repeat(16), "machine-id"),
            (|renewed| renewed.link = Some(([2; 6], [10, 0, 0, 1].into())), "link"),
        ];
        for (lie, what) in lies {
            let machine = Machine::new(move |_, sent| {
                let mut renewed = read(sent);
                lie(&mut renewed);
                (renewed, sent)
            });
            let refused = prove(&machine, Some(&identity())).await.unwrap_err();
            assert!(refused.to_string().contains(what), "{refused}");
        }
    }
}
