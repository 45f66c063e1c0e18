//! The marks of an archive's layer, kept as the overlay file system reads them: the file is then a layer of an overlay itself.

use std::collections::HashMap;

use super::index::{Attributes, Entry, Node, What};

/// What the overlay file system says of a directory that shows nothing of lower layers.
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// Permissions of a directory that is only there to be opaque: the archive says nothing else of it.
const DIRECTORY_MODE: u16 = 0o755;

/// Whiteouts become files of their own, opaque marks attributes. A whiteout of what the same archive has hides only what lies
/// below: of a directory it makes one that is opaque, of anything else it says nothing.
pub(super) fn keep_marks(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut marks = Vec::new();
    // The last of each name is the one that counts.
    let mut at: HashMap<Box<[u8]>, usize> = HashMap::new();
    for entry in entries {
        match entry.what {
            What::Whiteout | What::Opaque => marks.push(entry),
            What::Node(..) | What::Link(_) => {
                at.insert(entry.path.clone(), kept.len());
                kept.push(entry);
            }
        }
    }
    for Entry { path, what } in marks {
        let found = at.get(&path).copied();
        match (found.and_then(|at| kept.get_mut(at)), what) {
            (Some(Entry { what: What::Node(attributes, Node::Directory), .. }), _) => opaque(attributes),
            (Some(_), _) => {}
            (None, what) => {
                let what = if let What::Opaque = what {
                    let mut attributes = Attributes { mode: DIRECTORY_MODE, ..Attributes::default() };
                    opaque(&mut attributes);
                    What::Node(attributes, Node::Directory)
                } else {
                    What::Node(Attributes::default(), Node::Hidden)
                };
                at.insert(path.clone(), kept.len());
                kept.push(Entry { path, what });
            }
        }
    }
    kept
}

fn opaque(attributes: &mut Attributes) {
    let value: Box<[u8]> = Box::from(&b"y"[..]);
    attributes.xattrs.get_or_insert_default().insert(OPAQUE.into(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, what: What) -> Entry {
        Entry { path: path.as_bytes().into(), what }
    }

    fn node(node: Node) -> What {
        What::Node(Attributes::default(), node)
    }

    /// One word for each entry.
    fn words(entries: Vec<Entry>) -> Vec<String> {
        let word = |entry: &Entry| match &entry.what {
            What::Node(attributes, Node::Directory) if attributes.xattrs.is_some() => "opaque",
            What::Node(_, Node::Directory) => "directory",
            What::Node(_, Node::Hidden) => "hidden",
            What::Node(..) => "file",
            What::Link(_) => "link",
            What::Whiteout | What::Opaque => "mark",
        };
        let text = |entry: &Entry| format!("{} {}", String::from_utf8_lossy(&entry.path), word(entry));
        keep_marks(entries).iter().map(text).collect()
    }

    #[test]
    fn marks_become_what_an_overlay_reads_whatever_their_order() {
        let pipe = || node(Node::Pipe);
        assert_eq!(
            words(vec![
                entry("gone", What::Whiteout),
                entry("file", What::Whiteout),
                entry("d", What::Opaque),
                entry("d", node(Node::Directory)),
                entry("file", pipe()),
                entry("again", node(Node::Directory)),
                entry("again", What::Whiteout),
                entry("alone", What::Opaque),
            ]),
            ["d opaque", "file file", "again opaque", "gone hidden", "alone opaque"]
        );
    }

    #[test]
    fn a_mark_that_is_there_twice_is_one() {
        let marks = vec![entry("x", What::Whiteout), entry("x", What::Whiteout), entry("y", What::Opaque)];
        assert_eq!(words(marks), ["x hidden", "y opaque"]);
    }
}
