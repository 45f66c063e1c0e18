//! The agent as the first process of a virtual machine.
//!
//! Nothing was there before it: it mounts what a kernel has to show, loads the modules it finds beside itself ([`boot`]), opens
//! its channel ([`channel`]), and is told by the daemon what the machine becomes: time, randomness, root ([`root`]), names,
//! network ([`network`]). From then on it is the agent of any sandbox, with three things more: it stops everything of the
//! user ([`group`]) so that the machine can be kept, it makes the machine another one before that goes on
//! ([`renewal`]), and at its end it switches the machine off ([`power`]).
//!
//! It is the kernel's init: it must not end, and whatever stops it has to be said where somebody may see it.

mod boot;
mod channel;
mod group;
mod moment;
mod names;
mod netlink;
mod network;
mod port;
mod power;
mod renewal;
mod root;
mod setup;
mod sockets;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;

use moat_agent::launch::AgentConfig;
use moat_agent::protocol::machine::{GuestSetup, Renewal, Renewed};
use moat_model::ErrorKind;

use self::group::Group;
pub use self::group::killed_for_memory;
pub use self::port::Device;
pub use self::power::die;
use self::root::Root;
use crate::agent::Failure;
use crate::agent::channel::Channel;

/// Verbs only a machine's agent knows.
pub const VERBS: [&str; 5] = ["setup", "quiesce", "renew", "proceed", "changes"];

/// Whether this process is what a kernel starts first.
pub fn is_this() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    rustix::process::getpid().is_init() && name.as_encoded_bytes().ends_with(b"init")
}

/// Becomes the agent of this machine.
pub fn main() -> ! {
    power::die_of_panics();
    match boot::boot() {
        Ok(booted) => {
            crate::agent::run_machine(Machine { booted, state: RefCell::new(State::New), renewed: Cell::new(false) })
        }
        Err(failure) => die(&failure.message),
    }
}

/// What was found when the kernel had started.
#[derive(Debug)]
pub struct Booted {
    /// Whoever started it waits for a word on the console.
    says_ready: bool,
    /// The hierarchy of control groups, mounted where nobody else sees it.
    groups: OwnedFd,
    /// The kernel's source of random numbers.
    random: OwnedFd,
}

/// This machine.
#[derive(Debug)]
pub struct Machine {
    booted: Booted,
    state: RefCell<State>,
    /// It was renewed since it was stopped last.
    renewed: Cell<bool>,
}

#[derive(Debug)]
enum State {
    /// Nobody has said what it is.
    New,
    /// It is becoming something, or could not.
    Begun,
    /// It is something.
    Set(Box<Being>),
}

/// What it is.
#[derive(Debug)]
struct Being {
    root: Root,
    group: Group,
}

/// What the agent needs once the machine is set up.
#[derive(Debug)]
pub struct Ready {
    /// As it was asked.
    pub config: AgentConfig,
    /// Where every process of the user is born.
    pub group: OwnedFd,
}

impl Machine {
    /// The channel to the daemon. Says on the console that it is there, if somebody waits for that.
    pub async fn open_channel(&self) -> Result<Channel, Failure> {
        let channel = channel::find().await?;
        if self.booted.says_ready {
            power::say(moat_agent::protocol::machine::CONSOLE_READY);
        }
        Ok(channel)
    }

    /// Becomes what it is told. Once.
    pub async fn set_up(&self, setup: GuestSetup) -> Result<Ready, Failure> {
        if !matches!(*self.state.borrow(), State::New) {
            return Err(Failure::new(ErrorKind::Conflict, "setup: this machine was told before what it is"));
        }
        // What is refused for what it says was not begun.
        setup::check(&setup)?;
        self.state.replace(State::Begun);
        let (being, ready) = setup::set_up(&self.booted, setup).await?;
        self.state.replace(State::Set(Box::new(being)));
        Ok(ready)
    }

    /// Stops everything of the user and writes what is cached.
    pub async fn quiesce(&self) -> Result<(), Failure> {
        self.renewed.set(false);
        self.group()?.freeze().await?;
        rustix::fs::sync();
        Ok(())
    }

    /// Gives it time and randomness, and another identity if so asked; everything of the user stands still until
    /// [`proceed`](Self::proceed).
    pub async fn renew(&self, renewal: &Renewal) -> Result<Renewed, Failure> {
        self.renewed.set(false);
        let group = self.group()?;
        group.freeze().await?;
        group.verify_still()?;
        let renewed = match &*self.state.borrow() {
            State::Set(being) => renewal::renew(&self.booted, &being.root, renewal)?,
            State::New | State::Begun => return Err(not_set_up()),
        };
        self.renewed.set(true);
        Ok(renewed)
    }

    /// Lets everything of the user go on.
    pub fn proceed(&self) -> Result<(), Failure> {
        let group = self.group()?;
        if !self.renewed.get() {
            return Err(Failure::new(
                ErrorKind::Conflict,
                "proceed: this machine was not renewed since it was stopped",
            ));
        }
        group.thaw()
    }

    /// The directory of everything changed in the root, seen where nothing is mounted over it.
    pub fn changes(&self) -> Result<OwnedFd, Failure> {
        match &*self.state.borrow() {
            State::Set(being) => being.root.changes(),
            State::New | State::Begun => Err(not_set_up()),
        }
    }

    fn group(&self) -> Result<Group, Failure> {
        match &*self.state.borrow() {
            State::Set(being) => being.group.again(),
            State::New | State::Begun => Err(not_set_up()),
        }
    }

    /// Ends the machine. Everything in it has ended.
    pub fn switch_off(&self) -> ! {
        power::off()
    }
}

fn not_set_up() -> Failure {
    Failure::new(ErrorKind::Conflict, "this machine was not told yet what it is: setup comes first")
}
