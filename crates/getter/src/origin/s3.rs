//! Where an object of an S3-like store lies.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::FetchErrorKind;

/// An object or a directory of objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct S3 {
    /// Scheme and host of the store, without bucket.
    pub endpoint: String,
    /// The bucket is part of the host.
    pub virtual_host: bool,
    /// Bucket.
    pub bucket: String,
    /// Key, or the beginning of keys.
    pub key: String,
    /// Region.
    pub region: String,
    /// Key id and secret; asked without a signature if absent.
    pub keys: Option<(String, String)>,
    /// Token of temporary keys.
    pub token: Option<String>,
    /// Version of the object.
    pub version: Option<String>,
    /// No certificate is verified.
    pub insecure: bool,
}

impl S3 {
    /// Takes bucket, key and region out of an address.
    pub(crate) fn parse(url: &Url) -> Result<Self, (FetchErrorKind, String)> {
        let bad = |why: &str| (FetchErrorKind::BadSource, why.to_owned());
        let host = url.host_str().ok_or_else(|| bad("an S3 address needs a host"))?;
        let path = url.path().trim_start_matches('/');
        let path = percent_decoded(path).ok_or_else(|| bad("its path is no text"))?;
        let amazon = host.strip_suffix(".amazonaws.com").and_then(amazon_host);
        let (bucket, key, region, own_host) = match amazon {
            Some((Some(bucket), region)) => (bucket, path, region, true),
            other => {
                let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
                let region = other.and_then(|(_, region)| region);
                (bucket.to_owned(), key.to_owned(), region, false)
            }
        };
        // Dots would be resolved as in a file system: another bucket's keys could be meant.
        let dots = |text: &str| text.split('/').any(|part| part == "." || part == "..");
        if bucket.is_empty() || dots(&bucket) || dots(&key) {
            return Err(bad("no bucket in the address, or dots instead of names: s3::https://host/bucket/key"));
        }
        let mut endpoint = url.clone();
        endpoint.set_path("/");
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        // An address with a host has a place for a name.
        let _ = endpoint.set_username("");
        let _ = endpoint.set_password(None);
        if own_host {
            let store = host.strip_prefix(bucket.as_str()).map_or(host, |rest| rest.trim_start_matches('.'));
            endpoint.set_host(Some(store)).map_err(|_| bad("its host is none"))?;
        }
        Ok(Self {
            endpoint: endpoint.to_string(),
            virtual_host: own_host,
            bucket,
            key,
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            keys: None,
            token: None,
            version: None,
            insecure: false,
        })
    }
}

/// Bucket and region in a host of Amazon's, which ends before `.amazonaws.com`; nothing if it is not one of S3.
fn amazon_host(host: &str) -> Option<(Option<String>, Option<String>)> {
    let parts: Vec<&str> = host.split('.').collect();
    let at = parts.iter().rposition(|part| *part == "s3" || part.starts_with("s3-"))?;
    let region = match parts.get(at)?.strip_prefix("s3-") {
        Some(region) => Some(region.to_owned()),
        None => parts.get(at + 1..)?.iter().rfind(|part| **part != "dualstack").map(|part| (*part).to_owned()),
    };
    let bucket = parts.get(..at)?.join(".");
    Some(((!bucket.is_empty()).then_some(bucket), region))
}

/// Percent-encoding undone; nothing if the result is no UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next()?, rest.next()?);
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (String, bool, String, String, String) {
        let s3 = S3::parse(&url.parse().unwrap()).unwrap();
        (s3.endpoint, s3.virtual_host, s3.bucket, s3.key, s3.region)
    }

    #[test]
    fn amazons_hosts_and_others() {
        let is = |endpoint: &str, own: bool, bucket: &str, key: &str, region: &str| {
            (endpoint.to_owned(), own, bucket.to_owned(), key.to_owned(), region.to_owned())
        };
        for (url, wanted) in [
            ("https://s3.amazonaws.com/b/k/x.zip", is("https://s3.amazonaws.com/", false, "b", "k/x.zip", "us-east-1")),
            (
                "https://s3-eu-west-1.amazonaws.com/b/k",
                is("https://s3-eu-west-1.amazonaws.com/", false, "b", "k", "eu-west-1"),
            ),
            (
                "https://b.s3.eu-west-1.amazonaws.com/k%20x",
                is("https://s3.eu-west-1.amazonaws.com/", true, "b", "k x", "eu-west-1"),
            ),
            ("https://b.s3.amazonaws.com/k", is("https://s3.amazonaws.com/", true, "b", "k", "us-east-1")),
            ("http://127.0.0.1:9000/b/k", is("http://127.0.0.1:9000/", false, "b", "k", "us-east-1")),
            ("http://minio:9000/b/", is("http://minio:9000/", false, "b", "", "us-east-1")),
        ] {
            assert_eq!(parsed(url), wanted, "{url}");
        }
        assert!(S3::parse(&"http://h/".parse().unwrap()).is_err());
        assert!(S3::parse(&"http://h/b/a%2F..%2Fc".parse().unwrap()).is_err());
    }
}
