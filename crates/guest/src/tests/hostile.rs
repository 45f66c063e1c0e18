//! Files made to hurt whoever reads them.

use std::io::Read;

use proptest::prelude::*;

use super::samples::{Elf, bz_image, module, pack};
use crate::compression::{Compression, End, read_bounded};
use crate::kernel::extract;

/// A megabyte of zeros, which packs into almost nothing.
const BOMB: usize = 1 << 20;

#[test]
fn a_bomb_stops_at_the_bound() {
    for kind in Compression::ALL {
        let packed = pack(kind, &vec![0; BOMB]);
        assert!(packed.len() < BOMB / 50, "{}", kind.name());
        kind.unpack(&packed, BOMB).unwrap();
        let error = kind.unpack(&packed, BOMB - 1).unwrap_err().to_string();
        assert!(error.contains("MiB unpacked"), "{error}");
    }
}

#[test]
fn bytes_already_read_count_towards_the_bound() {
    let mut reader: &[u8] = &[1; 10];
    read_bounded(&mut reader, vec![0; 5], 15).unwrap();
    let mut reader: &[u8] = &[1; 10];
    read_bounded(&mut reader, vec![0; 5], 14).unwrap_err();
}

#[test]
fn only_what_begins_as_a_kernel_is_unpacked_whole() {
    // What is wrong further on would be said if it had been reached.
    let text = Elf { size: 1 << 20, ..Elf::default() }.make();
    let packed = pack(Compression::Zstd, &text[1..]);
    let packed = &packed[..packed.len() / 2];
    let error = extract(bz_image(0x20f, packed, 9)).unwrap_err().to_string();
    assert!(error.contains("not an ELF kernel"), "{error}");
}

#[test]
fn an_xz_file_that_asks_for_gigabytes_is_refused() {
    // The size of the dictionary stands in the block's header, which has a checksum of its own: so it is made properly.
    let mut options = lzma_rust2::XzOptions::with_preset(0);
    options.lzma_options.dict_size = 1 << 29;
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    std::io::Write::write_all(&mut encoder, b"small").unwrap();
    let error = Compression::Xz.unpack(&encoder.finish().unwrap(), BOMB).unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
}

#[test]
fn blocks_of_impossible_lengths_are_errors() {
    for length in [0_u32, 9 << 20, u32::MAX] {
        let mut packed = Compression::Lz4.magic().to_vec();
        packed.extend(length.to_le_bytes());
        packed.extend([0; 100]);
        for end in [End::Known, End::Unknown] {
            let mut to = Vec::new();
            Compression::Lz4.reader(&packed, end).unwrap().read_to_end(&mut to).unwrap_err();
        }
    }
}

fn any_kind() -> impl Strategy<Value = Compression> {
    proptest::sample::select(Compression::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn changed_kernels_never_panic(
        kind in any_kind(),
        protocol in 0x206_u16..0x210,
        changes in proptest::collection::vec((0_usize..6000, any::<u8>()), 1..8),
        cut in 0_usize..6000,
    ) {
        let elf = Elf { size: 3000, ..Elf::default() }.make();
        let mut file = bz_image(protocol, &pack(kind, &elf), elf.len());
        let length = file.len();
        for (at, byte) in changes {
            file[at % length] = byte;
        }
        file.truncate(length.saturating_sub(cut));
        let _ = extract(file);
    }

    #[test]
    fn changed_elf_files_never_panic(changes in proptest::collection::vec((0_usize..400, any::<u8>()), 1..12)) {
        let mut kernel = Elf { size: 300, ..Elf::default() }.make();
        let mut module = module(&["depends=a,b", "softdep=pre: c post: d"]);
        for (at, byte) in changes {
            let (kernel_length, module_length) = (kernel.len(), module.len());
            kernel[at % kernel_length] = byte;
            module[at % module_length] = byte;
        }
        let _ = extract(kernel);
        let _ = crate::modules::info(&module);
    }

    #[test]
    fn any_bytes_behind_a_magic_never_panic(kind in any_kind(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let packed = [kind.magic(), &bytes].concat();
        let _ = kind.unpack(&packed, BOMB);
        let _ = extract(bz_image(0x207, &packed, 0));
    }
}
