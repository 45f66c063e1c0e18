//! What is asked of the first process of a machine, by the driver that brings the machine up.

use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::machine::{GuestSetup, Renewal, Renewed};
use moat_agent::protocol::{Hello, PROTOCOL_VERSION, Reply, Request};
use moat_model::ErrorKind;
use moat_model::spec::Forward;
use tokio::time::{Instant, sleep};

use super::{AgentGuest, Endpoint, PAUSE, REPLY_DEADLINE, TRANSFERS_MAX, at_once, files, within};
use crate::error::{Error, Result};
use crate::guest::{BytesOut, Guest as _};

/// Mounting disks, and trying the network.
const SETUP_DEADLINE: Duration = Duration::from_secs(60);
/// Stopping everything, and writing what is cached to a slow disk.
const QUIESCE_DEADLINE: Duration = Duration::from_secs(60);
/// What a renewal does is all in memory.
const RENEW_DEADLINE: Duration = Duration::from_secs(30);

impl AgentGuest {
    /// Connects to an agent whose machine may have to boot first: waits for its first answer this long.
    pub async fn connect_within(
        endpoint: Arc<dyn Endpoint>,
        forwards: Vec<Forward>,
        deadline: Duration,
    ) -> Result<Arc<Self>> {
        let guest = Self::unconnected(endpoint, forwards);
        let until = Instant::now() + deadline;
        let hello = loop {
            match guest.hello().await {
                Ok(hello) => break hello,
                // Nobody answered yet, or a machine that is only booting dropped the line.
                Err(error)
                    if matches!(error.kind, ErrorKind::Deadline | ErrorKind::Unavailable)
                        && Instant::now() < until
                        && !guest.opens.is_closed() =>
                {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(guest.why_unreachable(error).await),
            }
        };
        speaks_ours(&hello)?;
        Ok(guest)
    }

    /// That it is gone says more than that it does not answer.
    async fn why_unreachable(&self, error: Error) -> Error {
        if self.opens.is_closed() {
            return Error::new(ErrorKind::Guest, self.endpoint.gone().await);
        }
        error
    }

    /// Makes the machine what it is to be. Once; before it, the agent only greets.
    pub async fn setup(&self, setup: &GuestSetup) -> Result<()> {
        const DOING: &str = "set the machine up";
        self.done(&Request::Setup { setup: Box::new(setup.clone()) }, DOING, SETUP_DEADLINE).await
    }

    /// Stops everything of the user and writes what is cached: the machine is about to be kept.
    pub async fn quiesce(&self) -> Result<()> {
        self.done(&Request::Quiesce, "quiesce the machine", QUIESCE_DEADLINE).await
    }

    /// Tells a machine that was kept what it is now. The proof is for the caller to check; nothing of the user runs until
    /// [`proceed`](Self::proceed).
    pub async fn renew(&self, renewal: &Renewal) -> Result<Renewed> {
        const DOING: &str = "renew the machine";
        let request = Request::Renew { renewal: Box::new(renewal.clone()) };
        match self.call(&request, DOING, RENEW_DEADLINE).await? {
            Reply::Renewed(renewed) => Ok(renewed),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    /// Lets everything of the user go on: the proof was good.
    pub async fn proceed(&self) -> Result<()> {
        self.done(&Request::Proceed, "let the machine go on", REPLY_DEADLINE).await
    }

    /// Everything changed above the layers of the root, as a tar archive of an OCI layer.
    pub async fn changes(&self) -> Result<BytesOut> {
        let permit = at_once(&self.transfers, TRANSFERS_MAX, "files are already being read or written")?;
        const DOING: &str = "read what changed in the machine";
        within(REPLY_DEADLINE, DOING, async {
            let mut opened = self.request(permit, &Request::Changes, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Content => Ok(files::pull(opened, self.broken.clone())),
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }

    async fn done(&self, request: &Request, doing: &str, deadline: Duration) -> Result<()> {
        match self.call(request, doing, deadline).await? {
            Reply::Done => Ok(()),
            _ => Err(self.wrong_reply(doing)),
        }
    }
}

/// Whether an agent speaks as this daemon does.
pub(super) fn speaks_ours(hello: &Hello) -> Result<()> {
    if hello.protocol == PROTOCOL_VERSION {
        return Ok(());
    }
    let versions = format!("agent speaks protocol {}, this daemon {PROTOCOL_VERSION}", hello.protocol);
    Err(Error::new(ErrorKind::Unsupported, versions))
}
