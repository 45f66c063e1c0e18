//! Verbs about files: `CP`, `OVERLAY`, `MOUNT`, `UMOUNT`, `LINE_IN_FILE`, `RENDER`.

use std::path::PathBuf;

use moat_model::jail::steps::{Action, CopySource};

use super::Context;
use crate::bastille::mount::{self, inside, plain};
use crate::bastille::words::Word;
use crate::problem::Fault;

/// `CP SOURCE… TARGET`: one step for each source.
pub(super) fn copy(line: &Context<'_>) -> Vec<Action> {
    let Some((target, sources)) = line.words.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        let _: Option<()> = line.wrong("CP takes what is copied, and where to", "write CP SOURCE TARGET");
        return Vec::new();
    };
    let Some(path) = target_path(line, target) else { return Vec::new() };
    // As cp: several go into a directory.
    let into = is_directory(target) || sources.len() > 1;
    sources.iter().filter_map(|source| copied(line, source, path.clone(), into)).collect()
}

/// `OVERLAY DIR…` is `CP DIR /`.
pub(super) fn overlay(line: &Context<'_>) -> Vec<Action> {
    if line.words.is_empty() {
        let _: Option<()> = line.wrong("OVERLAY without a directory", "write OVERLAY and directories of the template");
    }
    line.words.iter().filter_map(|source| copied(line, source, PathBuf::from("/"), true)).collect()
}

fn is_directory(word: &Word) -> bool {
    word.text.ends_with('/') || word.text.ends_with("/.")
}

fn copied(line: &Context<'_>, source: &Word, target: PathBuf, into: bool) -> Option<Action> {
    no_pattern(line, source)?;
    let (from, contents) = source_of(line, source)?;
    Some(Action::Copy { source: from, contents, target, into })
}

fn source_of(line: &Context<'_>, word: &Word) -> Option<(CopySource, bool)> {
    let text = word.text.as_str();
    let path = match plain(text) {
        Ok(path) => path,
        Err(message) => return line.wrong_word(word, message, "a source is below the template, or an absolute path"),
    };
    // All that is in the template, its Bastillefile too.
    let contents = is_directory(word) || text == ".";
    if text.starts_with('/') {
        return Some((CopySource::Host(PathBuf::from("/").join(path)), contents));
    }
    if text.is_empty() {
        return line.wrong_word(word, "an empty source", "write a path of the template");
    }
    let is_there = path.as_os_str().is_empty()
        || match line.sources.exists(line.template, &path) {
            Ok(is_there) => is_there,
            Err(message) => return line.wrong_word(word, message, "look into the template"),
        };
    if !is_there {
        let fix = "a source is relative to the template's directory; an absolute one is a path of the host";
        return line.wrong_word(word, format!("the template {} has no {text:?}", line.template), fix);
    }
    Some((CopySource::Template { template: line.template.clone(), path }, contents))
}

/// A host's shell would have expanded it; who wrote it means more than one file.
fn no_pattern(line: &Context<'_>, word: &Word) -> Option<()> {
    if !word.is_pattern {
        return Some(());
    }
    line.wrong_word(
        word,
        "patterns are not expanded",
        "copy the directory (DIR/ is what is in it), or put it in quotes",
    )
}

fn target_path(line: &Context<'_>, word: &Word) -> Option<PathBuf> {
    no_pattern(line, word)?;
    match inside(&word.text) {
        Ok(path) => Some(path),
        Err(message) => line.wrong_word(word, message, "write an absolute path of the jail"),
    }
}

/// `MOUNT HOSTPATH JAILPATH [nullfs ro|rw 0 0]`
pub(super) fn mount(line: &Context<'_>) -> Option<Action> {
    match mount::mount(&line.texts()) {
        Ok(mount) => Some(Action::Mount(mount)),
        Err(refusal) => line.refused(line.words, refusal),
    }
}

/// `UMOUNT JAILPATH`
pub(super) fn umount(line: &Context<'_>) -> Option<Action> {
    match line.words {
        [word] => Some(Action::Unmount { target: target_path(line, word)? }),
        _ => line.wrong("UMOUNT takes one path", "write UMOUNT JAILPATH"),
    }
}

/// `LINE_IN_FILE "line" PATH`
pub(super) fn line_in_file(line: &Context<'_>) -> Option<Action> {
    let [text, path] = line.words else {
        let message = format!("LINE_IN_FILE takes a line and a path; here are {} words", line.words.len());
        return line.wrong(message, "write LINE_IN_FILE \"the line\" PATH");
    };
    if text.text.is_empty() {
        return line.wrong_word(text, "an empty line", "write what the line is");
    }
    if is_directory(path) {
        return line.wrong_word(path, "this is a directory", "write the path of a file");
    }
    Some(Action::LineInFile { line: text.text.clone(), path: target_path(line, path)? })
}

/// `RENDER PATH`
pub(super) fn render(line: &Context<'_>) -> Option<Action> {
    let [path] = line.words else {
        return line.wrong("RENDER takes one path", "write RENDER and a file or a directory of the jail");
    };
    let path_inside = target_path(line, path)?;
    if path_inside == std::path::Path::new("/") {
        return line.wrong_word(path, "every file of the jail would be read", "render a directory of your own");
    }
    let values = line.scope.all();
    if values.len() <= 3 {
        line.reports.warn(Fault::new(path.place, "no ARG is declared: only the JAIL_… names are filled in"));
    }
    Some(Action::Render { path: path_inside, values })
}
