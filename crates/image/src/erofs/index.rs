//! What the layers say, in the order they say it: names and attributes without content.

use super::data::Extent;

/// Attributes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permission bits, without the type.
    pub(super) mode: u16,
    /// Owner.
    pub(super) uid: u32,
    /// Group.
    pub(super) gid: u32,
    /// Seconds of the time of change.
    pub(super) mtime: i64,
    /// And nanoseconds.
    pub(super) mtime_nsec: u32,
    /// Extended attributes, full names, sorted. Most files have none.
    pub(super) xattrs: Option<Box<Xattrs>>,
}

/// Name and value of each extended attribute.
pub type Xattrs = std::collections::BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A layer.
#[derive(Debug)]
pub(super) struct Layer {
    /// In the order of the archive.
    pub(super) entries: Vec<Entry>,
    /// What the identity of the root file is made from.
    pub(super) identity: [u8; 32],
}

/// What a layer says of one path.
#[derive(Debug)]
pub(super) struct Entry {
    /// Checked: parts joined by single slashes, none of them `.` or `..`; empty for the root.
    pub(super) path: Box<[u8]>,
    /// What is there.
    pub(super) what: What,
}

impl Entry {
    /// Bytes of names and attributes.
    pub(super) fn weight(&self) -> u64 {
        let more = match &self.what {
            What::Node(attributes, node) => {
                let xattrs = attributes.xattrs.iter().flat_map(|xattrs| xattrs.iter());
                let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
                xattrs + if let Node::Symlink(target) = node { target.len() } else { 0 }
            }
            What::Link(target) => target.len(),
            What::Whiteout | What::Opaque => 0,
        };
        (self.path.len() + more) as u64
    }
}

/// What a layer has at a path.
#[derive(Debug)]
pub(super) enum What {
    /// A directory, a file, a symbolic link, a pipe.
    Node(Attributes, Node),
    /// Another name of what has this path.
    Link(Box<[u8]>),
    /// Nothing, whatever lower layers have there.
    Whiteout,
    /// A directory that shows nothing of lower layers.
    Opaque,
}

/// What there is beside attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory.
    Directory,
    /// A regular file.
    File(Extent),
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Pipe,
    /// A whiteout to be kept as one: a character device 0/0.
    Hidden,
}
