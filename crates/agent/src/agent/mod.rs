//! The agent: parent of everything that runs in the sandbox.
//!
//! One thread, one loop. It serves the daemon that connected last ([`session`]), keeps the main process's output and exit
//! until the daemon has them ([`main_process`], [`output`]), runs other processes ([`exec`]), keeps those that belong to no connection ([`spawned`]), has
//! workers look after files ([`files`]), reaps every orphan
//! ([`children`]), carries connections to forwarded ports ([`forward`]) out and the daemon's ([`connect`]) in. It never starts a thread, because it forks.

mod child;
mod children;
mod connect;
mod exec;
mod failure;
mod files;
mod forward;
mod io;
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

use std::cell::RefCell;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::launch::AgentConfig;
use moat_agent::protocol::mux::{CONNECTS_MAX, FORWARDS_MAX, OpenReply};
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use self::children::Children;
use self::failure::Failure;
use self::main_process::{Main, Scratch};
use self::program::Confinement;
use self::spawned::Registry;
use self::termination::Termination;

/// One read from a pipe: what a pipe holds by default.
const SCRATCH_LEN: usize = 64 << 10;
/// After accepting failed: no descriptors are left, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the answer to a shutdown to leave; the daemon closes as soon as it has it.
const FAREWELL: Duration = Duration::from_millis(200);

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
    scratch: Scratch,
    /// How the current session opens streams to the daemon.
    opens: RefCell<Option<mpsc::Sender<OpenReply>>>,
    /// Counts readers of the main process's output; the last one stays.
    output_turn: watch::Sender<u64>,
    forwards: Arc<Semaphore>,
    /// Bounds what a program that neither reads nor closes can make the agent hold.
    connects: Semaphore,
    /// Why forwarded ports are not served; told when the main process is started.
    forwards_failure: RefCell<Option<Failure>>,
    quit: Notify,
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

fn serve(config: AgentConfig, listener: OwnedFd) -> Result<(), Failure> {
    let confinement = Rc::new(Confinement::new(&config)?);
    let (forwards, forwards_failure) = match forward::listen(&config.forward_ports) {
        Ok(listeners) => (listeners, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    privilege::lower(&config).map_err(|e| Failure::internal("give up privileges", &e.into()))?;
    let listener = StdUnixListener::from(listener);
    listener.set_nonblocking(true).map_err(|e| Failure::internal("listening socket", &e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal("event loop", &e))?;
    let null = main_process::dev_null()?;
    // Nothing here speaks to a terminal, and what was inherited belongs to the daemon's world.
    crate::sys::take_stdio([null.as_fd(), null.as_fd(), null.as_fd()])
        .map_err(|e| Failure::internal("standard streams", &e))?;
    drop(null);
    let agent = Rc::new(Agent {
        confinement,
        own_namespace: rustix::process::getpid().is_init(),
        children: Children::default(),
        main: Main::new(config.output_buffer_bytes),
        spawned: Registry::default(),
        scratch: RefCell::new(vec![0; SCRATCH_LEN]),
        opens: RefCell::new(None),
        output_turn: watch::Sender::new(0),
        forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
        connects: Semaphore::new(CONNECTS_MAX),
        forwards_failure: RefCell::new(forwards_failure),
        quit: Notify::new(),
        config,
    });
    LocalSet::new().block_on(&runtime, work(agent, listener, forwards))
}

async fn work(agent: Rc<Agent>, listener: StdUnixListener, forwards: Vec<StdTcpListener>) -> Result<(), Failure> {
    let listener = UnixListener::from_std(listener).map_err(|e| Failure::internal("listening socket", &e))?;
    let termination =
        Termination::listen(agent.own_namespace).map_err(|e| Failure::internal("termination signal", &e))?;
    for forward in forwards {
        spawn_local(forward::serve(agent.clone(), forward));
    }
    let mut session = None;
    let reaping = agent.children.run();
    let terminated = async {
        termination.asked().await;
        agent.children.kill_all(agent.own_namespace).await;
    };
    tokio::select! {
        ended = reaping => return ended.map_err(|e| Failure::internal("reap children", &e)),
        () = accept(&agent, &listener, &mut session) => {}
        () = agent.quit.notified() => {}
        () = terminated => {}
    }
    if let Some(session) = session {
        let _ = timeout(FAREWELL, session).await;
    }
    Ok(())
}

/// Serves whoever connects; the newest connection is the daemon's, an older one was forgotten by it.
async fn accept(agent: &Rc<Agent>, listener: &UnixListener, session: &mut Option<JoinHandle<()>>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                if let Some(old) = session.take() {
                    old.abort();
                    // Its execs are hung up on before anything of the new one happens.
                    let _ = old.await;
                }
                *session = Some(spawn_local(session::serve(agent.clone(), socket)));
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}
