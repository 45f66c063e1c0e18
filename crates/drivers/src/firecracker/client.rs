//! One request to a monitor: over its socket in the jail, with bounds on time and length.
//!
//! The monitor answers one request at a time and is told nothing beside another: the engine calls for one sandbox one after the
//! other. Each request has a connection of its own, so that one that was given up leaves nothing behind.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use moat_engine::error::Error;
use moat_model::ErrorKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::api::Fault;
use super::jail::Jail;

/// Anything that is done at once; a machine with much to do may take longer over it.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Loading a kernel, or mapping a memory: both are read from disk.
pub const START_WITHIN: Duration = Duration::from_secs(60);
/// Writing all of a machine's memory to disk: 64 GiB at 100 MB/s.
pub const SNAPSHOT_WITHIN: Duration = Duration::from_secs(660);
/// Longest answer: a description of a whole machine is a tenth of it.
const BODY_LEN_MAX: usize = 64 << 10;
/// Longest message of a refusal that is told.
const FAULT_LEN_MAX: usize = 1024;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The monitor could not be reached, or hung up.
    #[error("the monitor does not answer: {0}")]
    Gone(#[source] io::Error),
    /// It took too long.
    #[error("no answer within {0} s")]
    Deadline(u64),
    /// It refused.
    #[error("{status}: {message}")]
    Refused {
        /// What kind of refusal.
        status: u16,
        /// In its words.
        message: String,
    },
    /// It said something else than its interface has.
    #[error("the answer makes no sense: {0}")]
    Nonsense(String),
}

impl ApiError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Gone(_) => ErrorKind::Guest,
            Self::Deadline(_) => ErrorKind::Deadline,
            Self::Refused { .. } | Self::Nonsense(_) => ErrorKind::Internal,
        }
    }
}

/// The interface of one monitor.
#[derive(Debug)]
pub struct Client<'a> {
    jail: &'a Jail,
}

impl<'a> Client<'a> {
    /// Of the monitor in this jail.
    pub fn new(jail: &'a Jail) -> Self {
        Self { jail }
    }

    /// Sets something.
    pub async fn put(&self, path: &str, body: &impl Serialize, within: Duration) -> Result<(), Error> {
        self.send(Method::PUT, path, Some(body), within).await.map(drop)
    }

    /// Changes something.
    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(Method::PATCH, path, Some(body), ANSWER_WITHIN).await.map(drop)
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let body = self.send(Method::GET, path, None::<&()>, ANSWER_WITHIN).await?;
        serde_json::from_slice(&body).map_err(|e| told(&Method::GET, path, ApiError::Nonsense(e.to_string())))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        within: Duration,
    ) -> Result<Bytes, Error> {
        let body = match body {
            Some(body) => serde_json::to_string(body)
                .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("firecracker: write {path}"), e))?,
            None => String::new(),
        };
        let exchanged = timeout(within, self.exchange(&method, path, body)).await;
        exchanged.unwrap_or(Err(ApiError::Deadline(within.as_secs()))).map_err(|e| told(&method, path, e))
    }

    async fn exchange(&self, method: &Method, path: &str, body: String) -> Result<Bytes, ApiError> {
        let socket = self.jail.connect(super::jail::API_SOCKET).await.map_err(ApiError::Gone)?;
        let broken = |e: hyper::Error| ApiError::Gone(io::Error::other(e));
        let (mut sender, connection) = http1::handshake::<_, String>(TokioIo::new(socket)).await.map_err(broken)?;
        let _carried = Carried(tokio::spawn(async move {
            // What went wrong, whoever waits for the answer is told as well.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "localhost")
            .header("Accept", "application/json")
            .header("Content-Type", "application/json")
            .body(body)
            .map_err(|e| ApiError::Nonsense(e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = read(answer.into_body()).await?;
        if matches!(status, StatusCode::OK | StatusCode::NO_CONTENT) {
            return Ok(body);
        }
        Err(refusal(status, &body))
    }
}

/// The task that carries a connection; it ends with the request.
#[derive(Debug)]
struct Carried(JoinHandle<()>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut body: Incoming) -> Result<Bytes, ApiError> {
    let mut read = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| ApiError::Gone(io::Error::other(e)))?;
        if let Some(data) = frame.data_ref() {
            if read.len() + data.len() > BODY_LEN_MAX {
                return Err(ApiError::Nonsense(format!("it is longer than {BODY_LEN_MAX} bytes")));
            }
            read.extend_from_slice(data);
        }
    }
    Ok(read.freeze())
}

fn refusal(status: StatusCode, body: &[u8]) -> ApiError {
    let message = match serde_json::from_slice::<Fault>(body) {
        Ok(fault) => fault.fault_message,
        Err(_) => return ApiError::Nonsense(format!("{status} without a fault_message")),
    };
    let harmless = |c: char| if c.is_control() { ' ' } else { c };
    let message = message.chars().map(harmless).take(FAULT_LEN_MAX).collect();
    ApiError::Refused { status: status.as_u16(), message }
}

fn told(method: &Method, path: &str, error: ApiError) -> Error {
    Error::caused_by(error.kind(), format!("firecracker: {method} {path}"), error)
}
