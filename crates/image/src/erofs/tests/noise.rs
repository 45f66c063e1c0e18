//! Archives that are nearly right: whatever is accepted is a root that the kernel reads to the last byte.

use proptest::prelude::*;

use super::mounted::{listing, mounted};
use super::tars::{Tar, built_within};
use crate::erofs::Limits;

/// Small, so that no case takes long.
const LIMITS: Limits =
    Limits { entries_max: 1000, bytes_max: 4 << 20, ratio_max: 100, path_len_max: 300, xattr_bytes_max: 5000 };

fn sample() -> Vec<u8> {
    Tar::default()
        .dir("dir")
        .file("dir/file", &[b'x'; 700])
        .pax(&[("path", b"dir/long"), ("SCHILY.xattr.user.note", b"hello"), ("mtime", b"1.5")])
        .file("short", &[b'y'; 5000])
        .symlink("link", "dir")
        .file("link/through", b"z")
        .link("dir/same", "dir/file")
        .entry(b'L', "long", "", 0, &[b'n'; 120])
        .file("name", b"")
        .file(".wh.dir", b"")
        .entry(b'6', "pipe", "", 0o600, b"")
        .end()
}

/// The sums of all headers, right again, so that what was changed in them is looked at.
fn summed(mut tar: Vec<u8>, offsets: &[usize]) -> Vec<u8> {
    for at in offsets {
        if let Some(header) = tar.get_mut(at - at % 512..at - at % 512 + 512) {
            let sum: u32 =
                header.iter().enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    tar
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_can_be_read(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut tar = sample();
        let mut offsets = Vec::new();
        for (index, byte) in changes {
            // Headers are a small part of all bytes and the larger part of what can go wrong.
            let at = index.index(tar.len());
            let at = if byte % 2 == 0 { at } else { at - at % 512 + at % 170 };
            tar[at] = byte;
            offsets.push(at);
        }
        if let Ok((file, summary)) = built_within(&[summed(tar, &offsets)], LIMITS)
            && let Some(root) = mounted(&file)
        {
            prop_assert_eq!(listing(root.path(), true).len() as u64, summary.entries);
        }
    }

    #[test]
    fn noise_is_refused_or_nothing(noise in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = built_within(&[noise], LIMITS);
    }
}
