//! Putting a program into an object store.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::jetstream;
use async_nats::jetstream::object_store::{Config, ObjectStore};
use moat_model::ErrorKind;
use tokio::io::{AsyncRead, ReadBuf};

use super::{Client, Error, Result};
use crate::nex::Location;

/// What was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Where it is.
    pub location: Location,
    /// Its size.
    pub bytes: u64,
    /// Hex SHA-256 of what was sent.
    pub sha256: String,
}

impl Client {
    fn jetstream(&self) -> jetstream::Context {
        match &self.options.jsdomain {
            Some(domain) => jetstream::with_domain(self.nats.clone(), domain),
            None => jetstream::new(self.nats.clone()),
        }
    }

    /// Puts the bytes of `reader` under a location. Its bucket is made, with room for `bucket_bytes_max`, if there is
    /// none. `progress` is told the number of bytes sent so far.
    pub async fn upload(
        &self,
        location: &Location,
        reader: &mut (dyn AsyncRead + Send + Unpin),
        bucket_bytes_max: i64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Uploaded> {
        let doing = format!("upload to {location}");
        let bucket = self.bucket(&doing, location.bucket(), bucket_bytes_max).await?;
        let mut counted = Counted { reader, progress, bytes: 0 };
        let info = bucket.put(location.key(), &mut counted).await.map_err(|e| {
            let text = chain(&e);
            let kind =
                if text.contains("maximum bytes exceeded") { ErrorKind::Exhausted } else { ErrorKind::Unavailable };
            Error::new(kind, &doing, text)
        })?;
        let sha256 = info
            .digest
            .as_deref()
            .and_then(|digest| digest.strip_prefix("SHA-256="))
            .and_then(|digest| data_encoding::BASE64URL.decode(digest.as_bytes()).ok())
            .map(|digest| data_encoding::HEXLOWER.encode(&digest))
            .ok_or_else(|| Error::new(ErrorKind::Internal, &doing, "the object store reports no SHA-256"))?;
        Ok(Uploaded { location: location.clone(), bytes: u64::try_from(info.size).unwrap_or(u64::MAX), sha256 })
    }

    /// The bucket, made if need be. Someone else may be making it at the same moment.
    async fn bucket(&self, doing: &str, name: &str, bytes_max: i64) -> Result<ObjectStore> {
        let context = self.jetstream();
        if let Ok(bucket) = context.get_object_store(name).await {
            return Ok(bucket);
        }
        let config = Config {
            bucket: name.to_owned(),
            description: Some("programs uploaded by a command line".to_owned()),
            max_bytes: bytes_max,
            num_replicas: 1,
            ..Config::default()
        };
        let failure = match context.create_object_store(config).await {
            Ok(bucket) => return Ok(bucket),
            Err(failure) => failure,
        };
        context.get_object_store(name).await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("{doing}: make object store {name:?} (does the server have JetStream?)"),
                chain(&failure),
            )
        })
    }
}

/// Some errors of the NATS client repeat their source, some hide it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        next = source.source();
    }
    text
}

struct Counted<'a> {
    reader: &'a mut (dyn AsyncRead + Send + Unpin),
    progress: &'a mut (dyn FnMut(u64) + Send),
    bytes: u64,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut *this.reader).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        if read > 0 {
            this.bytes = this.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            (this.progress)(this.bytes);
        }
        polled
    }
}
