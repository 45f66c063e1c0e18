//! Who may enter a workload or hold it up: whoever started it, with claims made for this one request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use moat_api::WireError;
use moat_api::sandbox::CLAIMS_LIFE_MAX;
use moat_model::claims::{self, Claims};
use moat_model::{ErrorKind, Timestamp};

use crate::workloads::StartClaims;

/// Ids of claims remembered. Each is for at most a minute: more than 150 requests a second are refused, not let through
/// unseen.
const SEEN_MAX: usize = 10_000;

/// Remembers which claims were used until they expire.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Id of claims, and the second they expire.
    seen: Mutex<HashMap<String, i64>>,
}

impl Guard {
    /// Lets a request with these claims through, once.
    pub(super) fn admit(&self, token: &str, start: &StartClaims, now: Timestamp) -> Result<(), WireError> {
        let claims = claims::decode_and_verify(token, now).map_err(|e| denied(&e.to_string()))?;
        let expires = may(&claims, start, now)?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains_key(&claims.id) {
            return Err(denied("used before; sign new ones for each request"));
        }
        if seen.len() >= SEEN_MAX {
            seen.retain(|_, expires| *expires >= now.as_secs());
        }
        if seen.len() >= SEEN_MAX {
            return Err(WireError::new(ErrorKind::Exhausted, "too many requests with claims in the last minute"));
        }
        seen.insert(claims.id, expires);
        Ok(())
    }
}

/// Holds claims against those of the start. Returns when they expire.
fn may(claims: &Claims, start: &StartClaims, now: Timestamp) -> Result<i64, WireError> {
    let Some(expires) = claims.expires else {
        return Err(denied("without an expiry; sign them with one at most 60 s away"));
    };
    let life = i64::try_from(CLAIMS_LIFE_MAX.as_secs()).unwrap_or(i64::MAX);
    if expires.saturating_sub(now.as_secs()) > life {
        return Err(denied("valid for too long; sign them with an expiry at most 60 s away"));
    }
    if claims.id == start.jti {
        return Err(denied("these are the claims it was started with"));
    }
    if claims.subject != start.subject {
        return Err(denied("their subject is not the name of this workload"));
    }
    if claims.issuer != start.issuer {
        return Err(denied("their issuer did not start this workload"));
    }
    Ok(expires)
}

fn denied(why: &str) -> WireError {
    WireError::new(ErrorKind::Denied, format!("claims: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::WorkloadName;
    use moat_model::claims::ClaimsSpec;
    use nkeys::KeyPair;

    fn name(text: &str) -> WorkloadName {
        WorkloadName::parse(text).unwrap()
    }

    fn token(issuer: &KeyPair, subject: &str, now: Timestamp, life: Option<i64>) -> String {
        let mut spec = ClaimsSpec::new(name(subject), now);
        spec.expires = life.map(|life| now.as_secs() + life);
        spec.nonce = Some(format!("{subject}{life:?}"));
        claims::sign(issuer, &spec).unwrap()
    }

    #[test]
    fn only_the_starter_enters_and_each_token_once() {
        let (now, issuer, other) =
            (Timestamp::from_millis(1_720_000_000_000), KeyPair::new_account(), KeyPair::new_account());
        let start =
            StartClaims { issuer: issuer.public_key(), subject: name("app"), jti: "J".to_owned(), issued_at: 1 };
        let guard = Guard::default();
        let good = token(&issuer, "app", now, Some(30));
        assert_eq!(guard.admit(&good, &start, now), Ok(()));
        let refused = |token: &str, why: &str| {
            let error = guard.admit(token, &start, now).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied);
            assert!(error.message.contains(why), "{why}: {}", error.message);
        };
        refused(&good, "used before");
        refused(&token(&issuer, "app", now, None), "without an expiry");
        refused(&token(&issuer, "app", now, Some(3600)), "too long");
        refused(&token(&issuer, "app", now, Some(-1)), "claims:");
        refused(&token(&issuer, "web", now, Some(30)), "not the name");
        refused(&token(&other, "app", now, Some(30)), "did not start");
        refused("nonsense", "claims:");
    }
}
