//! What several layers make, against a model that keeps paths in a map and nothing else.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tars::Tar;
use crate::erofs::archive::Archive;
use crate::erofs::data::Space;
use crate::erofs::decompress::{Compression, Stream};
use crate::erofs::index::{Layer, Node};
use crate::erofs::limits::{Budget, Limits};
use crate::erofs::tree::{ROOT, Tree};

/// One entry of a generated layer.
#[derive(Debug, Clone)]
enum Op {
    Dir,
    File(u8),
    Symlink(String),
    Link(String),
    Whiteout,
    Opaque,
}

/// What the model has at a path: a name for what it is, and which layer said so.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    what: String,
    layer: usize,
}

#[derive(Debug, Default)]
struct Model(BTreeMap<Vec<String>, Seen>);

impl Model {
    /// Resolves all of a path; None if there is a file on the way.
    fn resolve(&mut self, parts: &[String], make: Option<usize>) -> Option<Vec<String>> {
        let mut at: Vec<String> = Vec::new();
        let mut rest: Vec<String> = parts.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let mut next = at.clone();
            next.push(part);
            match self.0.get(&next).map(|seen| seen.what.clone()) {
                Some(what) if what == "dir" => at = next,
                Some(what) if what.starts_with("link ") => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    let target = what.trim_start_matches("link ");
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').filter(|p| !p.is_empty()).rev().map(str::to_owned));
                }
                Some(_) => return None,
                None => {
                    self.0.insert(next.clone(), Seen { what: "dir".into(), layer: make? });
                    at = next;
                }
            }
        }
        Some(at)
    }

    fn remove(&mut self, path: &[String]) {
        self.0.retain(|known, _| !known.starts_with(path));
    }

    /// Removes what lower layers have below or at the paths that `under` says; false if the archive is to be refused.
    fn hide(&mut self, layer: usize, under: impl Fn(&[String]) -> bool) {
        let kept: Vec<Vec<String>> = self.0.iter().filter(|(_, s)| s.layer == layer).map(|(p, _)| p.clone()).collect();
        self.0.retain(|path, seen| {
            !under(path)
                || seen.layer == layer
                || kept.iter().any(|known| known.len() > path.len() && known.starts_with(path))
        });
    }

    fn apply(&mut self, layer: usize, path: &str, op: &Op) -> Option<()> {
        let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        let (name, parent) = parts.split_last()?;
        match op {
            Op::Opaque => {
                if let Some(at) = self.resolve(&parts, None) {
                    self.hide(layer, |path| path.len() > at.len() && path.starts_with(&at));
                }
                return Some(());
            }
            Op::Whiteout => {
                if let Some(mut at) = self.resolve(parent, None) {
                    at.push(name.clone());
                    self.hide(layer, |path| path.starts_with(&at));
                }
                return Some(());
            }
            _ => {}
        }
        let linked = match op {
            Op::Link(target) => {
                let target: Vec<String> = target.split('/').map(str::to_owned).collect();
                let (name, parent) = target.split_last()?;
                let mut at = self.resolve(parent, None)?;
                at.push(name.clone());
                Some(self.0.get(&at)?.what.clone()).filter(|what| what != "dir").map(Some)?
            }
            _ => None,
        };
        let mut at = self.resolve(parent, Some(layer))?;
        at.push(name.clone());
        let what = match op {
            Op::File(byte) => format!("file {byte}"),
            Op::Symlink(target) => format!("link {target}"),
            Op::Link(_) => linked?,
            _ => "dir".into(),
        };
        if !(what == "dir" && self.0.get(&at).is_some_and(|seen| seen.what == "dir")) {
            self.remove(&at);
        }
        self.0.insert(at, Seen { what, layer });
        Some(())
    }
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Dir),
        4 => any::<u8>().prop_map(Op::File),
        1 => (prop_oneof![Just(""), Just("/"), Just("../")], path()).prop_map(|(from, path)| Op::Symlink(format!("{from}{path}"))),
        1 => path().prop_map(Op::Link),
        2 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ]
}

fn tar(layer: &[(String, Op)]) -> Vec<u8> {
    let marked = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    };
    let tar = layer.iter().fold(Tar::default(), |tar, (path, op)| match op {
        Op::Dir => tar.dir(path),
        // As long as its number, so that the index alone tells files apart.
        Op::File(byte) => tar.file(path, &vec![*byte; usize::from(*byte)]),
        Op::Symlink(target) => tar.symlink(path, target),
        Op::Link(target) => tar.link(path, target),
        Op::Whiteout => tar.file(&marked(path), b""),
        Op::Opaque => tar.file(&format!("{path}/.wh..wh..opq"), b""),
    });
    tar.end()
}

fn paths(tree: &Tree<'_>) -> BTreeMap<Vec<String>, String> {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u32, u32> = BTreeMap::new();
    let mut rest = vec![(Vec::new(), ROOT)];
    while let Some((path, id)) = rest.pop() {
        let inode = tree.get(id).unwrap();
        for (name, edge) in &inode.children {
            let mut path = path.clone();
            path.push(String::from_utf8(name.to_vec()).unwrap());
            let child = tree.get(edge.inode).unwrap();
            let what = match &child.node {
                Node::Directory => {
                    assert_eq!(child.parent, id);
                    "dir".into()
                }
                Node::File(extent) => format!("file {}", extent.size),
                Node::Symlink(target) => format!("link {}", String::from_utf8_lossy(target)),
                other => panic!("{other:?}"),
            };
            *names.entry(edge.inode).or_default() += 1;
            rest.push((path.clone(), edge.inode));
            found.insert(path, what);
        }
    }
    for (id, count) in names {
        assert_eq!(tree.get(id).unwrap().names, count, "every name of a file is counted");
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn layers_make_what_the_model_says(
        layers in proptest::collection::vec(proptest::collection::vec((path(), op()), 0..12), 1..4)
    ) {
        let budget = Budget::new(Limits::default());
        let space = Space::new(tempfile::tempfile().unwrap());
        let mut tree = Tree::new(&budget);
        let mut model = Model::default();
        for (number, layer) in layers.iter().enumerate() {
            let bytes = tar(layer);
            let stream = Stream::new(&budget, Compression::None, 0, &bytes[..]).unwrap();
            let entries = Archive::new(stream, &budget, &space).read().unwrap().entries;
            let ours = tree.apply(number as u32 + 1, Layer { entries, identity: [0; 32] });
            let theirs = layer.iter().try_for_each(|(path, op)| model.apply(number + 1, path, op));
            prop_assert_eq!(ours.is_ok(), theirs.is_some(), "layer {}: {:?}", number, ours);
            if ours.is_err() {
                return Ok(());
            }
        }
        let expected: BTreeMap<_, _> = model.0.into_iter().map(|(path, seen)| (path, seen.what)).collect();
        prop_assert_eq!(paths(&tree), expected);
    }
}
