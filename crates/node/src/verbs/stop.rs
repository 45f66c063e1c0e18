//! STOP: only whoever started a workload may end it, and only with claims made for the purpose.

use std::time::Duration;

use moat_api::WireError;
use moat_api::nex::{StopRequest, StopResponse};
use moat_model::claims::{self, Claims};
use moat_model::{ErrorKind, Namespace, WorkloadId};

use super::{Service, wire};
use crate::clock;
use crate::workloads::StartClaims;

/// Clients of Nex wait 2 s. What takes longer to end is answered before it has: the stop is written down and irrevocable.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

impl Service {
    pub(super) async fn stop(&self, subject: &str, payload: &[u8]) -> Result<StopResponse, WireError> {
        let namespace = self.namespace(subject)?;
        let request: StopRequest = serde_json::from_slice(payload)
            .map_err(|e| WireError::invalid(format!("the request is not JSON as STOP wants it: {e}")))?;
        let snapshot = WorkloadId::parse(&request.workload_id)
            .ok()
            .and_then(|id| self.workloads.get(&id))
            .filter(|s| !s.view.ended())
            .ok_or_else(|| no_such(&request.workload_id))?;
        let claims = claims::decode_and_verify(&request.workload_jwt, clock::now())
            .map_err(|e| WireError::new(ErrorKind::Denied, format!("workload_jwt: {e}")))?;
        may_stop(&claims, &snapshot.claims, (&namespace, &snapshot.view.namespace), &request.workload_id)?;
        let view = &snapshot.view;
        self.workloads.stop(&view.id, None).await.map_err(|e| wire(&e))?;
        if self.workloads.ended(&view.id, ANSWER_WITHIN).await.is_none() {
            tracing::info!(workload = %view.id, "stop answered before its end: it uses its grace period");
        }
        Ok(StopResponse { stopped: true, id: view.id.to_string(), issuer: claims.issuer, name: view.name.to_string() })
    }
}

/// The same text whatever is wrong, so that nobody learns what runs in another namespace.
fn no_such(id: &str) -> WireError {
    let shown: String = id.chars().take(40).collect();
    WireError::new(ErrorKind::NotFound, format!("No such workload {shown:?}"))
}

/// Holds the claims of a stop against those of the start.
fn may_stop(
    stop: &Claims,
    start: &StartClaims,
    (asked, own): (&Namespace, &Namespace),
    id: &str,
) -> Result<(), WireError> {
    let denied = |why: &str| Err(WireError::new(ErrorKind::Denied, format!("workload_jwt: {why}")));
    if stop.id == start.jti {
        return denied("these are the claims it was started with; sign new ones to stop it");
    }
    if stop.issued_at == start.issued_at {
        return denied("issued in the same second as the claims it was started with; sign new ones a second later");
    }
    // A token older than the start was made to stop an earlier workload of the same name.
    if stop.issued_at < start.issued_at {
        return denied(
            "issued before the claims it was started with: it was meant for an earlier workload of this name",
        );
    }
    if stop.subject != start.subject {
        return denied("its subject is not the name of this workload");
    }
    if stop.issuer != start.issuer {
        return denied("its issuer did not start this workload");
    }
    if asked != own {
        return Err(no_such(id));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::WorkloadName;
    use std::collections::BTreeMap;

    fn start() -> StartClaims {
        StartClaims {
            issuer: "A1".to_owned(),
            subject: WorkloadName::parse("echo").unwrap(),
            jti: "J1".to_owned(),
            issued_at: 100,
        }
    }

    fn stop() -> Claims {
        Claims {
            subject: WorkloadName::parse("echo").unwrap(),
            issuer: "A1".to_owned(),
            issued_at: 101,
            id: "J2".to_owned(),
            hash: None,
            expires: None,
            not_before: None,
            extra: BTreeMap::new(),
        }
    }

    fn verdict(stop: &Claims, namespace: &str) -> Result<(), String> {
        let (asked, own) = (Namespace::parse(namespace).unwrap(), Namespace::default_namespace());
        may_stop(stop, &start(), (&asked, &own), "id").map_err(|e| e.message)
    }

    #[test]
    fn only_new_claims_of_the_starter_stop() {
        assert_eq!(verdict(&stop(), "default"), Ok(()));
        for (claims, expected) in [
            (Claims { id: "J1".to_owned(), ..stop() }, "started with; sign new ones to stop"),
            (Claims { issued_at: 100, ..stop() }, "same second"),
            (Claims { issued_at: 99, ..stop() }, "earlier workload"),
            (Claims { subject: WorkloadName::parse("other").unwrap(), ..stop() }, "subject"),
            (Claims { issuer: "A2".to_owned(), ..stop() }, "issuer"),
        ] {
            let message = verdict(&claims, "default").unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn another_namespace_learns_nothing() {
        assert_eq!(verdict(&stop(), "other").unwrap_err(), no_such("id").message);
        // Exact here, although INFO and WPING compare without regard to case.
        assert_eq!(verdict(&stop(), "Default").unwrap_err(), no_such("id").message);
    }
}
