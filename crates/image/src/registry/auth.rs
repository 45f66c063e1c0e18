//! From a challenge to an `Authorization` header.

use data_encoding::BASE64;
use moat_model::ErrorKind;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::credentials::{Credentials, Found};
use super::endpoint::{self, Endpoint};
use super::retry::Failure;
use crate::error::Error;

/// Longest answer of a token server. Tokens of big organisations are some 10 KB.
const ANSWER_MAX: u64 = 256 << 10;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What to send with the next request.
pub(super) async fn answer(
    endpoint: &Endpoint,
    challenge: Option<Challenge>,
    found: &Found,
) -> Result<HeaderValue, Failure> {
    let Some(challenge) = challenge else {
        let host = &endpoint.host;
        return Err(denied(format!("{host} refuses us without saying what it wants")));
    };
    match (challenge, &found.credentials) {
        (_, Some(Credentials::Token(token))) => header(format!("Bearer {}", token.0)),
        (Challenge::Basic, Some(Credentials::Basic { user, password })) => basic(user, &password.0),
        (Challenge::Basic, _) => {
            Err(denied(format!("{} wants a user name and a password; {}", endpoint.host, found.origin)))
        }
        (Challenge::Bearer { realm, service, scope }, credentials) => {
            token(endpoint, &realm, service, scope, credentials.as_ref(), found).await
        }
    }
}

fn denied(text: String) -> Failure {
    Failure::last(Error::new(ErrorKind::Denied, text))
}

fn header(text: String) -> Result<HeaderValue, Failure> {
    let mut value =
        HeaderValue::try_from(text).map_err(|_| denied("the credentials have bytes no header takes".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Failure> {
    header(format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())))
}

/// Asks the token server that the registry named.
async fn token(
    endpoint: &Endpoint,
    realm: &str,
    service: Option<String>,
    scope: Option<String>,
    credentials: Option<&Credentials>,
    found: &Found,
) -> Result<HeaderValue, Failure> {
    let mut url = Url::parse(realm).map_err(|_| denied(format!("{}: its token server has no URL", endpoint.host)))?;
    // Credentials go there: never in plain text further than the registry itself is spoken to.
    if !(url.scheme() == "https" || url.scheme() == "http" && endpoint.is_plain() && endpoint.may_be_plain(&url)) {
        return Err(denied(format!("{}: its token server {} is not HTTPS", endpoint.host, origin_of(&url))));
    }
    let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", endpoint.repository));
    let request = if let Some(Credentials::Identity(token)) = credentials {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", "moat").append_pair("scope", &scope);
        form.append_pair("refresh_token", &token.0);
        form.append_pair("service", service.as_deref().unwrap_or_default());
        let kind = "application/x-www-form-urlencoded";
        endpoint.client.post(url.clone()).header("content-type", kind).body(form.finish())
    } else {
        if let Some(service) = &service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        match credentials {
            Some(Credentials::Basic { user, password }) => {
                url.query_pairs_mut().append_pair("account", user);
                endpoint.client.get(url.clone()).header("authorization", basic(user, &password.0)?)
            }
            _ => endpoint.client.get(url.clone()),
        }
    };
    let what = format!("get a token for {} from {}", endpoint.repository, origin_of(&url));
    let response = endpoint.send(request, &what).await?;
    let status = response.status();
    if status.as_u16() == 401 || status.as_u16() == 403 {
        let why = match credentials {
            Some(_) => format!("the credentials from {} are not accepted", found.origin),
            None => format!("it wants credentials; {}", found.origin),
        };
        return Err(denied(format!("{what}: {why}")));
    }
    if !status.is_success() {
        return Err(endpoint::refused(response, &what, endpoint.patience).await);
    }
    let body = endpoint::body(response, ANSWER_MAX, &what, endpoint.patience).await?;
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| denied(format!("{what}: the answer has no token")))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    header(format!("Bearer {}", token.ok_or_else(|| denied(format!("{what}: the answer has no token")))?))
}

/// Without path and query, which may carry what nobody should read.
fn origin_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}
