//! Objects of S3-like stores: one, or all whose keys begin alike.

use std::fs::File;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use rusty_s3::actions::{GetObject, S3Action as _};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use url::Url;

use super::http::{Downloaded, Http, Wanted};
use super::tree::{Budget, Tree};
use super::{Failure, ProgressReports};
use crate::config::Limits;
use crate::error::FetchErrorKind;
use crate::origin::{Checksum, S3, percent_decoded};

/// How long a signed address holds. Each attempt has its own.
const SIGNED_FOR: Duration = Duration::from_secs(3600);

/// Longest page of a listing: a thousand keys of a kilobyte, and what is around them.
const PAGE_MAX: usize = 8 << 20;

/// One store, asked with one job's keys.
pub(super) struct Store<'a> {
    s3: &'a S3,
    bucket: Bucket,
    credentials: Option<Credentials>,
    http: Http<'a>,
}

impl<'a> Store<'a> {
    pub(super) fn new(s3: &'a S3, http: Http<'a>) -> Result<Self, Failure> {
        let bad = |e: &dyn std::fmt::Display| Failure::new(FetchErrorKind::BadSource, format!("the bucket: {e}"));
        let endpoint: Url = s3.endpoint.parse().map_err(|e: url::ParseError| bad(&e))?;
        let style = if s3.virtual_host { UrlStyle::VirtualHost } else { UrlStyle::Path };
        let bucket = Bucket::new(endpoint, style, s3.bucket.clone(), s3.region.clone()).map_err(|e| bad(&e))?;
        let credentials = s3.keys.as_ref().map(|(id, secret)| match &s3.token {
            Some(token) => Credentials::new_with_token(id.clone(), secret.clone(), token.clone()),
            None => Credentials::new(id.clone(), secret.clone()),
        });
        Ok(Self { s3, bucket, credentials, http })
    }

    /// Downloads the object of the key; nothing if there is none.
    pub(super) async fn object(
        &self,
        key: &str,
        checksum: Option<&Checksum>,
        progress: &ProgressReports,
        file: &mut File,
    ) -> Result<Option<Downloaded>, Failure> {
        let address = || {
            let mut action = GetObject::new(&self.bucket, self.credentials.as_ref(), key);
            if let Some(version) = &self.s3.version {
                action.query_mut().insert("versionId", version.clone());
            }
            Ok(action.sign(SIGNED_FOR))
        };
        let wanted = Wanted { address: &address, headers: HeaderMap::new(), checksum, progress };
        match self.http.download(&wanted, file).await {
            Ok(downloaded) => Ok(Some(downloaded)),
            Err(failure) if failure.kind == FetchErrorKind::Status && failure.detail.contains(" 404") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Downloads all objects below `prefix` into a tree; how many bytes.
    pub(super) async fn directory(
        &self,
        prefix: &str,
        limits: &Limits,
        progress: &ProgressReports,
        tree: &mut Tree<'_>,
    ) -> Result<u64, Failure> {
        let prefix = match prefix.trim_end_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let mut bytes = 0;
        let mut found = 0;
        let mut next = None;
        loop {
            let page = self.page(&prefix, next.as_deref()).await?;
            for key in page.keys.iter().filter(|key| !key.ends_with('/')) {
                found += 1;
                let name = key.strip_prefix(&prefix).unwrap_or(key);
                let mut file = tree.file(name.as_bytes(), 0o644)?;
                let got = self.object(key, None, progress, &mut file).await?;
                bytes += got.map_or(0, |got| got.bytes);
                Budget::new(limits, u64::MAX).spend(bytes)?;
            }
            match page.next {
                Some(token) if next.as_ref() != Some(&token) => next = Some(token),
                _ if found == 0 => {
                    let detail = format!("there is no object {:?} and none below it", self.s3.key);
                    return Err(Failure::new(FetchErrorKind::Status, detail));
                }
                _ => return Ok(bytes),
            }
        }
    }

    async fn page(&self, prefix: &str, next: Option<&str>) -> Result<Page, Failure> {
        // Asked of the bucket itself: an object without a key.
        let mut action = GetObject::new(&self.bucket, self.credentials.as_ref(), "");
        let query = action.query_mut();
        query.insert("list-type", "2");
        query.insert("encoding-type", "url");
        query.insert("prefix", prefix.to_owned());
        if let Some(next) = next {
            query.insert("continuation-token", next.to_owned());
        }
        let (status, body) = self.http.body(action.sign(SIGNED_FOR), PAGE_MAX).await?;
        if status != StatusCode::OK {
            return Err(Failure::new(FetchErrorKind::Status, format!("the server answers {status} to a listing")));
        }
        let broken = || Failure::new(FetchErrorKind::Archive, "the server's listing cannot be read");
        Page::read(&String::from_utf8(body).map_err(|_| broken())?).ok_or_else(broken)
    }
}

/// One page of a listing.
struct Page {
    keys: Vec<String>,
    next: Option<String>,
}

impl Page {
    /// Takes keys and the next page's token out of XML in which keys are percent-encoded, so that no key can hold a tag.
    fn read(xml: &str) -> Option<Self> {
        xml.contains("<ListBucketResult").then_some(())?;
        let keys = texts(xml, "Key").map(|key| percent_decoded(&key.replace('+', " "))).collect::<Option<Vec<_>>>()?;
        let more = texts(xml, "IsTruncated").next() == Some("true");
        let token = texts(xml, "NextContinuationToken").next().filter(|_| more);
        let plain =
            |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        Some(Self { keys, next: token.map(plain) })
    }
}

fn texts<'t>(xml: &'t str, tag: &str) -> impl Iterator<Item = &'t str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(open.as_str())?;
        let (text, after) = after.split_once(close.as_str())?;
        rest = after;
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn a_listing_is_read() {
        let page = Page::read(
            "<?xml version=\"1.0\"?><ListBucketResult><Prefix>a/</Prefix><IsTruncated>true</IsTruncated>\
             <Contents><Key>a/b+c%2Bd</Key><Size>3</Size></Contents><Contents><Key>a/%3CKey%3E</Key></Contents>\
             <NextContinuationToken>x&amp;y</NextContinuationToken></ListBucketResult>",
        )
        .unwrap();
        assert_eq!(page.keys, ["a/b c+d", "a/<Key>"]);
        assert_eq!(page.next.as_deref(), Some("x&y"));
        assert!(Page::read("<html>").is_none());
        assert!(Page::read("<ListBucketResult><Key>%zz</Key></ListBucketResult>").is_none());
    }
}
