//! Workloads started with the node, in order, signed with the node's own key.
//!
//! They bypass the issuer list and, unlike in Nex, get their environment. Their issuer is the node itself, so the holder of
//! the node's seed can stop them over NATS and nobody else can. One that still runs from before is not started again; one
//! that ended is. One that cannot start is reported and does not keep the others, or the node, from starting.

use std::sync::Arc;
use std::time::Duration;

use moat_api::nex::Location;
use moat_api::nex::deploy::Extension;
use moat_model::ErrorKind;
use moat_model::claims::{self, ClaimsSpec};

use super::Service;
use super::deploy::{Admitted, start_claims};
use crate::clock;
use crate::config::AutostartConfig;

/// A store that is not there yet is asked again; the connection comes back by itself and so does JetStream.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Starts what is configured. Waits for NATS as long as it takes: programs come from there.
pub async fn run(service: Arc<Service>) {
    if service.config.autostart.is_empty() || service.connection.up().await.is_none() {
        return;
    }
    for entry in service.config.autostart.clone() {
        let runs = service
            .workloads
            .live()
            .iter()
            .any(|s| s.autostart && s.view.name == entry.name && s.view.namespace == entry.namespace);
        if runs {
            tracing::info!(name = %entry.name, "autostart: runs already");
            continue;
        }
        start(&service, &entry).await;
    }
}

async fn start(service: &Service, entry: &AutostartConfig) {
    loop {
        let outcome = match admitted(service, entry) {
            Ok(admitted) => match service.workloads.reserve() {
                Ok(slot) => service.start(slot, admitted).await,
                Err(error) => Err(super::wire(&error)),
            },
            Err(error) => Err(error),
        };
        match outcome {
            Ok(snapshot) => {
                tracing::info!(name = %entry.name, workload = %snapshot.view.id, "autostart: runs");
                return;
            }
            Err(error) if error.kind == ErrorKind::Unavailable => {
                tracing::warn!(name = %entry.name, error = %error.message, "autostart: trying again");
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(error) => {
                tracing::error!(name = %entry.name, error = %error.message, "autostart: not started");
                return;
            }
        }
    }
}

fn admitted(service: &Service, entry: &AutostartConfig) -> Result<Admitted, moat_api::WireError> {
    let internal = |e: &dyn std::fmt::Display| moat_api::WireError::new(ErrorKind::Internal, e.to_string());
    let now = clock::now();
    let token =
        claims::sign(service.identity.nkey(), &ClaimsSpec::new(entry.name.clone(), now)).map_err(|e| internal(&e))?;
    let claims = claims::decode_and_verify(&token, now).map_err(|e| internal(&e))?;
    let (bucket, key) = &entry.location;
    Ok(Admitted {
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
        claims: start_claims(claims),
        sha256: None,
        environment: entry.environment.iter().map(|(k, v)| (k.clone(), v.reveal().to_owned())).collect(),
        argv: entry.argv.clone(),
        description: entry.description.clone(),
        essential: entry.essential,
        autostart: true,
        workload_type: entry.workload_type.clone(),
        location: Location::new("nats", bucket, key)?,
        jsdomain: entry.jsdomain.clone(),
        extension: Extension { ..entry.moat.clone().unwrap_or_default() },
    })
}
