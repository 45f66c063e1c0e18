//! A kernel that somebody handed to `moat guest build`: refused, or a whole ELF kernel, never a crash.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moat_guest::kernel;

/// What streams of each format begin with: gzip, xz, lz4's legacy frame, zstd, bzip2; and an ELF file.
const MAGICS: [&[u8]; 6] =
    [b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"BZh9", b"\x7fELF\x02\x01\x01"];
/// One sector of boot code and the setup code's two.
const SETUP: usize = 3 * 512;

fuzz_target!(|data: &[u8]| {
    // The first byte chooses how far the way to the decoders is paved.
    let Some((choice, data)) = data.split_first() else { return };
    let magic = MAGICS.get(usize::from(choice / 4)).copied().unwrap_or_default();
    let file = match choice % 4 {
        0 => [magic, data].concat(),
        1 => bz_image(0x20f, magic, data),
        _ => bz_image(0x207, magic, data),
    };
    let version = kernel::version(&file);
    if let Ok(found) = kernel::extract(file) {
        assert!(found.elf.starts_with(b"\x7fELF") && found.elf.len() <= kernel::MAX_KERNEL);
        assert!(!found.version.is_empty() && version.is_ok());
        // What came out is a kernel of its own.
        assert!(kernel::Image::read(&found.elf).is_ok());
    }
});

fn bz_image(protocol: u16, magic: &[u8], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0; SETUP];
    file[0x1f1] = 2;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
    file[0x500..0x506].copy_from_slice(b"6.1.0 ");
    file[0x24c..0x250].copy_from_slice(&((magic.len() + data.len()) as u32).to_le_bytes());
    file.extend_from_slice(magic);
    file.extend_from_slice(data);
    file
}
