//! What all layers together make: each is applied to what the lower ones left, in the order of its archive.
//!
//! The rules are those of unpacking one layer after the other into a directory, as containerd and umoci do it: directories
//! on the way to an entry may be symbolic links, which are followed within the root and never out of it, and where nothing
//! is, directories are made. A link at the end of a path is replaced, not followed. Whiteouts hide only what lower layers
//! have, wherever in their layer they stand.

use std::collections::{BTreeMap, HashSet};

use moat_model::ErrorKind;

use super::data::Extent;
use super::index::{Attributes, Entry, Layer, Node, What};
use super::limits::{Budget, NAME_LEN_MAX, about};
use super::path::split;
use crate::error::{Error, Result};

/// Number of an inode in [`Tree`].
pub(super) type Id = u32;

/// The root is there from the beginning.
pub(super) const ROOT: Id = 0;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    /// What it names.
    pub(super) inode: Id,
    /// Which layer said so last.
    layer: u32,
}

/// A file of whatever type.
#[derive(Debug)]
pub(super) struct Inode {
    /// Attributes.
    pub(super) attributes: Attributes,
    /// The rest.
    pub(super) node: Node,
    /// How many names it has; of a directory one.
    pub(super) names: u32,
    /// Of a directory: what is in it.
    pub(super) children: BTreeMap<Box<[u8]>, Edge>,
    /// Of a directory: where it is.
    pub(super) parent: Id,
}

/// The merged tree.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    inodes: Vec<Option<Inode>>,
    /// Content that nobody names any more.
    pub(super) dead: Vec<Extent>,
    budget: &'a Budget,
    /// Directories below which the layer being applied has hidden everything of lower ones.
    hidden: HashSet<Id>,
    steps: u64,
}

impl<'a> Tree<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        let root = Inode::directory(ROOT);
        Self { inodes: vec![Some(root)], dead: Vec::new(), budget, hidden: HashSet::new(), steps: 0 }
    }

    /// One more layer on top.
    pub(super) fn apply(&mut self, number: u32, layer: Layer) -> Result<()> {
        self.hidden.clear();
        for Entry { path, what } in layer.entries {
            self.entry(number, &path, what).map_err(|e| about(&path, e))?;
        }
        Ok(())
    }

    /// What has this number.
    pub(super) fn get(&self, id: Id) -> Result<&Inode> {
        self.inodes.get(id as usize).and_then(Option::as_ref).ok_or_else(|| broken("a name of nothing"))
    }

    /// Numbers are below this.
    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    fn get_mut(&mut self, id: Id) -> Result<&mut Inode> {
        self.inodes.get_mut(id as usize).and_then(Option::as_mut).ok_or_else(|| broken("a name of nothing"))
    }

    pub(super) fn child(&self, directory: Id, name: &[u8]) -> Result<Option<Edge>> {
        Ok(self.get(directory)?.children.get(name).copied())
    }

    fn entry(&mut self, layer: u32, path: &[u8], what: What) -> Result<()> {
        let (parent, name) = split(path);
        match what {
            What::Node(attributes, Node::Directory) => self.directory(layer, parent, name, attributes),
            What::Node(attributes, node) => {
                let parent = self.walk(parent, Some(layer))?.ok_or_else(|| broken("a parent"))?;
                self.put(layer, parent, name, attributes, node)
            }
            What::Link(target) => self.link(layer, parent, name, &target),
            What::Whiteout => match self.walk(parent, None)? {
                Some(parent) => self.hide(layer, parent, Some(name)),
                None => Ok(()),
            },
            What::Opaque => match self.walk(path, None)? {
                Some(directory) => self.hide(layer, directory, None),
                None => Ok(()),
            },
        }
    }

    fn directory(&mut self, layer: u32, parent: &[u8], name: &[u8], attributes: Attributes) -> Result<()> {
        if name.is_empty() {
            self.get_mut(ROOT)?.attributes = attributes;
            return Ok(());
        }
        let parent = self.walk(parent, Some(layer))?.ok_or_else(|| broken("a parent"))?;
        if let Some(edge) = self.child(parent, name)? {
            let inode = self.get_mut(edge.inode)?;
            if inode.node == Node::Directory {
                inode.attributes = attributes;
                self.name(layer, parent, name, edge.inode)?;
                return Ok(());
            }
        }
        self.put(layer, parent, name, attributes, Node::Directory)
    }

    fn put(&mut self, layer: u32, parent: Id, name: &[u8], attributes: Attributes, node: Node) -> Result<()> {
        self.remove(parent, name)?;
        let id = Id::try_from(self.inodes.len()).map_err(|_| Error::new(ErrorKind::Exhausted, "too many files"))?;
        self.inodes.push(Some(Inode { attributes, node, ..Inode::directory(parent) }));
        self.name(layer, parent, name, id)
    }

    fn link(&mut self, layer: u32, parent: &[u8], name: &[u8], target: &[u8]) -> Result<()> {
        let missing = || {
            let target = target.escape_ascii();
            Error::new(ErrorKind::InvalidSpec, format!("a hard link to \"{target}\", which is not there"))
        };
        let (target_parent, target_name) = split(target);
        let directory = self.walk(target_parent, None)?.ok_or_else(missing)?;
        let edge = self.child(directory, target_name)?.ok_or_else(missing)?;
        let parent = self.walk(parent, Some(layer))?.ok_or_else(|| broken("a parent"))?;
        if self.get(edge.inode)?.node == Node::Directory || name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidSpec, "a hard link to or in place of a directory"));
        }
        // Kept alive first: the name may be the last one of the very same file.
        let inode = self.get_mut(edge.inode)?;
        inode.names = inode.names.checked_add(1).ok_or_else(|| broken("too many names"))?;
        self.remove(parent, name)?;
        self.name(layer, parent, name, edge.inode)
    }

    fn name(&mut self, layer: u32, parent: Id, name: &[u8], inode: Id) -> Result<()> {
        self.get_mut(parent)?.children.insert(name.into(), Edge { inode, layer });
        Ok(())
    }

    /// The directory at a path; `make` says for which layer to make what is missing. None if there is none.
    fn walk(&mut self, path: &[u8], make: Option<u32>) -> Result<Option<Id>> {
        let mut at = ROOT;
        // What is still to go, last first, so that the target of a link is put on top.
        let mut rest: Vec<Box<[u8]>> = Vec::new();
        push_parts(&mut rest, path);
        let (mut steps, mut links) = (0_usize, 0);
        while let Some(part) = rest.pop() {
            steps += 1;
            self.steps += 1;
            if steps > STEPS_MAX || rest.len() > STEPS_MAX || links > LINKS_MAX {
                // Who only looks finds nothing there, as a file system would say.
                return match make {
                    None => Ok(None),
                    Some(_) => Err(Error::new(ErrorKind::InvalidSpec, "too many symbolic links on its way")),
                };
            }
            if self.steps > STEPS_TOTAL_MAX {
                return Err(Error::new(ErrorKind::Exhausted, "image: its paths have too many parts"));
            }
            if &*part == b".." {
                at = self.get(at)?.parent;
                continue;
            }
            let Some(edge) = self.child(at, &part)? else {
                let Some(layer) = make else { return Ok(None) };
                if part.len() > NAME_LEN_MAX {
                    return Err(Error::new(ErrorKind::InvalidSpec, "a link on its way has a part that is too long"));
                }
                self.budget.entry()?;
                let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                self.put(layer, at, &part, attributes, Node::Directory)?;
                at = self.child(at, &part)?.ok_or_else(|| broken("a directory just made"))?.inode;
                continue;
            };
            match &self.get(edge.inode)?.node {
                Node::Directory => at = edge.inode,
                Node::Symlink(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    push_parts(&mut rest, target);
                }
                _ if make.is_none() => return Ok(None),
                _ => {
                    let what = format!("\"{}\" on its way is not a directory", part.escape_ascii());
                    return Err(Error::new(ErrorKind::InvalidSpec, what));
                }
            }
        }
        Ok(Some(at))
    }

    /// Takes a name away, with all that is below it.
    fn remove(&mut self, parent: Id, name: &[u8]) -> Result<()> {
        let Some(edge) = self.get_mut(parent)?.children.remove(name) else { return Ok(()) };
        let mut rest = vec![edge.inode];
        while let Some(id) = rest.pop() {
            let inode = self.get_mut(id)?;
            inode.names -= 1;
            if inode.names > 0 {
                continue;
            }
            if let Some(inode) = self.inodes.get_mut(id as usize).and_then(Option::take) {
                if let Node::File(extent) = inode.node {
                    self.dead.push(extent);
                }
                rest.extend(inode.children.values().map(|edge| edge.inode));
            }
        }
        Ok(())
    }

    /// Takes away what lower layers have under this name, or under any. A directory in which this layer has something
    /// stays, for that.
    fn hide(&mut self, layer: u32, directory: Id, name: Option<&[u8]>) -> Result<()> {
        let mut found: Vec<(Id, Box<[u8]>)> = Vec::new();
        let mut rest = match name {
            Some(name) if self.child(directory, name)?.is_some() => vec![(directory, name.into())],
            Some(_) => Vec::new(),
            None => self.not_yet_hidden(directory)?,
        };
        while let Some((parent, name)) = rest.pop() {
            if let Some(edge) = self.child(parent, &name)? {
                rest.extend(self.not_yet_hidden(edge.inode)?);
            }
            found.push((parent, name));
        }
        // Parents were found before their children: from the end, a directory is looked at when what is in it has gone.
        for (parent, name) in found.into_iter().rev() {
            let Some(edge) = self.child(parent, &name)? else { continue };
            if edge.layer < layer && self.get(edge.inode)?.children.is_empty() {
                self.remove(parent, &name)?;
            }
        }
        Ok(())
    }

    /// The names in a directory. None the second time: what has been hidden in it stays hidden for the rest of the layer, and
    /// an archive that says it a million times must not cost a million walks.
    fn not_yet_hidden(&mut self, id: Id) -> Result<Vec<(Id, Box<[u8]>)>> {
        if self.get(id)?.children.is_empty() || !self.hidden.insert(id) {
            return Ok(Vec::new());
        }
        Ok(self.get(id)?.children.keys().map(|name| (id, name.clone())).collect())
    }
}

impl Inode {
    fn directory(parent: Id) -> Self {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        Self { attributes, node: Node::Directory, names: 1, children: BTreeMap::new(), parent }
    }
}

/// Symbolic links on one way: as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Parts of one way with those of all links on it: a path of the longest length of parts of one letter.
const STEPS_MAX: usize = 2048;

/// Parts of all ways together: two million entries, a hundred directories deep.
const STEPS_TOTAL_MAX: u64 = 200_000_000;

fn push_parts(rest: &mut Vec<Box<[u8]>>, path: &[u8]) {
    let parts = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    rest.extend(parts.rev().map(Box::from));
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("merge layers: {what} is missing"))
}
