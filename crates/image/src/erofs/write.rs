//! The merged tree, written behind the content: directories' blocks first, then all inodes, then the superblock.

use std::ops::Bound;

use sha2::{Digest as _, Sha256};

use super::RootSummary;
use super::data::{BLOCK, Extent, Space, Streamer};
use super::format::{Content, Directory, INODE, SLOT, Super, directory_len, inode, xattrs_len};
use super::header::invalid;
use super::index::Node;
use super::tree::{Id, Inode, ROOT, Tree};
use crate::error::Result;

/// No inode has the number 0, which readers of directories take for a removed file.
const FIRST_INODE: u64 = INODE;

/// What the identity of a root file begins with; a new number when the same layers make another file.
const FORMAT: &[u8] = b"moat root 1";

/// Where an inode is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Its number; 0 if it has no place yet.
    number: u32,
    /// First block of its content, counted from the first block of directories.
    block: u32,
}

/// All places.
struct Plan {
    /// By id.
    places: Vec<Place>,
    /// Ids in the order of their places.
    order: Vec<Id>,
    /// Blocks of directories.
    blocks: u64,
    /// Bytes of inodes.
    bytes: u64,
    /// Names.
    names: u64,
}

/// Writes all that is not content, and closes the file.
pub(super) fn write(tree: &Tree<'_>, space: &Space, identities: &[[u8; 32]]) -> Result<RootSummary> {
    let plan = plan(tree)?;
    punch(tree, space);
    let directories = space.take(plan.blocks)?;
    let meta = space.take(plan.bytes.div_ceil(BLOCK))?;
    let mut blocks_out = Streamer::from(space, directories * BLOCK);
    let mut inodes_out = Streamer::from(space, meta * BLOCK);
    for (id, count) in plan.order.iter().zip(1..) {
        let inode_of = tree.get(*id)?;
        let place = plan.place(*id);
        let mut content = content(inode_of);
        let bytes = body(tree, &plan, *id, inode_of)?;
        let inline_from = bytes.len() - content.inline.min(bytes.len() as u64) as usize;
        let (whole, inline) = bytes.split_at_checked(inline_from).unwrap_or_default();
        if !whole.is_empty() {
            let first = directories + u64::from(place.block);
            content.block = block_number(first)?;
            blocks_out.seek(first * BLOCK)?;
            blocks_out.write(whole)?;
        }
        inodes_out.seek(meta * BLOCK + u64::from(place.number) * SLOT)?;
        inodes_out.write(&inode(&inode_of.attributes, &inode_of.node, count, links(tree, inode_of)?, content)?)?;
        inodes_out.write(inline)?;
    }
    blocks_out.finish()?;
    inodes_out.finish()?;
    let blocks = space.end();
    let superblock = Super {
        root: u16::try_from(plan.place(ROOT).number).map_err(|_| invalid("the root has no small number"))?,
        inodes: plan.order.len() as u64,
        blocks: block_number(blocks)?,
        meta: block_number(meta)?,
        uuid: uuid(identities),
    };
    space.write_at(&superblock.encode(), 0)?;
    space.close(blocks)?;
    Ok(RootSummary { bytes: blocks * BLOCK, entries: plan.names })
}

impl Plan {
    fn place(&self, id: Id) -> Place {
        self.places.get(id as usize).copied().unwrap_or_default()
    }
}

/// Gives every inode its place: the root first, so that its number is small, directories before what is in them.
fn plan(tree: &Tree<'_>) -> Result<Plan> {
    let places = vec![Place::default(); tree.len()];
    let mut plan = Plan { places, order: Vec::new(), blocks: 0, bytes: FIRST_INODE, names: 1 };
    let mut rest = vec![ROOT];
    while let Some(id) = rest.pop() {
        // A file with several names is met several times.
        if plan.place(id).number != 0 {
            continue;
        }
        let inode = tree.get(id)?;
        let content = content(inode);
        let whole =
            if matches!(inode.node, Node::File(_)) { 0 } else { (content.size - content.inline).div_ceil(BLOCK) };
        let head = INODE + xattrs_len(&inode.attributes);
        let mut at = plan.bytes.next_multiple_of(INODE);
        // What stands behind an inode must not cross into the next block.
        if content.inline > 0 && (at + head) / BLOCK != (at + head + content.inline - 1) / BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        let too_many = |_| invalid("image: its names and attributes are too large");
        let place = Place {
            number: u32::try_from(at / SLOT).map_err(too_many)?,
            block: u32::try_from(plan.blocks).map_err(too_many)?,
        };
        if let Some(slot) = plan.places.get_mut(id as usize) {
            *slot = place;
        }
        plan.bytes = at + head + content.inline;
        plan.blocks += whole;
        plan.order.push(id);
        plan.names += inode.children.len() as u64;
        rest.extend(inode.children.values().rev().map(|edge| edge.inode));
    }
    Ok(plan)
}

/// How the content of an inode is kept; the block is known later, except a file's.
fn content(inode: &Inode) -> Content {
    let size = match &inode.node {
        Node::File(extent) => return Content { size: extent.size, inline: 0, block: extent.block },
        Node::Directory => directory_len(names(inode)),
        Node::Symlink(target) => target.len() as u64,
        Node::Pipe | Node::Hidden => 0,
    };
    let tail = size % BLOCK;
    let fits = INODE + xattrs_len(&inode.attributes) + tail <= BLOCK;
    Content { size, inline: if fits { tail } else { 0 }, block: 0 }
}

/// Names in a directory with its own two, sorted.
fn names(inode: &Inode) -> impl Iterator<Item = &[u8]> {
    // A few characters sort before the point: "+" and "-" for two.
    let between = |from: Bound<&'static [u8]>, to: Bound<&'static [u8]>| {
        inode.children.range::<[u8], _>((from, to)).map(|(name, _)| &**name)
    };
    let before = between(Bound::Unbounded, Bound::Excluded(b"."));
    let middle = between(Bound::Excluded(b"."), Bound::Excluded(b".."));
    let after = between(Bound::Excluded(b".."), Bound::Unbounded);
    let own = |name: &'static [u8]| std::iter::once(name);
    before.chain(own(b".")).chain(middle).chain(own(b"..")).chain(after)
}

/// The bytes of a directory or of a symbolic link.
fn body(tree: &Tree<'_>, plan: &Plan, id: Id, inode: &Inode) -> Result<Vec<u8>> {
    match &inode.node {
        Node::Symlink(target) => Ok(target.to_vec()),
        Node::Directory => {
            let mut directory = Directory::default();
            for name in names(inode) {
                let target = match name {
                    b"." => id,
                    b".." => inode.parent,
                    name => inode.children.get(name).map_or(id, |edge| edge.inode),
                };
                directory.add(name, u64::from(plan.place(target).number), &tree.get(target)?.node);
            }
            Ok(directory.finish())
        }
        Node::File(_) | Node::Pipe | Node::Hidden => Ok(Vec::new()),
    }
}

fn links(tree: &Tree<'_>, inode: &Inode) -> Result<u32> {
    if inode.node != Node::Directory {
        return Ok(inode.names);
    }
    let mut links = 2;
    for edge in inode.children.values() {
        links += u32::from(tree.get(edge.inode)?.node == Node::Directory);
    }
    Ok(links)
}

/// Content that no layer on top left a name for takes no room.
fn punch(tree: &Tree<'_>, space: &Space) {
    let mut dead: Vec<Extent> = tree.dead.iter().copied().filter(|extent| extent.size > 0).collect();
    dead.sort_unstable_by_key(|extent| extent.block);
    let mut run: Option<Extent> = None;
    for extent in dead {
        match &mut run {
            Some(last) if u64::from(last.block) + last.blocks() == u64::from(extent.block) => {
                last.size = last.blocks() * BLOCK + extent.size;
            }
            _ => {
                run.replace(extent).into_iter().for_each(|last| space.punch(last));
            }
        }
    }
    run.into_iter().for_each(|last| space.punch(last));
}

fn uuid(identities: &[[u8; 32]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(FORMAT);
    identities.iter().for_each(|identity| hash.update(identity));
    let hash: [u8; 32] = hash.finalize().into();
    let mut uuid = [0; 16];
    uuid.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    // A UUID made in a way of its own, version 8.
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

fn block_number(block: u64) -> Result<u32> {
    u32::try_from(block).map_err(|_| invalid("root file: larger than 16 TiB"))
}
