//! Sources written without a scheme, as go-getter's users do.

/// `source` with the scheme that was meant: hosts that are known for git or S3, and `git@host:path`.
pub(crate) fn detected(source: &str) -> String {
    if source.contains("://") {
        return source.to_owned();
    }
    let (forced, plain) = match source.split_once("::") {
        Some((forced, plain)) => (Some(forced), plain),
        None => (None, source),
    };
    let address = scp_like(plain).or_else(|| code_host(plain)).or_else(|| s3_host(plain));
    let (found, address) = address.unwrap_or_else(|| (None, plain.to_owned()));
    match forced.or(found) {
        Some(forced) => format!("{forced}::{address}"),
        None => address,
    }
}

type Found = (Option<&'static str>, String);

/// `git@host:path`, the form of ssh that is no URL.
fn scp_like(source: &str) -> Option<Found> {
    let (user, rest) = source.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !word(user) || !word(host) || host.starts_with('-') || user.starts_with('-') {
        return None;
    }
    Some((Some("git"), format!("ssh://{user}@{host}/{}", path.trim_start_matches('/'))))
}

/// `github.com/owner/repository/directory`.
fn code_host(source: &str) -> Option<Found> {
    let host = ["github.com/", "gitlab.com/", "bitbucket.org/"].into_iter().find(|host| source.starts_with(host))?;
    let (path, query) = source.split_once('?').map_or((source, ""), |(path, query)| (path, query));
    let path = path.strip_prefix(host)?;
    // Somebody who writes `//` has said where the repository ends.
    let (repository, directory) = match path.split_once("//") {
        Some((repository, directory)) => (repository.to_owned(), directory.to_owned()),
        None => {
            let mut parts = path.splitn(3, '/');
            let (owner, name) = (parts.next()?, parts.next()?);
            (format!("{owner}/{name}"), parts.next().unwrap_or("").to_owned())
        }
    };
    let repository = repository.strip_suffix(".git").unwrap_or(&repository);
    let mut address = format!("https://{host}{repository}.git");
    if !directory.is_empty() {
        address.push_str("//");
        address.push_str(&directory);
    }
    if !query.is_empty() {
        address.push('?');
        address.push_str(query);
    }
    Some((Some("git"), address))
}

/// A host of Amazon's S3.
fn s3_host(source: &str) -> Option<Found> {
    let host = source.split('/').next()?;
    let is_s3 = host.ends_with(".amazonaws.com") && host.split(['.', '-']).any(|part| part == "s3");
    is_s3.then(|| (Some("s3"), format!("https://{source}")))
}

#[cfg(test)]
mod tests {
    use super::detected;

    #[test]
    fn known_hosts_are_recognised_and_nothing_else_is_touched() {
        for (source, meant) in [
            ("github.com/a/b", "git::https://github.com/a/b.git"),
            ("github.com/a/b.git?ref=v1", "git::https://github.com/a/b.git?ref=v1"),
            ("github.com/a/b/c/d", "git::https://github.com/a/b.git//c/d"),
            ("gitlab.com/a/b/c//d", "git::https://gitlab.com/a/b/c.git//d"),
            ("git@github.com:a/b.git", "git::ssh://git@github.com/a/b.git"),
            ("git::git@github.com:a/b.git//d", "git::ssh://git@github.com/a/b.git//d"),
            ("b.s3.amazonaws.com/k", "s3::https://b.s3.amazonaws.com/k"),
            ("s3-eu-west-1.amazonaws.com/b/k", "s3::https://s3-eu-west-1.amazonaws.com/b/k"),
            ("https://github.com/a/b", "https://github.com/a/b"),
            ("-oProxyCommand=x@host:y", "-oProxyCommand=x@host:y"),
            ("./local", "./local"),
        ] {
            assert_eq!(detected(source), meant);
        }
    }
}
