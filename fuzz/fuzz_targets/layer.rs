//! A layer of an image, which anybody may have made: refused, or a root within its limits, never a crash.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moat_image::erofs::{Compression, Limits, RootBuilder};

/// Small, so that what is slow shows as slow.
const LIMITS: Limits =
    Limits { entries_max: 1000, bytes_max: 1 << 20, ratio_max: 100, path_len_max: 1000, xattr_bytes_max: 5000 };

fuzz_target!(|data: &[u8]| {
    // The first byte chooses the compression, so that decoders are reached as well as what is behind them.
    let Some((choice, data)) = data.split_first() else { return };
    let compression = match choice % 4 {
        0 => Compression::Gzip,
        1 => Compression::Zstd,
        _ => Compression::None,
    };
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let Ok(file) = rustix::fs::memfd_create("root", flags) else { return };
    let Ok(copy) = file.try_clone() else { return };
    let builder = RootBuilder::new(file.into(), 2, LIMITS);
    // Two layers that are the same: the second one meets everything that the first one made.
    let both = [0, 1].map(|index| builder.add_layer(index, compression, data.len() as u64, data));
    if both.iter().all(Result::is_ok)
        && let Ok(summary) = builder.finish()
    {
        assert!(summary.entries <= LIMITS.entries_max + 1);
        assert_eq!(rustix::fs::fstat(&copy).map(|stat| stat.st_size as u64), Ok(summary.bytes));
    }
});
