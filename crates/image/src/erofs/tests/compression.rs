//! Compressed layers, whole and broken.

use std::io::{Read, Write as _};

use moat_model::ErrorKind;

use super::tars::{Tar, layer};
use crate::Digest;
use crate::erofs::Compression;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn sample() -> Vec<u8> {
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Tar::default().dir("d").file("d/file", &content).file("last", b"x").end()
}

#[test]
fn every_form_gives_the_same_digest() {
    let tar = sample();
    let (first, second) = tar.split_at(300_000);
    let forms = [
        (Compression::None, tar.clone()),
        (Compression::Gzip, gzip(&tar)),
        (Compression::Gzip, [gzip(first), gzip(b""), gzip(second)].concat()),
        (Compression::Zstd, zstd(&tar)),
        (Compression::Zstd, [zstd(first), zstd(second)].concat()),
        // A frame to be passed over, as tools put behind a layer.
        (Compression::Zstd, [zstd(&tar), vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]].concat()),
    ];
    for (form, bytes) in forms {
        let summary = layer(form, bytes.len() as u64, &bytes[..]).unwrap();
        assert_eq!(summary.diff_id, Digest::of(&tar), "{form:?}");
        assert_eq!((summary.entries, summary.bytes), (3, tar.len() as u64), "{form:?}");
    }
}

#[test]
fn broken_streams_are_refused() {
    let tar = sample();
    for (form, whole) in [(Compression::Gzip, gzip(&tar)), (Compression::Zstd, zstd(&tar))] {
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 8].copy_from_slice(b"damaged!");
        let forms = [
            ("empty", Vec::new()),
            ("cut", whole[..whole.len() - 1].to_vec()),
            ("cut early", whole[..20].to_vec()),
            ("garbage behind", [&whole[..], b"garbage"].concat()),
            ("zeros behind", [&whole[..], &[0; 512]].concat()),
            ("damaged", damaged),
            ("not compressed", tar.clone()),
        ];
        for (name, bytes) in forms {
            if name == "empty" && form == Compression::Zstd {
                // No frame at all is what zstd calls an empty file.
                continue;
            }
            match layer(form, bytes.len() as u64, &bytes[..]) {
                Err(error) => assert_eq!(error.kind, ErrorKind::InvalidSpec, "{form:?} {name}: {}", error.chain()),
                // zstd without checksums does not notice; that is what the digest is for.
                Ok(summary) => {
                    assert_eq!((form, name), (Compression::Zstd, "damaged"));
                    assert_ne!(summary.diff_id, Digest::of(&tar));
                }
            }
        }
    }
}

/// A source that breaks is not an archive that is broken: trying again may help.
#[test]
fn a_broken_source_is_told_apart() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection was lost"))
        }
    }
    let tar = sample();
    for (form, whole) in
        [(Compression::None, tar.clone()), (Compression::Gzip, gzip(&tar)), (Compression::Zstd, zstd(&tar))]
    {
        let half = whole.len() / 2;
        let error = layer(form, whole.len() as u64, whole[..half].chain(Broken)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{form:?}");
        assert!(error.chain().contains("connection was lost"), "{form:?}: {}", error.chain());
    }
}
