//! Sources as they may be shown.

/// Options that are nobody's secret. All others may be.
const PLAIN: [&str; 7] = ["archive", "checksum", "depth", "filename", "ref", "region", "version"];

/// Longest source that is shown.
const LONGEST: usize = 512;

/// `source` without passwords, tokens and keys. Works on texts that are no addresses too.
pub(crate) fn redacted(source: &str) -> String {
    let (address, query) = source.split_once('?').map_or((source, None), |(a, q)| (a, Some(q)));
    let mut shown = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            // `git@` is a name everybody knows; whatever has a colon has a password.
            let host = match authority.rsplit_once('@') {
                Some((user, host)) if user.contains(':') => format!("…@{host}"),
                Some((user, _)) if scheme.ends_with("http") || scheme.ends_with("https") => {
                    authority.replacen(user, "…", 1)
                }
                _ => authority.to_owned(),
            };
            format!("{scheme}://{host}{path}")
        }
        None => address.to_owned(),
    };
    if let Some(query) = query {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) if PLAIN.contains(&key) => pair.to_owned(),
            Some((key, _)) => format!("{key}=…"),
            None => pair.to_owned(),
        });
        shown.push('?');
        shown.push_str(&pairs.collect::<Vec<_>>().join("&"));
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    shown.chars().take(LONGEST).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn nothing_secret_is_shown() {
        for (source, shown) in [
            ("https://me:pw@host/a.zip?archive=zip&token=abc", "https://…@host/a.zip?archive=zip&token=…"),
            ("https://ghp_token@github.com/a/b", "https://…@github.com/a/b"),
            ("git::ssh://git@host/a/b?sshkey=AAAA&ref=v1", "git::ssh://git@host/a/b?sshkey=…&ref=v1"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git"),
            ("s3::https://h/b/k?aws_access_key_secret=x", "s3::https://h/b/k?aws_access_key_secret=…"),
            ("no address\nat all", "no address at all"),
        ] {
            assert_eq!(redacted(source), shown);
        }
    }
}
