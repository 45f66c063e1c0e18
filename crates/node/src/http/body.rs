//! Bodies, queries and paths, read strictly.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use futures::StreamExt;
use moat_model::{ErrorKind, JobId, SandboxId};
use serde::de::DeserializeOwned;

use super::answer::{Answer, Failure};

/// Largest JSON body; the text for a standard input is in it.
pub(super) const JSON_BYTES_MAX: usize = 2 << 20;
/// A client that sends or takes nothing for so long is gone.
pub(super) const PROGRESS_MAX: Duration = Duration::from_secs(60);

/// A JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub T);

/// A JSON body whose members are all optional: none, `{}` and `null` say the same.
#[derive(Debug)]
pub(super) struct OrNothing<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let bytes = json_bytes(request).await?;
        if bytes.is_empty() {
            return Err(Failure::new(ErrorKind::InvalidSpec, "the body is empty: a JSON object is needed"));
        }
        Ok(Self(parse(&bytes)?))
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for OrNothing<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let bytes = json_bytes(request).await?;
        let asked = if bytes.is_empty() { None } else { parse::<Option<T>>(&bytes)? };
        Ok(Self(asked.unwrap_or_default()))
    }
}

async fn json_bytes(request: Request) -> Answer<Bytes> {
    let (parts, body) = request.into_parts();
    let bytes = read(body, JSON_BYTES_MAX).await?;
    if !bytes.is_empty() && !is_json(&parts.headers) {
        return Err(Failure::new(ErrorKind::InvalidSpec, "Content-Type: application/json is needed")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read(body: Body, limit: usize) -> Answer<Bytes> {
    let mut pieces = body.into_data_stream();
    let mut all = BytesMut::new();
    while let Some(piece) = next_piece(&mut pieces).await? {
        if all.len() + piece.len() > limit {
            return Err(Failure::new(ErrorKind::InvalidSpec, format!("the body is larger than {limit} bytes"))
                .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The next bytes of a body; bounded by progress, not by time.
pub(super) async fn next_piece(pieces: &mut axum::body::BodyDataStream) -> Answer<Option<Bytes>> {
    let late = |_| {
        Failure::new(ErrorKind::Deadline, format!("no byte of the body for {} s", PROGRESS_MAX.as_secs()))
            .with_status(StatusCode::REQUEST_TIMEOUT)
    };
    let broken = |error| Failure::new(ErrorKind::InvalidSpec, format!("the body broke off: {error}"));
    tokio::time::timeout(PROGRESS_MAX, pieces.next()).await.map_err(late)?.transpose().map_err(broken)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, why) = (error.path().to_string(), error.into_inner());
        // What stands where a member's name should is called `?`: what is wrong is what it stands in.
        match path.trim_end_matches('?').trim_end_matches('.') {
            "" => Failure::new(ErrorKind::InvalidSpec, format!("body: {why}")),
            field => Failure::invalid(field, why),
        }
    })?;
    reader.end().map_err(|error| Failure::new(ErrorKind::InvalidSpec, format!("body: {error}")))?;
    Ok(value)
}

/// The query of a request; members that are not known are refused.
#[derive(Debug)]
pub(super) struct Asked<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let Query(asked) =
            Query::try_from_uri(&parts.uri).map_err(|error| Failure::invalid("query", error.body_text()))?;
        Ok(Self(asked))
    }
}

/// `{id}` of a sandbox. What cannot be one is not found, like one that is not there.
#[derive(Debug)]
pub(super) struct SandboxPath(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for SandboxPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let id = part(parts, state, "id").await?;
        SandboxId::parse(&id).map(Self).map_err(|_| Failure::not_found("no such sandbox"))
    }
}

/// `{id}` and `{pid}`.
#[derive(Debug)]
pub(super) struct ProcessPath(pub SandboxId, pub u32);

impl<S: Send + Sync> FromRequestParts<S> for ProcessPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let SandboxPath(id) = SandboxPath::from_request_parts(parts, state).await?;
        let pid = part(parts, state, "pid").await?;
        pid.parse().map(|pid| Self(id, pid)).map_err(|_| Failure::not_found("no such process"))
    }
}

/// `{id}` of a job. What cannot be one is not found, like one that is not there.
#[derive(Debug)]
pub(super) struct JobPath(pub JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let id = part(parts, state, "id").await?;
        JobId::parse(&id).map(Self).map_err(|_| Failure::not_found("no such job"))
    }
}

/// `{id}`, or the beginning of one: looked up where it is known.
#[derive(Debug)]
pub(super) struct IdText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for IdText {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        part(parts, state, "id").await.map(Self)
    }
}

/// `{name}`, whatever it holds.
#[derive(Debug)]
pub(super) struct NamePath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        part(parts, state, "name").await.map(Self)
    }
}

/// One part of a path.
pub(super) async fn part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Answer<String> {
    let params = RawPathParams::from_request_parts(parts, state).await;
    let params = params.map_err(|_| Failure::not_found("no such path"))?;
    let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| Failure::bug(format!("a route without {{{name}}}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_by_where_it_stands() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Asked {
            env: BTreeMap<String, u8>,
        }
        for (text, named) in [
            ("{{{", "body: key must be a string"),
            ("7", "body: invalid type"),
            ("", "body: EOF"),
            (r#"{"env": {}} x"#, "body: trailing characters"),
            (r#"{"env": {7: 1}}"#, "env: key must be a string"),
            (r#"{"env": {"a": "b"}}"#, "env.a: invalid type"),
        ] {
            let refusal = format!("{:?}", parse::<Asked>(text.as_bytes()).unwrap_err());
            assert!(refusal.contains(named), "{text}: {refusal}");
        }
    }
}
