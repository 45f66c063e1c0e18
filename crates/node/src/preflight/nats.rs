//! What a node needs of NATS.

use std::time::Duration;

use async_nats::jetstream;
use moat_engine::driver::{Need, Requirement};
use moat_model::NodeId;

use super::requirement;
use crate::config::NodeConfig;
use crate::nats::{Capabilities, Version, connect_once};

/// The oldest server known to work, with less.
const OLDEST: Version = Version { major: 2, minor: 9, patch: 0 };

/// Longest wait for the whole: a person is waiting.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn requirements(config: &NodeConfig) -> Vec<Requirement> {
    let servers = config.nats.servers.join(", ");
    let fix =
        "start a nats-server there, correct nats.servers and the credentials, or use `moat up`, which brings its own";
    let client = match tokio::time::timeout(PATIENCE, connect(config)).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            return vec![requirement("server", Need::Required, false, error.chain(), fix)];
        }
        Err(_) => {
            let fact = format!("no answer from {servers} within {} s", PATIENCE.as_secs());
            return vec![requirement("server", Need::Required, false, fact, fix)];
        }
    };
    let server = Capabilities::of(&client.server_info());
    let fact = format!("connected to {:?} at {servers}", server.server_name);
    vec![
        requirement("server", Need::Required, true, fact, ""),
        requirement(
            "version",
            Need::Required,
            server.version >= OLDEST,
            format!("nats-server {}", server.version),
            format!("install nats-server {OLDEST} or newer; 2.10 or newer for everything"),
        ),
        requirement(
            "modern JetStream",
            Need::Optional,
            server.modern_jetstream(),
            if server.jetstream { format!("JetStream of {}", server.version) } else { "no JetStream".to_owned() },
            "install nats-server 2.10 or newer: older ones drop newer stream settings in silence",
        ),
        jetstream_usable(&client).await,
    ]
}

async fn connect(config: &NodeConfig) -> crate::Result<async_nats::Client> {
    // Only a name in the server's list of connections; making the real identity would be a side effect.
    let nobody = format!("N{}", "A".repeat(55));
    let nobody =
        NodeId::parse(&nobody).map_err(|e| crate::Error::new(moat_model::ErrorKind::Internal, e.to_string()))?;
    connect_once(&config.nats, &nobody, "preflight").await
}

/// Programs come from an object store, so without JetStream nothing can be deployed.
async fn jetstream_usable(client: &async_nats::Client) -> Requirement {
    let fix = "start the server with JetStream (nats-server -js) and allow it for this account";
    let mut context = jetstream::new(client.clone());
    context.set_timeout(PATIENCE);
    // Asking for a stream that cannot exist tells whether the API answers, on 2.9 too, where its INFO cannot be read.
    match context.get_stream("MOAT_PREFLIGHT").await {
        Ok(_) => requirement("JetStream", Need::Required, true, "the API answers this account", fix),
        Err(error) => match error.kind() {
            jetstream::context::GetStreamErrorKind::JetStream(js)
                if js.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                requirement("JetStream", Need::Required, true, "the API answers this account", fix)
            }
            _ => requirement("JetStream", Need::Required, false, error.to_string(), fix),
        },
    }
}
