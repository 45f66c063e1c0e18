//! Verbs about what is set of a jail, and what runs in it.

use std::collections::BTreeSet;

use moat_model::jail::property::{Setting, names, setting, unsetting};
use moat_model::jail::steps::Action;
use moat_model::jail::{JailLimit, Tag, limit};
use moat_model::spec::Resources;

use super::Context;
use crate::bastille::redirect::{RedirectOptions, redirect};
use crate::bastille::words::Word;
use crate::problem::{Fault, alike};

/// `CONFIG set PROPERTY VALUE`, `CONFIG set PROPERTY=VALUE`, `CONFIG remove PROPERTY`
pub(super) fn config(line: &Context<'_>) -> Option<Action> {
    let usage = "write CONFIG set PROPERTY VALUE, or CONFIG remove PROPERTY";
    let Some((action, words)) = line.words.split_first() else {
        return line.wrong("CONFIG without anything", usage);
    };
    let (word, property, value) = match (action.text.to_ascii_lowercase().as_str(), words) {
        ("set" | "add", [property]) => match property.text.split_once('=') {
            Some((name, value)) => (property, name, Some(value)),
            None => (property, property.text.as_str(), Some("")),
        },
        ("set" | "add", [property, value]) => (property, property.text.as_str(), Some(value.text.as_str())),
        ("remove" | "delete", [property]) => (property, property.text.as_str(), None),
        ("get", _) => return line.wrong_word(action, "it only shows something, and changes nothing", usage),
        ("set" | "add", [_, _, more, ..]) => return line.wrong_word(more, "a value is one word", "put it in quotes"),
        _ => return line.wrong_word(action, "CONFIG is not written so", usage),
    };
    let checked = match value {
        Some(value) => setting(property, value).map(|set| set != Setting::Holds),
        None => unsetting(property).map(|_| true),
    };
    match checked {
        Ok(true) => Some(Action::Config { property: property.to_owned(), value: value.map(str::to_owned) }),
        Ok(false) => {
            line.reports.warn(Fault::new(word.place, format!("{property} holds for every jail: nothing is done")));
            None
        }
        Err(e) => {
            let fault = Fault::new(word.place, e.to_string());
            let like = alike(property, names()).filter(|like| *like != property);
            line.reports.push(match like {
                Some(like) => fault.fix(format!("did you mean {like}?")),
                None => fault,
            });
            None
        }
    }
}

/// `LIMITS RESOURCE VALUE`, `LIMITS add RESOURCE VALUE`, `LIMITS remove RESOURCE`, `LIMITS reset`
pub(super) fn limits(line: &Context<'_>) -> Option<Action> {
    let usage = "write LIMITS RESOURCE VALUE, such as LIMITS memoryuse 1G";
    let (resource, value) = match (line.texts().as_slice(), line.words) {
        (["reset"], _) => return Some(Action::Unlimit { resource: None }),
        (["clear"], [word]) => {
            let fix = "write LIMITS reset, which takes them away";
            return line.wrong_word(word, "limits hold as long as they are declared", fix);
        }
        (["list" | "stats" | "show", ..], [word, ..]) => {
            return line.wrong_word(word, "it only shows something, and changes nothing", usage);
        }
        (["remove" | "delete", resource], _) => {
            return Some(Action::Unlimit { resource: Some((*resource).to_owned()) });
        }
        (["add", ..], [_, resource, value]) | (_, [resource, value]) => (resource, value),
        _ => return line.wrong("LIMITS is not written so", usage),
    };
    let asked = JailLimit { resource: resource.text.clone(), value: value.text.clone() };
    match limit(&asked, &mut Resources::default()) {
        Ok(()) => Some(Action::Limit(asked)),
        Err(e) => {
            let is_value = matches!(e, moat_model::jail::LimitError::Value { .. });
            line.wrong_word(if is_value { value } else { resource }, e.to_string(), usage)
        }
    }
}

/// `RDR tcp|udp HOSTPORT JAILPORT` and its long form, `RDR reset`
pub(super) fn rdr(line: &Context<'_>) -> Option<Action> {
    match line.texts().as_slice() {
        ["reset"] => return Some(Action::Unredirect),
        ["clear"] => {
            return line.wrong("redirects hold as long as they are declared", "write RDR reset, which takes them away");
        }
        ["list"] => return line.wrong("it only shows something, and changes nothing", "leave the line out"),
        _ => {}
    }
    let (options, first) = redirect_options(line)?;
    let words = line.words.get(first..).unwrap_or_default();
    let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
    match redirect(&options, &texts) {
        Ok(redirect) => {
            if let Some(word) = words.first().filter(|word| word.text == "dual") {
                line.reports.warn(Fault::new(word.place, "jails have no IPv6: this leads IPv4 only"));
            }
            Some(Action::Redirect(redirect))
        }
        Err(refusal) => line.refused(words, refusal),
    }
}

/// `-i`, `-s`, `-d` and `-t`, and where the rest begins.
fn redirect_options<'a>(line: &'a Context<'_>) -> Option<(RedirectOptions<'a>, usize)> {
    let mut options = RedirectOptions::default();
    let mut at = 0;
    while let Some(word) = line.words.get(at).filter(|word| word.text.starts_with('-')) {
        let place = match word.text.as_str() {
            "-i" | "--interface" => &mut options.interface,
            "-s" | "--source" => &mut options.source,
            "-d" | "--destination" => &mut options.destination,
            "-t" | "--type" => &mut options.family,
            other => return line.wrong_word(word, format!("RDR has no option {other}"), "there are -i, -s, -d and -t"),
        };
        let Some(value) = line.words.get(at + 1) else {
            return line.wrong_word(word, "an option without a value", "write its value behind it");
        };
        *place = Some(value.text.as_str());
        at += 2;
    }
    Some((options, at))
}

/// `PKG NAME…`
pub(super) fn pkg(line: &Context<'_>) -> Option<Action> {
    if line.words.is_empty() {
        return line.wrong("PKG without a package", "write PKG and names of packages");
    }
    for word in line.words {
        if word.text.starts_with('-') {
            return line.wrong_word(
                word,
                "PKG takes names of packages, no options",
                "leave it out; nothing is asked anyway",
            );
        }
        let is_name = !word.text.is_empty() && word.text.chars().all(|c| !c.is_whitespace() && !c.is_control());
        if !is_name {
            let fix = "write each package as a word of its own; the value of an ARG is part of one word";
            return line.wrong_word(word, format!("{:?} is no name of a package", cut(&word.text)), fix);
        }
    }
    Some(Action::Pkg { packages: line.words.iter().map(|word| word.text.clone()).collect() })
}

/// `SYSRC NAME=VALUE…`, with `+=` and `-=`, `-f FILE`, `-x NAME`
pub(super) fn sysrc(line: &Context<'_>) -> Option<Action> {
    let usage = "write SYSRC NAME=VALUE, with the value in quotes if it has blanks";
    if line.words.is_empty() {
        return line.wrong("SYSRC without a variable", usage);
    }
    let mut is_removal = false;
    let mut words = line.words.iter();
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "-f" if words.next().is_none() => return line.wrong_word(word, "-f without a file", usage),
            "-f" | "-c" | "-i" | "-n" | "-q" | "-v" => {}
            "-x" => is_removal = true,
            option if option.starts_with('-') => {
                return line.wrong_word(
                    word,
                    format!("SYSRC has no option {option}"),
                    "there are -f, -x, -n, -q, -c, -i and -v",
                );
            }
            text => {
                let name = text.split_once('=').map_or(text, |(name, _)| name.trim_end_matches(['+', '-']));
                let is_name = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
                if !is_name || name.starts_with(|c: char| c.is_ascii_digit()) {
                    return line.wrong_word(word, format!("{:?} is no name of a variable", cut(name)), usage);
                }
                if !text.contains('=') && !is_removal {
                    return line.wrong_word(word, "it only shows the variable, and changes nothing", usage);
                }
            }
        }
    }
    Some(Action::Sysrc { args: line.words.iter().map(|word| word.text.clone()).collect() })
}

/// `SERVICE NAME ACTION`
pub(super) fn service(line: &Context<'_>) -> Option<Action> {
    let usage = "write SERVICE NAME ACTION, such as SERVICE nginx start";
    let [name, action] = line.words else {
        let message = format!("SERVICE takes a name and an action; here are {} words", line.words.len());
        return line.wrong(message, usage);
    };
    for word in [name, action] {
        is_service(line, word)?;
    }
    Some(Action::Service { name: name.text.clone(), action: action.text.clone() })
}

fn is_service(line: &Context<'_>, word: &Word) -> Option<()> {
    if is_service_name(&word.text) {
        return Some(());
    }
    let fix = "letters, digits, '_', '-', '.' and '@', not beginning with '-' or '.'";
    line.wrong_word(word, format!("{:?} is no name of a service or of an action", cut(&word.text)), fix)
}

fn is_service_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.@".contains(c))
}

/// `TAGS T…`, `TAGS add T,T`, `TAGS delete T,T`
pub(super) fn tags(line: &Context<'_>) -> Option<Action> {
    let (is_removal, words) = match line.words.split_first() {
        Some((first, rest)) if first.text == "add" && !rest.is_empty() => (false, rest),
        Some((first, rest)) if first.text == "delete" && !rest.is_empty() => (true, rest),
        Some((first, _)) if first.text == "list" => {
            return line.wrong_word(first, "it only shows something, and changes nothing", "leave the line out");
        }
        _ => (false, line.words),
    };
    let mut tags = BTreeSet::new();
    for (word, text) in words.iter().flat_map(listed) {
        match Tag::parse(text) {
            Ok(tag) => tags.insert(tag),
            Err(e) => {
                return line.wrong_word(word, e.to_string(), "write TAGS and labels, with blanks or commas between");
            }
        };
    }
    match (tags.is_empty(), is_removal) {
        (true, _) => line.wrong("TAGS without a label", "write TAGS and labels, with blanks or commas between"),
        (false, true) => Some(Action::Untag { tags }),
        (false, false) => Some(Action::Tags { tags }),
    }
}

fn listed(word: &Word) -> impl Iterator<Item = (&Word, &str)> {
    word.text.split(',').filter(|text| !text.is_empty()).map(move |text| (word, text))
}

/// `MONITOR add S,S`, `MONITOR delete S,S`
pub(super) fn monitor(line: &Context<'_>) -> Option<Action> {
    let usage = "write MONITOR add SERVICE, or MONITOR delete SERVICE";
    let Some((action, words)) = line.words.split_first().filter(|(_, words)| !words.is_empty()) else {
        return line.wrong("MONITOR takes an action and services", usage);
    };
    let mut services = BTreeSet::new();
    for (word, text) in words.iter().flat_map(listed) {
        if !is_service_name(text) {
            return line.wrong_word(word, format!("{:?} is no name of a service", cut(text)), usage);
        }
        services.insert(text.to_owned());
    }
    match action.text.as_str() {
        _ if services.is_empty() => line.wrong("MONITOR takes an action and services", usage),
        "add" => Some(Action::Watch { services }),
        "delete" => Some(Action::Unwatch { services }),
        other => line.wrong_word(action, format!("MONITOR has no {other:?}"), usage),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
