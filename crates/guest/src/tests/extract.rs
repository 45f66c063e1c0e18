use super::samples::{Elf, VERSION, bz_image, pack};
use crate::compression::Compression;
use crate::kernel::extract;

#[test]
fn every_format_is_unpacked_by_the_header() {
    let elf = Elf::default().make();
    for kind in Compression::ALL {
        let file = bz_image(0x20f, &pack(kind, &elf), elf.len());
        let kernel = extract(file).unwrap_or_else(|e| panic!("{}: {e}", kind.name()));
        assert!(kernel.elf == elf, "{}", kind.name());
        assert_eq!((kernel.version.as_str(), kernel.pvh), (VERSION, true));
    }
}

#[test]
fn old_protocols_say_no_place_so_it_is_looked_for() {
    let elf = Elf::default().make();
    for kind in Compression::ALL {
        let file = bz_image(0x207, &pack(kind, &elf), elf.len());
        let kernel = extract(file).unwrap_or_else(|e| panic!("{}: {e}", kind.name()));
        assert!(kernel.elf == elf, "{}", kind.name());
    }
}

#[test]
fn what_only_looks_like_a_beginning_is_passed_over() {
    let elf = Elf::default().make();
    let mut payload = Vec::new();
    for kind in Compression::ALL {
        payload.extend(kind.magic());
        payload.extend([7; 40]);
    }
    payload.extend(pack(Compression::Gzip, b"packed, but no kernel"));
    payload.extend(pack(Compression::Lz4, &elf));
    assert!(extract(bz_image(0x207, &payload, elf.len())).unwrap().elf == elf);
}

#[test]
fn a_place_outside_of_the_file_is_not_believed() {
    let elf = Elf::default().make();
    let mut file = bz_image(0x20f, &pack(Compression::Xz, &elf), elf.len());
    file[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(extract(file).unwrap().elf == elf);
}

#[test]
fn lz4_takes_more_than_one_block() {
    let elf = Elf { size: (8 << 20) + 12_345, ..Elf::default() }.make();
    for protocol in [0x207, 0x20f] {
        let file = bz_image(protocol, &pack(Compression::Lz4, &elf), elf.len());
        assert!(extract(file).unwrap().elf == elf);
    }
}

#[test]
fn an_elf_kernel_is_taken_as_it_is_and_its_banner_read() {
    let elf = Elf { pvh: false, ..Elf::default() }.make();
    let kernel = extract(elf.clone()).unwrap();
    assert!(kernel.elf == elf);
    assert_eq!((kernel.version.as_str(), kernel.pvh), (VERSION, false));
}

#[test]
fn a_kernel_packed_as_itself_is_found_by_the_header() {
    let elf = Elf::default().make();
    assert!(extract(bz_image(0x20f, &elf, elf.len())).unwrap().elf.starts_with(&elf));
}

#[test]
fn what_is_no_kernel_is_refused_with_the_reason() {
    let whole = Elf::default().make();
    let cases: [(&str, Vec<u8>); 8] = [
        ("neither an ELF file nor a bzImage", b"#!/bin/sh\n".to_vec()),
        ("neither an ELF file nor a bzImage", Vec::new()),
        ("for another machine", Elf { machine: 183, ..Elf::default() }.make()),
        ("for another machine", Elf { class: 1, ..Elf::default() }.make()),
        ("does not say its version", Elf { banner: false, ..Elf::default() }.make()),
        ("the ELF kernel is broken", whole[..whole.len() - 1].to_vec()),
        ("packed in a way that is not known", bz_image(0x20f, b"\x5d\0\0\x80lzma", 9)),
        ("what is packed with zstd in it is not an ELF", bz_image(0x20f, &pack(Compression::Zstd, b"no kernel"), 9)),
    ];
    for (reason, file) in cases {
        let error = extract(file).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_damaged_kernel_is_refused() {
    let elf = Elf::default().make();
    for kind in Compression::ALL {
        let packed = pack(kind, &elf);
        let file = bz_image(0x20f, &packed[..packed.len() / 2], elf.len());
        extract(file).unwrap_err();
    }
}
