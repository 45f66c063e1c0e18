//! A source and its options as what is to be done.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::job::{ArtifactMode, ArtifactSpec};
use serde::{Deserialize, Serialize};
use url::Url;

use super::checksum::Checksum;
use super::detect::detected;
use super::s3::{S3, percent_decoded};
use crate::error::{FetchError, FetchErrorKind};

/// What is to be done. Written to the child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Where the bytes come from.
    pub fetch: Fetch,
    /// Only this directory of it.
    pub subdir: Option<String>,
    /// Whether it is unpacked.
    pub archive: ArchiveWish,
    /// What its bytes must be.
    pub checksum: Option<Checksum>,
    /// What it is made into.
    pub mode: ArtifactMode,
    /// The name of the file, where it stays one.
    pub name: String,
}

/// Where the bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fetch {
    Http(Http),
    Git(Git),
    S3(S3),
    Nats { bucket: String, key: String },
    Oci { reference: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Http {
    pub url: String,
    pub headers: BTreeMap<String, String>,
    pub insecure: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Git {
    pub url: String,
    pub reference: Option<String>,
    pub depth: Option<u32>,
    /// A private key, as OpenSSH writes it.
    pub ssh_key: Option<String>,
    pub insecure: bool,
    /// Repositories inside are left out; without it they are refused.
    pub without_submodules: bool,
}

/// Whether something is unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ArchiveWish {
    /// As its name says.
    ByName,
    /// It is not.
    Never,
    /// As if its name ended in this.
    As(String),
}

impl Fetch {
    /// The longest it may take.
    pub(crate) fn timeout(&self, limits: &crate::Limits) -> Duration {
        match self {
            Self::Git(_) => limits.git_timeout,
            Self::S3(_) => limits.s3_timeout,
            Self::Http(_) | Self::Nats { .. } | Self::Oci { .. } => limits.http_read_timeout,
        }
    }
}

type Wrong = (FetchErrorKind, String);

/// Reads an artifact whose `${…}` are replaced.
pub(crate) fn plan(artifact: &ArtifactSpec) -> Result<Plan, FetchError> {
    let wrong = |(kind, detail): Wrong| FetchError::new(kind, &artifact.source, detail);
    let address = Address::split(&artifact.source).map_err(wrong)?;
    let mut options = Options::new(address.url.as_ref(), artifact);
    let checksum = match options.take("checksum") {
        Some(text) => Some(Checksum::parse(&text).map_err(|e| e.about(&artifact.source))?),
        None => None,
    };
    if !artifact.headers.is_empty() && !matches!(address.kind.as_str(), "http" | "https") {
        return Err(wrong((FetchErrorKind::BadOption, "headers: are for http and https only".to_owned())));
    }
    if address.kind == "oci" {
        return image(&address, options, checksum.as_ref(), artifact).map_err(wrong);
    }
    let archive = archive_wish(&mut options, artifact.mode).map_err(wrong)?;
    let filename = options.take("filename");
    let fetch = fetch(&address, options, artifact).map_err(wrong)?;
    let subdir = address.subdir.map(|dir| checked_subdir(&dir)).transpose().map_err(wrong)?;
    check_together(&fetch, checksum.as_ref(), artifact).map_err(wrong)?;
    let name = match filename {
        Some(name) => name,
        None => last_part(&fetch).unwrap_or_else(|| "download".to_owned()),
    };
    let name = file_name(&name).map_err(|detail| wrong((FetchErrorKind::BadSource, detail)))?;
    Ok(Plan { fetch, subdir, archive, checksum, mode: artifact.mode, name })
}

/// `name` if a file can have it.
pub(crate) fn file_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name == "." || name == ".." || name.len() > 255 || name.contains(['/', '\0']) {
        return Err("its last part is no name for a file: add options { filename = \"…\" }".to_owned());
    }
    Ok(name.to_owned())
}

/// A source in its parts.
struct Address {
    /// `git`, `s3`, `http`, `https`, `nats`, `oci`.
    kind: String,
    /// Without forced prefix and sub-directory, with the query. Absent for `oci`, whose references are no URLs.
    url: Option<Url>,
    /// What comes after `oci://`.
    reference: String,
    subdir: Option<String>,
}

impl Address {
    fn split(source: &str) -> Result<Self, Wrong> {
        let source = detected(source.trim());
        let (forced, plain) = match source.split_once("::") {
            Some((forced, plain)) if forced.bytes().all(|b| b.is_ascii_alphanumeric()) => (Some(forced), plain),
            _ => (None, source.as_str()),
        };
        let (scheme, rest) = plain.split_once("://").ok_or_else(|| {
            let detail = "no scheme: write https://, git::https://, s3::https://, nats:// or oci://";
            (FetchErrorKind::BadSource, detail.to_owned())
        })?;
        let kind = forced.unwrap_or(scheme).to_ascii_lowercase();
        supported(&kind, scheme)?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let (path, subdir) = match path.split_once("//") {
            Some((path, dir)) => (path, Some(dir.to_owned())),
            None => (path, None),
        };
        let mut text = format!("{scheme}://{path}");
        if let Some(query) = query {
            text = format!("{text}?{query}");
        }
        let url = Url::parse(&text).map_err(|e| (FetchErrorKind::BadSource, format!("not an address: {e}")));
        let url = if kind == "oci" { url.ok() } else { Some(url?) };
        Ok(Self { kind, url, reference: path.to_owned(), subdir })
    }
}

/// Refuses what there is not, and says what to use instead.
fn supported(kind: &str, scheme: &str) -> Result<(), Wrong> {
    let instead = match (kind, scheme) {
        ("http", "http") | ("https", "https") | ("git", "http" | "https" | "ssh") => return Ok(()),
        ("s3", "http" | "https") | ("nats", "nats") | ("oci", "oci") => return Ok(()),
        ("http" | "https", "http" | "https") => return Ok(()),
        ("file", _) | (_, "file") => "files of the node are shown to tasks by host volumes",
        ("git", "git") => "git:// proves nothing about the server: use git::https:// or git::ssh://",
        ("git", _) => "use git::https:// or git::ssh://",
        ("hg", _) => "Mercurial is not fetched: publish an archive over https, or use git",
        ("gcs" | "gs", _) | (_, "gs") => {
            "use s3::https://storage.googleapis.com/<bucket>/<key> with HMAC keys, or https"
        }
        ("s3", _) => "write s3::https://<host>/<bucket>/<key>",
        _ => "use http, https, git::, s3::, nats:// or oci://",
    };
    Err((FetchErrorKind::UnsupportedScheme, format!("{kind} is not supported: {instead}")))
}

/// Options of the source's query and of the artifact; the latter win.
struct Options(Vec<(String, String)>);

impl Options {
    fn new(url: Option<&Url>, artifact: &ArtifactSpec) -> Self {
        let mut options: Vec<(String, String)> = Vec::new();
        if let Some(url) = url {
            options.extend(url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())));
        }
        for (key, value) in &artifact.options {
            options.retain(|(known, _)| known != key);
            options.push((key.clone(), value.clone()));
        }
        Self(options)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    /// Nothing may be left that nobody looked at.
    fn none_left(self, kind: &str) -> Result<(), Wrong> {
        match self.0.into_iter().next() {
            Some((key, _)) => {
                Err((FetchErrorKind::BadOption, format!("options.{key}: there is no such option for {kind}")))
            }
            None => Ok(()),
        }
    }
}

fn archive_wish(options: &mut Options, mode: ArtifactMode) -> Result<ArchiveWish, Wrong> {
    let wish = match options.take("archive") {
        None => ArchiveWish::ByName,
        Some(text) if matches!(text.as_str(), "false" | "0") => ArchiveWish::Never,
        Some(text) if matches!(text.as_str(), "true" | "1") => ArchiveWish::ByName,
        Some(text) if crate::child::is_archive(&text) => ArchiveWish::As(text),
        Some(text) => {
            let detail = format!("options.archive: {text:?} is no format; formats are {}", crate::child::formats());
            return Err((FetchErrorKind::BadOption, detail));
        }
    };
    Ok(if mode == ArtifactMode::File { ArchiveWish::Never } else { wish })
}

fn fetch(address: &Address, options: Options, artifact: &ArtifactSpec) -> Result<Fetch, Wrong> {
    let bad = |why: &str| (FetchErrorKind::BadSource, why.to_owned());
    let mut url = address.url.clone().ok_or_else(|| bad("no address"))?;
    url.set_fragment(None);
    match address.kind.as_str() {
        "git" => git(url, options, artifact),
        "s3" => s3(&url, options, artifact.insecure),
        "nats" => {
            options.none_left("nats")?;
            let bucket = url.host_str().ok_or_else(|| bad("write nats://bucket/key"))?.to_owned();
            let key = percent_decoded(url.path().trim_start_matches('/')).unwrap_or_default();
            if key.is_empty() { Err(bad("write nats://bucket/key")) } else { Ok(Fetch::Nats { bucket, key }) }
        }
        _ => {
            // What is not ours is the server's.
            url.set_query(None);
            if !options.0.is_empty() {
                url.query_pairs_mut().extend_pairs(&options.0);
            }
            let headers = artifact.headers.clone();
            Ok(Fetch::Http(Http { url: url.to_string(), headers, insecure: artifact.insecure }))
        }
    }
}

/// The files of an image come as an archive the daemon makes, about which nobody can say anything beforehand.
fn image(
    address: &Address,
    options: Options,
    checksum: Option<&Checksum>,
    artifact: &ArtifactSpec,
) -> Result<Plan, Wrong> {
    let bad = |detail: &str| (FetchErrorKind::BadOption, detail.to_owned());
    if checksum.is_some() {
        return Err(bad("options.checksum: an image has a digest: write oci://<registry>/<name>@sha256:<hex digits>"));
    }
    if artifact.mode == ArtifactMode::File {
        return Err(bad("mode: an image is a directory, not a file"));
    }
    options.none_left("oci")?;
    Ok(Plan {
        fetch: Fetch::Oci { reference: address.reference.clone() },
        subdir: address.subdir.as_deref().map(checked_subdir).transpose()?,
        archive: ArchiveWish::As("tar".to_owned()),
        checksum: None,
        mode: artifact.mode,
        name: "image".to_owned(),
    })
}

fn git(mut url: Url, mut options: Options, artifact: &ArtifactSpec) -> Result<Fetch, Wrong> {
    let wrong = |option: &str, why: &str| (FetchErrorKind::BadOption, format!("options.{option}: {why}"));
    let reference = options.take("ref");
    if reference.as_ref().is_some_and(|r| r.starts_with('-') || r.is_empty() || r.chars().any(char::is_control)) {
        return Err(wrong("ref", "not a branch, tag or commit"));
    }
    let depth = match options.take("depth") {
        Some(text) => {
            Some(text.parse::<u32>().ok().filter(|d| *d > 0).ok_or_else(|| wrong("depth", "not a number from 1"))?)
        }
        None => None,
    };
    let ssh_key = match options.take("sshkey") {
        Some(text) => {
            // Addresses turn the plus of base64 into a space.
            let text = text.replace(' ', "+");
            let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| wrong("sshkey", "not base64"))?;
            Some(String::from_utf8(bytes).map_err(|_| wrong("sshkey", "not the text of a key"))?)
        }
        None => None,
    };
    let without_submodules = match options.take("submodules").as_deref() {
        None => false,
        Some("false") => true,
        Some(_) => return Err(wrong("submodules", "only \"false\" exists: they are not fetched")),
    };
    options.none_left("git")?;
    url.set_query(None);
    Ok(Fetch::Git(Git {
        url: url.to_string(),
        reference,
        depth,
        ssh_key,
        insecure: artifact.insecure,
        without_submodules,
    }))
}

fn s3(url: &Url, mut options: Options, insecure: bool) -> Result<Fetch, Wrong> {
    let mut s3 = S3::parse(url)?;
    if let Some(region) = options.take("region") {
        s3.region = region;
    }
    s3.version = options.take("version");
    s3.token = options.take("aws_access_token");
    s3.insecure = insecure;
    s3.keys = match (options.take("aws_access_key_id"), options.take("aws_access_key_secret")) {
        (Some(id), Some(secret)) => Some((id, secret)),
        (None, None) => None,
        _ => {
            let detail = "options.aws_access_key_id and options.aws_access_key_secret: give both or none".to_owned();
            return Err((FetchErrorKind::BadOption, detail));
        }
    };
    options.none_left("s3")?;
    Ok(Fetch::S3(s3))
}

/// What cannot be asked together.
fn check_together(fetch: &Fetch, checksum: Option<&Checksum>, artifact: &ArtifactSpec) -> Result<(), Wrong> {
    if !matches!(fetch, Fetch::Git(_)) {
        return Ok(());
    }
    if checksum.is_some() {
        let detail = "options.checksum: a repository has none; say the commit in options.ref".to_owned();
        return Err((FetchErrorKind::BadOption, detail));
    }
    if artifact.mode == ArtifactMode::File {
        let detail = "mode: a repository is a directory, not a file".to_owned();
        return Err((FetchErrorKind::BadOption, detail));
    }
    Ok(())
}

fn checked_subdir(dir: &str) -> Result<String, Wrong> {
    let dir = percent_decoded(dir).unwrap_or_default();
    let parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || parts.contains(&"..") || dir.contains('\0') {
        let detail = format!("the directory after // is none inside: {dir:?}");
        return Err((FetchErrorKind::BadSource, detail));
    }
    Ok(parts.join("/"))
}

fn last_part(fetch: &Fetch) -> Option<String> {
    let of_url = |url: &str| {
        let url = Url::parse(url).ok()?;
        let last = url.path_segments()?.rfind(|part| !part.is_empty())?;
        percent_decoded(last)
    };
    match fetch {
        Fetch::Http(http) => of_url(&http.url),
        Fetch::Git(git) => of_url(&git.url),
        Fetch::S3(s3) => s3.key.split('/').rfind(|part| !part.is_empty()).map(str::to_owned),
        Fetch::Nats { key, .. } => key.split('/').rfind(|part| !part.is_empty()).map(str::to_owned),
        Fetch::Oci { .. } => None,
    }
}

#[cfg(test)]
mod tests;
