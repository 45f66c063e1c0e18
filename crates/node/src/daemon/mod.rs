//! The whole daemon: what starts in which order, and how it ends.
//!
//! ```text
//! lock of run_dir -> place of the network -> identity -> outbox, outlet -> drivers -> engine (recovers) -> workloads (recover)
//!   -> images, templates -> sandboxes, pools -> allocations (recover) -> jails (recover) -> NATS (in the background, for ever) -> publisher -> subscriptions, streams, metrics, REST -> node_started -> autostart, heartbeat
//! ```
//!
//! It ends in phases, each with a budget and a line in the log: no more requests; those taken are answered; workloads are
//! let go of (or stopped, if the operator said so); what is to be told is told; exit. A second call for shutdown does not
//! exist: whoever cannot wait kills the process, and nothing is lost by that either.

mod allocations;
mod drivers;
mod jails;
mod jobs;
mod machines;
mod services;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use moat_api::Subjects;
use moat_engine::pool::Pool;
use moat_engine::{Engine, EngineConfig, Registry};
use moat_model::{Isolation, NodeId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allocations::Allocations;
use crate::api_keys::ApiKeys;
use crate::artifact::ArtifactStore;
use crate::clock;
use crate::config::NodeConfig;
use crate::dirs::Dirs;
use crate::error::Result;
use crate::events::{Fact, Outbox};
use crate::guard::{NodeGuard, make_private};
use crate::http::{self, HttpServer};
use crate::identity::Identity;
use crate::jails::Jails;
use crate::jobs::Jobs;
use crate::logfile::Rotation;
use crate::metrics::{self, MetricsServer, NodeNumbers};
use crate::nats::{Connection, Intake, Once};
use crate::networks::{self, Networks};
use crate::outlet::{NodeOutlet, OutletConfig};
use crate::publish::{Publisher, PublisherConfig};
use crate::sandboxes::{self, Foundation, Sandboxes};
use crate::stream::reach::Reach;
use crate::stream::{self, Listener, StreamConfig};
use crate::templates::Templates;
use crate::verbs::{self, Service, VERSION};
use crate::workloads::ready::Ready;
use crate::workloads::record::{RecordJudge, RecordStore};
use crate::workloads::{self, Workloads};

pub use drivers::{Candidate, drivers, named as named_drivers};

/// Requests under way when the daemon ends: long enough for a deploy that is fetching.
const FINISH_BUDGET: Duration = Duration::from_secs(10);
/// A kernel boots before its agent answers. A machine that starts many at once needs seconds.
const BOOT: Duration = Duration::from_secs(30);
/// The same where every instruction is translated: four seconds on an idle machine, a minute on a loaded one.
const TRANSLATED_BOOT: Duration = Duration::from_secs(180);
/// Workloads that are stopped with the daemon: their own grace period and then some.
const STOP_BUDGET: Duration = Duration::from_secs(30);
/// Writing down that tasks are ended, and killing what did not end in time.
const KILL_BUDGET: Duration = Duration::from_secs(10);
/// Actors write what they have and let go.
const DETACH_BUDGET: Duration = Duration::from_secs(5);
/// Events and log lines on their way. What is not told in time is told by the next daemon.
const FLUSH_BUDGET: Duration = Duration::from_secs(3);

/// Runs a node until `shutdown` is cancelled.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> Result<()> {
    // The lock before the first side effect, and probing a driver is none.
    let guard = NodeGuard::take(&Dirs::new(&config.run_dir, &config.data_dir))?;
    let registry = drivers(&config)?;
    let (networks, fabric) = networks::open(&config).await?;
    let registry = match fabric {
        Some(fabric) => registry.with_fabric(fabric),
        None => registry,
    };
    let node = Node::start_guarded(config, registry, networks, guard).await?;
    shutdown.cancelled().await;
    node.shutdown().await;
    Ok(())
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    service: Arc<Service>,
    engine: Engine,
    templates: Templates,
    sandboxes: Sandboxes,
    allocations: Allocations,
    jails: Option<Jails>,
    keys: Arc<ApiKeys>,
    cluster: Jobs,
    intake: Intake,
    streams: Listener,
    reached: Listener,
    metrics: Option<MetricsServer>,
    http: Option<HttpServer>,
    ingress: Option<HttpServer>,
    publisher: Publisher,
    tasks: TaskTracker,
    /// Ends heartbeat and autostart.
    background: CancellationToken,
    /// Ends what tells, last of all.
    telling: CancellationToken,
    _guard: NodeGuard,
}

impl Node {
    /// Starts a node on these drivers. Returns when it listens; NATS need not be there yet.
    pub async fn start(config: NodeConfig, registry: Registry) -> Result<Self> {
        let place = networks::place::Place::candidate(&config.run_dir, &config.network.wanted, 0);
        let networks = Networks::off(networks::terms(&config, &place), "it was started without");
        Self::start_with(config, registry, networks).await
    }

    /// Starts a node on these drivers with this network, whose fabric the registry has.
    pub async fn start_with(config: NodeConfig, registry: Registry, networks: Networks) -> Result<Self> {
        let guard = NodeGuard::take(&Dirs::new(&config.run_dir, &config.data_dir))?;
        Self::start_guarded(config, registry, networks, guard).await
    }

    async fn start_guarded(
        mut config: NodeConfig,
        registry: Registry,
        networks: Networks,
        guard: NodeGuard,
    ) -> Result<Self> {
        drivers::prefer_machines(&mut config, &registry);
        let dirs = Dirs::new(&config.run_dir, &config.data_dir);
        make_private(dirs.data())?;
        for note in &config.notes {
            tracing::warn!("configuration: {note}");
        }
        let identity = Identity::load_or_create(&dirs.identity())?;
        let node = identity.id().clone();
        let subjects = Subjects::default();
        warn_if_unsafe(&config);

        let outbox = Outbox::open(&dirs.outbox(), subjects.clone()).await?;
        let outlet = open_outlet(&config, &dirs, outbox.clone()).await?;
        let isolation = services::isolation(&registry);
        let offered = jobs::offered(&registry, &config);
        let networks = Arc::new(networks);
        let engine_config = engine_config(&config, &registry);
        let (engine, found) = Engine::open(engine_config, registry, Arc::new(outlet.clone())).await?;
        let artifacts = ArtifactStore::open(&dirs.artifacts(), config.artifact_cache_bytes_max)?;
        let pool = Pool::open(engine.clone(), sandboxes::pool::config(&config.pool));
        let ready = Ready { pool, member: services::ready(&config, &networks, &engine) };
        let base = workloads::Foundation {
            node: node.clone(),
            engine: engine.clone(),
            outlet: outlet.clone(),
            artifacts: artifacts.clone(),
            restart: config.restart,
            limits: config.limits,
            ready: ready.clone(),
        };
        let workloads = Workloads::open(&dirs.workloads(), base, found.clone()).await?;
        let (started_at, lameduck) = (clock::now(), Arc::new(AtomicBool::new(false)));
        let keys = Arc::new(ApiKeys::open(&dirs.api_keys())?);
        let templates = services::templates(&config, &dirs, engine.clone())?;
        let foundation = Foundation {
            node: node.clone(),
            name: config.name.clone().unwrap_or_else(|| identity.nickname()),
            started_at,
            lameduck: Arc::clone(&lameduck),
            engine: engine.clone(),
            outlet: outlet.clone(),
            templates: templates.clone(),
            config: config.sandboxes.clone(),
            resources: sandboxes::limits::with_room(&config.resources),
            machine: config.machine_resources(),
            machines_dir: config.machines_dir(),
            sandboxes_max: config.sandboxes_max,
            isolation,
            process_allowed: config.unsafe_allowed(),
            pool: config.pool.clone(),
            ready,
            networks: Arc::clone(&networks),
            snapshot_dir: dirs.snapshots(),
            history_dir: dirs.history(),
        };
        let sandboxes = Sandboxes::open(foundation).await?;
        templates.go_on();
        let name = config.name.clone().unwrap_or_else(|| identity.nickname());
        let facts = jobs::facts(&node, &name, &config, offered, dirs.data()).await?;
        let fenced = jobs::is_fenced(&dirs);
        let parts = allocations::Parts {
            node: node.clone(),
            facts: facts.clone(),
            engine: engine.clone(),
            outlet: outlet.clone(),
            templates: templates.clone(),
            networks: Arc::clone(&networks),
            found,
            fenced,
        };
        let allocations = allocations::open(&config, &dirs, parts).await?;
        let parts = jails::Parts {
            node: node.clone(),
            engine: engine.clone(),
            outlet: outlet.clone(),
            templates: templates.clone(),
            networks: Arc::clone(&networks),
        };
        // Everything else runs without them.
        let jails = jails::open(&config, &dirs, parts)
            .await
            .inspect_err(|error| tracing::error!(error = %error.chain(), "this node has no jails"))
            .ok();

        let connection = Connection::open(&config.nats, &node).await?;
        let telling = CancellationToken::new();
        let publisher = Publisher::spawn(
            PublisherConfig {
                client: connection.client().clone(),
                dial: Arc::new(Once { config: config.nats.clone(), node: node.clone(), what: "logs" }),
                subjects: subjects.clone(),
                history: config.history,
            },
            outlet.clone(),
            outbox.clone(),
            telling.clone(),
        );
        let service = Arc::new(Service {
            config,
            identity,
            subjects: subjects.clone(),
            connection: connection.clone(),
            artifacts,
            workloads,
            outlet,
            outbox,
            networks,
            started_at,
            lameduck,
        });
        let intake = Intake::open(connection.client(), &subjects, &node, Arc::clone(&service)).await?;
        let streams = stream::serve(
            StreamConfig { client: connection.client().clone(), subjects: subjects.clone(), node: node.clone() },
            Arc::new(service.workloads.clone()),
            Arc::new(engine.clone()),
            service.outlet.clone(),
        )
        .await?;
        let metrics = match service.config.metrics_listen {
            Some(address) => Some(metrics::serve(address, metrics::install()?, numbers(&service, &engine)).await?),
            None => None,
        };
        let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
        let cluster = jobs::start(
            jobs::Ground { config: &service.config, dirs: &dirs, connection: &connection, facts, fenced },
            &allocations,
            (&tasks, background.clone()),
        );
        let reach = Reach::new(
            node.clone(),
            allocations.clone(),
            engine.clone(),
            connection.client().clone(),
            subjects.clone(),
        );
        let reached = stream::reach::serve(reach.clone()).await?;
        let services = http::Services {
            sandboxes: sandboxes.clone(),
            templates: templates.clone(),
            keys: Arc::clone(&keys),
            jails: jails.clone(),
            pages: Some(http::Pages { handle: metrics::install()?, scrape: numbers(&service, &engine) }),
            cluster: Some(http::Cluster { jobs: cluster.clone(), reach }),
            scratch: dirs.uploads(),
        };
        let ingress = services::ingress(&service.config, &dirs, &sandboxes).await?;
        let http = services::listen(&service.config.api, services).await?;
        tasks.spawn(beat(Arc::clone(&service), background.clone()));
        let autostart = verbs::autostart::run(Arc::clone(&service));
        let stop_autostart = background.clone();
        tasks.spawn(async move {
            stop_autostart.run_until_cancelled(autostart).await;
        });
        let started = Fact::node_started(&node, VERSION, service.tags(), service.started_at);
        service.outbox.emit(started).await?;
        tracing::info!(%node, xkey = %service.identity.xkey().public_key(), version = VERSION, "node is up");
        Ok(Self {
            service,
            engine,
            templates,
            sandboxes,
            allocations,
            jails,
            keys,
            cluster,
            intake,
            streams,
            reached,
            metrics,
            http,
            ingress,
            publisher,
            tasks,
            background,
            telling,
            _guard: guard,
        })
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        self.service.node()
    }

    /// The key environments are sealed to.
    pub fn xkey(&self) -> String {
        self.service.identity.xkey().public_key()
    }

    /// Its workloads.
    pub fn workloads(&self) -> &Workloads {
        &self.service.workloads
    }

    /// Its sandboxes of the API.
    pub fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    /// Instances of jobs that run here.
    pub fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// Its jails; none if they could not be taken up.
    pub fn jails(&self) -> Option<&Jails> {
        self.jails.as_ref()
    }

    /// Jobs of the cluster it takes part in.
    pub fn jobs(&self) -> &Jobs {
        &self.cluster
    }

    /// Its templates and images.
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// Who may use the API.
    pub fn keys(&self) -> &Arc<ApiKeys> {
        &self.keys
    }

    /// Where its API listens.
    pub fn api(&self) -> &[std::net::SocketAddr] {
        self.http.as_ref().map_or(&[], |http| &http.addresses)
    }

    /// Where the ports of its sandboxes are served.
    pub fn ingress(&self) -> &[std::net::SocketAddr] {
        self.ingress.as_ref().map_or(&[], |ingress| &ingress.addresses)
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.service.connection
    }

    /// Ends the node in order. Workloads live on unless the configuration says otherwise.
    pub async fn shutdown(self) {
        let service = self.service;
        if let Some(drain) = service.config.jobs.drain_on_shutdown {
            tracing::info!("shutting down: this node is emptied first");
            crate::jobs::drain_before_end(&self.cluster, service.node(), drain).await;
        }
        tracing::info!("shutting down: no more requests are taken");
        self.background.cancel();
        self.intake.close().await;
        within("answer the requests under way", FINISH_BUDGET, self.intake.finished()).await;
        within("hang up the exec sessions", DETACH_BUDGET, self.streams.close()).await;
        within("hang up what other nodes ask of allocations", DETACH_BUDGET, self.reached.close()).await;
        if let Some(http) = self.http {
            within("answer the requests of the API", FINISH_BUDGET, http.close()).await;
        }
        if let Some(ingress) = self.ingress {
            within("answer the requests to ports of sandboxes", FINISH_BUDGET, ingress.close()).await;
        }
        if let Some(metrics) = self.metrics {
            within("end the metrics server", DETACH_BUDGET, metrics.close()).await;
        }
        if service.config.stop_workloads {
            tracing::info!("shutting down: stopping the workloads");
            let jails = async {
                if let Some(jails) = &self.jails {
                    within("stop the jails", STOP_BUDGET, jails.stop_all()).await;
                }
            };
            let tasks = self.allocations.stop_all(STOP_BUDGET);
            // Beside each other: whoever waits for the daemon's end, as systemd does, does not wait for the sum of them.
            tokio::join!(
                service.workloads.stop_all(STOP_BUDGET),
                within("end the tasks of jobs", STOP_BUDGET + KILL_BUDGET, tasks),
                jails,
                within("end the sandboxes", STOP_BUDGET, self.sandboxes.end_all()),
            );
        }
        tracing::info!(left_running = service.workloads.live().len(), "shutting down: letting go of the workloads");
        within("let go of the workloads", DETACH_BUDGET, service.workloads.detach()).await;
        within("let go of the allocations", DETACH_BUDGET, self.allocations.detach()).await;
        if let Some(jails) = &self.jails {
            within("let go of the jails", DETACH_BUDGET, jails.close()).await;
        }
        within("end the warm-ups", DETACH_BUDGET, self.templates.close()).await;
        within("let go of the sandboxes of the API", DETACH_BUDGET, self.sandboxes.close()).await;
        let left = self.engine.list().len();
        within("let go of the sandboxes", DETACH_BUDGET, self.engine.detach()).await;
        // A node whose sandboxes go on leaves them what they stand on.
        if let Some(wires) = service.networks.wires().filter(|_| left == 0) {
            within("take the network away", DETACH_BUDGET, async {
                if let Err(error) = wires.stop().await {
                    tracing::warn!(error = %error.chain(), "something of the network is left until the next start");
                }
            })
            .await;
        }
        drivers::leave_groups(&service.config);
        self.tasks.close();
        within("end the background tasks", DETACH_BUDGET, self.tasks.wait()).await;
        if let Err(error) = service.outbox.emit(Fact::node_stopped(service.node(), clock::now())).await {
            tracing::warn!(error = %error.chain(), "the end of this node is not told");
        }
        tracing::info!("shutting down: telling what is to be told");
        let (events, lines) = tokio::join!(service.outbox.flush(FLUSH_BUDGET), self.publisher.drain(FLUSH_BUDGET));
        if !(events && lines) {
            tracing::warn!(events, lines, "not everything is told; the next daemon goes on with it");
        }
        self.telling.cancel();
        within("end the publisher", DETACH_BUDGET, self.publisher.join()).await;
        within("flush the connection", FLUSH_BUDGET, async {
            if let Err(error) = service.connection.client().flush().await {
                tracing::debug!(%error, "flush");
            }
        })
        .await;
        tracing::info!("node is down");
    }
}

async fn within(doing: &str, budget: Duration, work: impl Future<Output = ()>) {
    if tokio::time::timeout(budget, work).await.is_err() {
        tracing::warn!(budget_secs = budget.as_secs(), "shutting down: gave up to {doing}");
    }
}

fn numbers(service: &Service, engine: &Engine) -> Arc<NodeNumbers> {
    let (workloads, outlet) = (service.workloads.clone(), service.outlet.clone());
    Arc::new(NodeNumbers::new(engine.clone(), workloads, outlet, service.outbox.clone(), service.connection.clone()))
}

async fn open_outlet(config: &NodeConfig, dirs: &Dirs, outbox: Outbox) -> Result<NodeOutlet> {
    let rotation = Rotation { files_max: config.logs.files_max, file_bytes_max: config.logs.file_bytes_max };
    let outlet_config = OutletConfig { rotation, ..OutletConfig::new(dirs.logs(), dirs.bindings()) };
    let outlet = NodeOutlet::open(outlet_config, outbox).await?;
    let store = RecordStore::open(&dirs.workloads())?;
    outlet.set_judge(Arc::new(RecordJudge { store, policy: config.restart }));
    Ok(outlet)
}

fn engine_config(config: &NodeConfig, registry: &Registry) -> EngineConfig {
    let mut engine = EngineConfig::new(&config.run_dir, &config.data_dir);
    engine.uid_base = config.uid_base;
    engine.sandboxes_max = config.sandboxes_max;
    if let Ok(offer) = registry.offer(Isolation::Microvm) {
        engine.deadlines.agent = if offer.accelerator == Some("tcg") { TRANSLATED_BOOT } else { BOOT };
    }
    if let Some(timeout) = config.agent_start_timeout {
        engine.deadlines.agent = timeout;
    }
    engine
}

/// Nex warns twice; once so that nobody can miss it is enough.
fn warn_if_unsafe(config: &NodeConfig) {
    if !config.unsafe_allowed() {
        return;
    }
    let rule = "*".repeat(76);
    tracing::warn!("{rule}");
    tracing::warn!("* WORKLOADS MAY RUN ON THIS NODE WITHOUT A SANDBOX, AS THE DAEMON'S OWN USER.");
    if config.sandboxed() {
        tracing::warn!("* They do when whoever deploys them asks for isolation \"process\".");
    } else {
        tracing::warn!("* They do unless whoever deploys them asks for more. Not for untrusted programs.");
    }
    tracing::warn!("{rule}");
}

/// Says that the node lives. The first at once, so that who watches sees it come.
async fn beat(service: Arc<Service>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(service.config.heartbeat_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let running = u64::try_from(service.workloads.live().len()).unwrap_or(u64::MAX);
        let times = (service.started_at, clock::now());
        let nexus = Some(service.config.nexus.clone());
        let fact = Fact::heartbeat(service.node(), VERSION, nexus, times, service.tags(), running);
        if let Err(error) = service.outbox.emit(fact).await {
            tracing::warn!(error = %error.chain(), "heartbeat");
        }
    }
}
