//! Verbs: which there are, and what each takes.

mod files;
mod settings;

use moat_model::jail::TemplateName;
use moat_model::jail::steps::Action;

use super::arguments::Scope;
use super::words::Word;
use super::{Refusal, Sources};
use crate::problem::{Fault, Place, Reports, alike};

/// What a line does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Declares an argument.
    Arg { mandatory: bool },
    /// Another template, here.
    Include,
    /// The one whose text a shell reads.
    Cmd,
    /// The others take words.
    Words(Plain),
}

/// Verbs that take words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Config,
    Copy,
    Overlay,
    Mount,
    Umount,
    Limits,
    Line,
    Monitor,
    Pkg,
    Rdr,
    Render,
    Restart,
    Service,
    Start,
    Stop,
    Sysrc,
    Tags,
}

const VERBS: [(&str, Verb); 29] = [
    ("ARG", Verb::Arg { mandatory: false }),
    ("ARG+", Verb::Arg { mandatory: true }),
    ("CMD", Verb::Cmd),
    ("CONFIG", Verb::Words(Plain::Config)),
    ("COPY", Verb::Words(Plain::Copy)),
    ("CP", Verb::Words(Plain::Copy)),
    ("FSTAB", Verb::Words(Plain::Mount)),
    ("INCLUDE", Verb::Include),
    ("LIF", Verb::Words(Plain::Line)),
    ("LIMITS", Verb::Words(Plain::Limits)),
    ("LIMIT", Verb::Words(Plain::Limits)),
    ("LINEINFILE", Verb::Words(Plain::Line)),
    ("LINE_IN_FILE", Verb::Words(Plain::Line)),
    ("MONITOR", Verb::Words(Plain::Monitor)),
    ("MOUNT", Verb::Words(Plain::Mount)),
    ("OVERLAY", Verb::Words(Plain::Overlay)),
    ("PKG", Verb::Words(Plain::Pkg)),
    ("RDR", Verb::Words(Plain::Rdr)),
    ("RENDER", Verb::Words(Plain::Render)),
    ("RESTART", Verb::Words(Plain::Restart)),
    ("SERVICE", Verb::Words(Plain::Service)),
    ("START", Verb::Words(Plain::Start)),
    ("STOP", Verb::Words(Plain::Stop)),
    ("SYSRC", Verb::Words(Plain::Sysrc)),
    ("TAG", Verb::Words(Plain::Tags)),
    ("TAGS", Verb::Words(Plain::Tags)),
    ("TEMPLATE", Verb::Include),
    ("UMOUNT", Verb::Words(Plain::Umount)),
    ("UNMOUNT", Verb::Words(Plain::Umount)),
];

const OTHER_JAILS: &str = "a template furnishes the jail it is applied to, and no other";
const NODE: &str = "it is about the node, not about one jail; run the command of that name";
const TERMINAL: &str = "it needs somebody at a terminal";
const SHOWS: &str = "it only shows something, and changes nothing";

/// Sub-commands of Bastille that are no verbs here, and why.
const REFUSED: [(&str, &str); 34] = [
    ("BOOTSTRAP", NODE),
    ("CLONE", OTHER_JAILS),
    ("CONSOLE", TERMINAL),
    ("CONVERT", "it changes how the jail's root is made, which is decided before its files are changed"),
    ("CREATE", OTHER_JAILS),
    ("DESTROY", "a template does not end the jail it furnishes"),
    ("EDIT", TERMINAL),
    ("ETCUPDATE", "it merges FreeBSD's /etc; a thin jail sees its release anew at its next start"),
    ("EXPORT", NODE),
    ("HPKG", "the host's package manager is not run for a jail; PKG installs with the jail's own"),
    ("HTOP", TERMINAL),
    ("IMPORT", NODE),
    ("JCP", OTHER_JAILS),
    ("JEXEC", "write CMD"),
    ("LIST", SHOWS),
    ("LOGS", SHOWS),
    ("MIGRATE", NODE),
    (
        "NETWORK",
        "interfaces of jails are not added one by one; the address is set at create, or with CONFIG set ip4.addr",
    ),
    ("PF", "rules of packets are the node's; RDR leads a port to the jail"),
    ("PLUGIN", "there are no plugins"),
    ("PRE", "it is of the old form, one file for each hook; convert the template"),
    ("RCP", "files of a jail are copied out with the command of that name, not by a template"),
    ("RENAME", "a template does not rename the jail it furnishes"),
    ("SETUP", NODE),
    ("TARGET", "it is of the old form, one file for each hook; convert the template"),
    ("TOP", TERMINAL),
    ("UP", NODE),
    ("UPDATE", "a release is updated for all of its jails, with the command of that name"),
    ("UPGRADE", "it changes the release below the jail; run the command of that name"),
    ("VERIFY", SHOWS),
    ("ZFS", "there are no ZFS datasets; snapshots are taken with the command snapshot"),
    ("JAIL", OTHER_JAILS),
    ("UNJAIL", OTHER_JAILS),
    ("RUN", "write CMD"),
];

/// Which verb `word` is, in any case. If none, that is reported.
pub(super) fn verb(word: &str, place: Place, reports: &Reports) -> Option<Verb> {
    let upper = word.to_ascii_uppercase();
    if let Some((_, verb)) = VERBS.iter().find(|(known, _)| *known == upper) {
        return Some(*verb);
    }
    let fault = match REFUSED.iter().find(|(known, _)| *known == upper) {
        Some((_, why)) => Fault::new(place, format!("{upper} is no verb of templates here")).fix(*why),
        None => {
            let shown: String = word.chars().take(40).collect();
            let fault = Fault::new(place, format!("{shown:?} is no verb"));
            match alike(&upper, VERBS.iter().map(|(known, _)| *known)) {
                Some(like) => fault.fix(format!("did you mean {like}?")),
                None => fault.fix("a line of a template begins with a verb, such as PKG, CMD, CP, SYSRC or SERVICE"),
            }
        }
    };
    reports.push(fault);
    None
}

/// What a line is read with.
pub(super) struct Context<'a> {
    pub template: &'a TemplateName,
    /// Of the verb.
    pub place: Place,
    pub words: &'a [Word],
    pub scope: &'a Scope,
    pub reports: &'a Reports,
    pub sources: &'a dyn Sources,
}

impl Context<'_> {
    /// Something is wrong with the line as a whole.
    fn wrong<T>(&self, message: impl Into<String>, fix: impl Into<String>) -> Option<T> {
        self.reports.push(Fault::new(self.place, message).fix(fix));
        None
    }

    /// Something is wrong with a word.
    fn wrong_word<T>(&self, word: &Word, message: impl Into<String>, fix: impl Into<String>) -> Option<T> {
        self.reports.push(Fault::new(word.place, message).fix(fix));
        None
    }

    fn refused<T>(&self, words: &[Word], refusal: Refusal) -> Option<T> {
        let place = refusal.word.and_then(|index| words.get(index)).map_or(self.place, |word| word.place);
        let fault = Fault::new(place, refusal.message);
        self.reports.push(match refusal.fix {
            Some(fix) => fault.fix(fix),
            None => fault,
        });
        None
    }

    /// Whatever could be read of the line, for verbs whose words each may be wrong.
    fn texts(&self) -> Vec<&str> {
        self.words.iter().map(|word| word.text.as_str()).collect()
    }
}

/// What a line does. Where it is wrong that is reported, and it does nothing.
pub(super) fn actions(verb: Plain, line: &Context<'_>) -> Vec<Action> {
    let one = match verb {
        Plain::Copy => return files::copy(line),
        Plain::Overlay => return files::overlay(line),
        Plain::Mount => files::mount(line),
        Plain::Umount => files::umount(line),
        Plain::Line => files::line_in_file(line),
        Plain::Render => files::render(line),
        Plain::Config => settings::config(line),
        Plain::Limits => settings::limits(line),
        Plain::Monitor => settings::monitor(line),
        Plain::Pkg => settings::pkg(line),
        Plain::Rdr => settings::rdr(line),
        Plain::Service => settings::service(line),
        Plain::Sysrc => settings::sysrc(line),
        Plain::Tags => settings::tags(line),
        Plain::Restart => alone(line, Action::Restart),
        Plain::Start => alone(line, Action::Start),
        Plain::Stop => alone(line, Action::Stop),
    };
    one.into_iter().collect()
}

fn alone(line: &Context<'_>, action: Action) -> Option<Action> {
    match line.words.first() {
        None => Some(action),
        Some(word) => line.wrong_word(word, "nothing stands behind this verb", "leave it out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_there_or_refused_never_both() {
        let all: Vec<_> = VERBS.iter().map(|(verb, _)| verb).chain(REFUSED.iter().map(|(verb, _)| verb)).collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), distinct.len());
    }
}
