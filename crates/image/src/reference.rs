//! Image references, as every container tool reads them: `alpine`, `node:22-alpine`, `localhost:5000/a/b@sha256:…`.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// The registry of names without one.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Longest registry and repository together, as registries have it.
const NAME_MAX: usize = 255;

/// Longest tag.
const TAG_MAX: usize = 128;

/// A reference with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// `host[:port]` of the registry, `docker.io` if none was named.
    pub registry: String,
    /// Path in it; `library/` is put before a bare name of `docker.io`.
    pub repository: String,
    /// `latest` if neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// Pins the manifest, whatever the tag says.
    pub digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {given:?}: {rule}")]
pub struct InvalidRef {
    /// What was given, cut to a printable length.
    pub given: String,
    /// What would be accepted.
    pub rule: String,
}

impl FromStr for ImageRef {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        parse(text).map_err(|rule| InvalidRef { given: text.chars().take(80).collect(), rule })
    }
}

fn parse(text: &str) -> Result<ImageRef, String> {
    if text.is_empty() {
        return Err("is empty; give a name such as alpine:3.20".to_owned());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("has no place for {scheme}://; write {rest}"));
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(named);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    check_path(path)?;
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let bare = registry == DEFAULT_REGISTRY && !path.contains('/');
    let repository = if bare { format!("library/{path}") } else { path.to_owned() };
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(format!("registry and repository are longer than {NAME_MAX} bytes"));
    }
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(ImageRef { registry: registry.to_owned(), repository, tag, digest })
}

/// The last colon begins a tag unless a slash comes after it: then it begins a port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    }
}

/// The first part is a registry if it cannot be a part of a path.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let starts = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let rest = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if starts && rest && tag.len() <= TAG_MAX {
        return Ok(());
    }
    Err(format!("tag {tag:?} must be 1 to {TAG_MAX} letters, digits, _ . -, and not begin with . or -"))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let invalid = || format!("registry {registry:?} must be a host name or address, with :port if it has one");
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
            (None, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("bad") }))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err(invalid());
    }
    match port {
        Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse().is_ok_and(|n: u16| n > 0) => {
            Err(invalid())
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("repository {path:?} must be lower case"));
    }
    if path.len() == 64 && path.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hex digits are an image id, not a name; write name@sha256:… or sha256:…".to_owned());
    }
    if path.split('/').all(is_component) {
        return Ok(());
    }
    Err(format!(
        "repository {path:?} must be parts of a-z and 0-9 joined by /, with single . or _, __ or dashes inside a part"
    ))
}

/// Runs of letters and digits, joined by one of `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let outer = part.bytes().next().is_some_and(word) && part.bytes().next_back().is_some_and(word);
    let known = part.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'));
    let joints = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|joint| !joint.is_empty());
    outer
        && known
        && joints.into_iter().all(|joint| matches!(joint, "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_get_the_defaults_of_docker() {
        let digest = format!("sha256:{HEX}");
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x".to_owned()),
            ("ghcr.io/a/b-c__d.e", "ghcr.io/a/b-c__d.e:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            (&format!("alpine@{digest}"), format!("docker.io/library/alpine@{digest}")),
            (&format!("r.example/a:t@{digest}"), format!("r.example/a:t@{digest}")),
        ] {
            let parsed: ImageRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_with_the_rule() {
        for (text, part) in [
            ("", "empty"),
            ("https://r.example/a", "no place for https"),
            ("Alpine", "lower case"),
            ("a/B", "lower case"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a:x y", "tag"),
            ("/a", "repository"),
            ("a//b", "repository"),
            ("a/../b", "repository"),
            ("a/._b", "repository"),
            ("a___b", "repository"),
            ("a@sha256:12", "digest"),
            ("a@md5:12", "digest"),
            ("r.example:port/a", "registry"),
            ("r.example:0/a", "registry"),
            ("r.example:99999/a", "registry"),
            ("-x.example/a", "registry"),
            ("[zz]:1/a", "registry"),
            ("r.example/", "repository"),
            (HEX, "image id"),
            ("a b", "repository"),
            ("a\u{0}", "repository"),
        ] {
            let error = text.parse::<ImageRef>().unwrap_err();
            assert!(error.rule.contains(part), "{text:?}: {error}");
        }
        assert!(format!("{}/b", "a".repeat(300)).parse::<ImageRef>().is_err());
        assert!(format!("a:{}", "b".repeat(129)).parse::<ImageRef>().is_err());
    }

    proptest! {
        #[test]
        fn a_reference_reads_back(
            registry in prop::option::of("(localhost|[a-z][a-z0-9]{0,8}\\.[a-z]{2,5})(:[1-9][0-9]{0,3})?"),
            path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}){0,3}",
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            content in prop::option::of(any::<[u8; 4]>()),
        ) {
            let mut text = registry.map_or_else(String::new, |r| format!("{r}/")) + &path;
            if let Some(tag) = tag { text = format!("{text}:{tag}") }
            if let Some(content) = content { text = format!("{text}@{}", Digest::of(&content)) }
            let parsed: ImageRef = text.parse().unwrap();
            prop_assert_eq!(parsed.to_string().parse::<ImageRef>().unwrap(), parsed);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(parsed) = text.parse::<ImageRef>() {
                prop_assert_eq!(parsed.to_string().parse::<ImageRef>().unwrap(), parsed);
            }
        }
    }
}
