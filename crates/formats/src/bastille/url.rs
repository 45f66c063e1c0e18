//! Where a template is fetched from, and what it is called then.

use std::fmt;
use std::str::FromStr;

use moat_model::jail::TemplateName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Refusal;

/// Address of a git repository that holds a template, and maybe which commit of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateUrl {
    repository: String,
    commit: Option<String>,
    template: TemplateName,
}

/// Longest address. Browsers and servers stop there.
const BYTES_MAX: usize = 2048;
const FORMS: &str = "write https://HOST/USER/REPOSITORY or git@HOST:USER/REPOSITORY, and #COMMIT behind it to pin it";

impl TemplateUrl {
    /// Whether `text` is meant as an address, and not as a name.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://") || text.starts_with("git@")
    }

    /// Reads `https://host/user/repository[.git][#commit]` and the like.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = |what: &str| Refusal::new(format!("{what} in the address of a template"), FORMS);
        if text.len() > BYTES_MAX || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("blanks, or too many characters"));
        }
        let (repository, commit) = text.split_once('#').map_or((text, None), |(url, commit)| (url, Some(commit)));
        if commit.is_some_and(|c| !(7..=64).contains(&c.len()) || !c.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(wrong("a commit that is not 7 to 64 hexadecimal digits"));
        }
        let path = if let Some(rest) = repository.strip_prefix("git@") {
            rest.split_once(':')
        } else {
            let (scheme, rest) = repository.split_once("://").ok_or_else(|| wrong("no scheme"))?;
            if !["https", "http", "ssh", "git"].contains(&scheme) {
                return Err(wrong("an unknown scheme"));
            }
            rest.split_once('/')
        };
        let (host, path) = path.filter(|(host, _)| !host.is_empty()).ok_or_else(|| wrong("no host"))?;
        if host.starts_with('-') {
            return Err(wrong("an option"));
        }
        if let Some((user, _)) = host.split_once('@')
            && user.contains(':')
        {
            return Err(wrong("a password"));
        }
        let path = path.trim_end_matches('/');
        let mut parts = path.strip_suffix(".git").unwrap_or(path).rsplit('/');
        let (Some(name), Some(user)) = (parts.next(), parts.next()) else {
            return Err(wrong("no user and repository"));
        };
        let template = TemplateName::parse(&format!("{user}/{name}"))
            .map_err(|e| Refusal::new(format!("the address names no template: {e}"), FORMS))?;
        Ok(Self { repository: repository.to_owned(), commit: commit.map(str::to_ascii_lowercase), template })
    }

    /// What git is asked for.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The commit it is pinned to.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// What the template is called if the repository is one: `user/repository`.
    pub fn template(&self) -> &TemplateName {
        &self.template
    }
}

impl fmt::Display for TemplateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.commit.as_ref().map_or(Ok(()), |commit| write!(f, "#{commit}"))
    }
}

impl FromStr for TemplateUrl {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl Serialize for TemplateUrl {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TemplateUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_templates() {
        for (text, name, commit) in [
            ("https://github.com/henomis/nats-jail-template", "henomis/nats-jail-template", None),
            ("https://github.com/henomis/nats-jail-template.git/", "henomis/nats-jail-template", None),
            ("git@gitlab.com:group/sub/repo.git", "sub/repo", None),
            ("ssh://git@example.com:2222/u/r#0123abcDEF", "u/r", Some("0123abcdef")),
        ] {
            let url = TemplateUrl::parse(text).unwrap();
            assert_eq!((url.template().as_str(), url.commit()), (name, commit));
            assert_eq!(TemplateUrl::parse(&url.to_string()).unwrap(), url);
        }
        for bad in [
            "u/r",
            "https://host",
            "https://host/repo",
            "https://user:word@host/u/r",
            "file:///etc/passwd",
            "ext::sh -c id",
            "https://host/u/..",
            "https://host/u/r#main",
            "ssh://-oProxyCommand=x/u/r",
            "git@:u/r",
        ] {
            assert!(TemplateUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
