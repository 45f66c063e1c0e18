//! In how many pieces a file lies on its disk.

#![expect(unsafe_code, reason = "the call has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct fiemap` of linux/fiemap.h, with no place for extents: they are only counted.
#[repr(C)]
#[derive(Default)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    places: u32,
    reserved: u32,
}

/// `FS_IOC_FIEMAP`.
const COUNT: libc::Ioctl = 0xC020_660B_u32 as libc::Ioctl;

/// Pieces that are known on disk; what was not written out yet may become more.
pub fn count(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut map = Map { length: u64::MAX, ..Map::default() };
    // SAFETY: the structure has the kernel's layout, says that nothing follows it, and lives through the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), COUNT, &raw mut map) } {
        0 => Ok(map.mapped.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn pieces_are_counted_where_the_file_system_tells() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("file")).unwrap();
        if count(file.as_fd()).is_err_and(|e| e.raw_os_error() == Some(libc::EOPNOTSUPP)) {
            return;
        }
        assert_eq!(count(file.as_fd()).unwrap(), 0);
        for piece in 0..5 {
            file.write_all_at(b"x", piece << 20).unwrap();
        }
        file.sync_all().unwrap();
        assert_eq!(count(file.as_fd()).unwrap(), 5);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        count(pipe.as_fd()).unwrap_err();
    }
}
