//! The agent: parent of everything that runs in the sandbox.
//!
//! One thread, one loop. It serves the daemon that connected last ([`channel`], [`session`]), keeps the main process's output and exit
//! until the daemon has them ([`main_process`], [`output`]), runs other processes ([`exec`]), keeps those that belong to no connection ([`spawned`]), has
//! workers look after files ([`files`]), reaps every orphan
//! ([`children`]), stops them all when nobody says any more that they may run ([`leash`]), carries connections to forwarded ports ([`forward`]) out and the daemon's ([`connect`]) in. It never starts a thread, because it forks.

pub mod channel;
mod child;
mod children;
mod connect;
mod exec;
mod executable;
mod failure;
mod files;
mod forward;
mod io;
mod leash;
mod main_process;
mod output;
mod privilege;
mod procfs;
mod program;
mod resolve;
mod session;
mod spawned;
mod supervisor;
mod termination;
pub mod user;

use std::cell::{OnceCell, RefCell};
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::launch::AgentConfig;
use moat_agent::protocol::machine::GuestSetup;
use moat_agent::protocol::mux::{CONNECTS_MAX, FORWARDS_MAX, OpenReply};
use moat_model::ErrorKind;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use self::channel::{Channel, Newest, unix};
use self::children::Children;
pub use self::failure::Failure;
pub use self::io::Port;
use self::leash::Leash;
use self::main_process::{Main, Scratch};
use self::program::Confinement;
use self::spawned::Registry;
use self::termination::Termination;
use crate::machine::Machine;

/// One read from a pipe: what a pipe holds by default.
const SCRATCH_LEN: usize = 64 << 10;
/// For the answer to a shutdown to leave; the daemon closes as soon as it has it.
const FAREWELL: Duration = Duration::from_millis(200);
/// The same where the processor may be an emulated one.
const MACHINE_FAREWELL: Duration = Duration::from_secs(3);

/// How the current session opens streams to the daemon.
type Opens = Rc<RefCell<Option<mpsc::Sender<OpenReply>>>>;

/// What the daemon connects to: an agent, or a machine that has yet to be told what it is.
#[derive(Debug)]
struct Station {
    /// Set once: when it begins, or by the machine's setup.
    agent: OnceCell<Rc<Agent>>,
    /// This process is the first of a machine.
    machine: Option<Machine>,
    opens: Opens,
    /// Marked when the agent is there.
    begun: Notify,
    quit: Notify,
}

/// Everything the parts of the agent share.
#[derive(Debug)]
struct Agent {
    config: AgentConfig,
    confinement: Rc<Confinement>,
    /// The first process of a pid namespace: everything it can see is its own.
    own_namespace: bool,
    children: Children,
    main: Main,
    spawned: Registry,
    leash: Leash,
    scratch: Scratch,
    opens: Opens,
    /// Counts readers of the main process's output; the last one stays.
    output_turn: watch::Sender<u64>,
    forwards: Arc<Semaphore>,
    /// Bounds what a program that neither reads nor closes can make the agent hold.
    connects: Semaphore,
    /// Listens for them until the agent's life begins.
    forward_listeners: RefCell<Vec<StdTcpListener>>,
    /// Why forwarded ports are not served; told when the main process is started.
    forwards_failure: RefCell<Option<Failure>>,
}

/// Serves the sandbox until it is told to shut down. Called by the launcher in the process that stays.
pub fn run(config: AgentConfig, listener: OwnedFd) -> ! {
    match serve(config, listener) {
        Ok(()) => std::process::exit(0),
        Err(failure) => {
            // Only before standard error was given up; later failures are told to the daemon.
            eprintln!("moat-agent: {}", failure.message);
            std::process::exit(i32::from(crate::OURS))
        }
    }
}

/// Serves a machine until it is told to shut down, and switches it off.
pub fn run_machine(machine: Machine) -> ! {
    let station = Station::new(Some(machine));
    let served = event_loop().and_then(|runtime| {
        give_up_stdio()?;
        LocalSet::new().block_on(&runtime, async {
            let Some(machine) = &station.machine else { return Ok(()) };
            let channel = machine.open_channel().await?;
            work(&station, channel).await
        })
    });
    match (served, &station.machine) {
        (Ok(()), Some(machine)) => machine.switch_off(),
        (Err(failure), _) => crate::machine::die(&failure.message),
        (Ok(()), None) => crate::machine::die("no machine"),
    }
}

fn serve(config: AgentConfig, listener: OwnedFd) -> Result<(), Failure> {
    let station = Station::new(None);
    let agent = Agent::new(config, None, station.opens.clone())?;
    privilege::lower(&agent.config).map_err(|e| Failure::internal("give up privileges", &e.into()))?;
    station.begin(agent)?;
    let runtime = event_loop()?;
    give_up_stdio()?;
    LocalSet::new().block_on(&runtime, async {
        let channel = unix(listener)?;
        work(&station, channel).await
    })
}

fn event_loop() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Failure::internal("event loop", &e))
}

/// Nothing here speaks to a terminal, and what was inherited belongs to the daemon's world.
fn give_up_stdio() -> Result<(), Failure> {
    let null = main_process::dev_null()?;
    crate::sys::take_stdio([null.as_fd(), null.as_fd(), null.as_fd()])
        .map_err(|e| Failure::internal("standard streams", &e))
}

impl Station {
    fn new(machine: Option<Machine>) -> Rc<Self> {
        Rc::new(Self {
            agent: OnceCell::new(),
            machine,
            opens: Opens::default(),
            begun: Notify::new(),
            quit: Notify::new(),
        })
    }

    fn begin(&self, agent: Agent) -> Result<(), Failure> {
        self.agent.set(Rc::new(agent)).map_err(|_| Failure::new(ErrorKind::Conflict, "there is an agent already"))?;
        self.begun.notify_one();
        Ok(())
    }

    /// Becomes what a machine is told. Finished even if the connection breaks meanwhile.
    async fn set_up(&self, setup: GuestSetup) -> Result<(), Failure> {
        let ready = self.machine()?.set_up(setup).await?;
        let agent = Agent::new(ready.config, Some(ready.group), self.opens.clone())?;
        privilege::bound(&agent.config).map_err(|e| Failure::internal("give up privileges", &e.into()))?;
        self.begin(agent)
    }

    fn machine(&self) -> Result<&Machine, Failure> {
        let not_one = || Failure::new(ErrorKind::Unsupported, "this agent is not the first process of a machine");
        self.machine.as_ref().ok_or_else(not_one)
    }

    /// From the moment there is an agent, whatever it must do unasked. Ready only if it cannot.
    async fn live(&self) -> Result<(), Failure> {
        let agent = loop {
            match self.agent.get() {
                Some(agent) => break agent.clone(),
                None => self.begun.notified().await,
            }
        };
        let termination =
            Termination::listen(agent.own_namespace).map_err(|e| Failure::internal("termination signal", &e))?;
        for listener in agent.forward_listeners.take() {
            spawn_local(forward::serve(agent.clone(), listener));
        }
        let terminated = async {
            termination.asked().await;
            agent.children.kill_all(agent.own_namespace).await;
        };
        tokio::select! {
            ended = agent.children.run() => ended.map_err(|e| Failure::internal("reap children", &e)),
            () = terminated => Ok(()),
            () = leash::keep(&agent) => Ok(()),
        }
    }
}

impl Agent {
    /// Before anything was given up: forwarded ports may be below 1024. Programs are born into `group`.
    fn new(config: AgentConfig, group: Option<OwnedFd>, opens: Opens) -> Result<Self, Failure> {
        let confinement = Rc::new(Confinement::new(&config, group)?);
        let (forward_listeners, forwards_failure) = match forward::listen(&config.forward_ports) {
            Ok(listeners) => (listeners, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        Ok(Self {
            confinement,
            own_namespace: rustix::process::getpid().is_init(),
            children: Children::default(),
            main: Main::new(config.output_buffer_bytes),
            spawned: Registry::default(),
            leash: Leash::default(),
            scratch: RefCell::new(vec![0; SCRATCH_LEN]),
            opens,
            output_turn: watch::Sender::new(0),
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
            connects: Semaphore::new(CONNECTS_MAX),
            forward_listeners: RefCell::new(forward_listeners),
            forwards_failure: RefCell::new(forwards_failure),
            config,
        })
    }
}

async fn work(station: &Rc<Station>, channel: Channel) -> Result<(), Failure> {
    let newest = Newest::default();
    let mut session = None;
    let mut listening = std::pin::pin!(channel.listen(&newest));
    tokio::select! {
        ended = station.live() => return ended,
        failure = &mut listening => return Err(failure),
        () = accept(station, &newest, &mut session) => {}
        () = station.quit.notified() => {}
    }
    if let Some(session) = session {
        let farewell = if station.machine.is_some() { MACHINE_FAREWELL } else { FAREWELL };
        let last_words = async {
            tokio::select! {
                _ = session => {}
                // A port passes on what the session says.
                _ = &mut listening => {}
            }
        };
        let _ = timeout(farewell, last_words).await;
    }
    Ok(())
}

/// Serves whoever connects; the newest connection is the daemon's, an older one was forgotten by it.
async fn accept(station: &Rc<Station>, newest: &Newest, session: &mut Option<JoinHandle<()>>) {
    loop {
        let connection = newest.take().await;
        if let Some(old) = session.take() {
            old.abort();
            // Its execs are hung up on before anything of the new one happens.
            let _ = old.await;
        }
        *session = Some(spawn_local(session::serve(station.clone(), connection)));
    }
}
