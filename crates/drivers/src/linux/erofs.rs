//! Mounting an erofs file read-only, and telling which file a mount shows.

#![expect(unsafe_code, reason = "loop devices are set up by ioctls that have no safe wrapper")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};

/// Longest path the kernel takes as the source of a file system, without its end.
pub const SOURCE_LEN_MAX: usize = 255;

/// Tries to get a free loop device: somebody else may take the one the kernel named.
const LOOP_TRIES: u32 = 32;

/// `EROFS_SUPER_MAGIC_V1` of linux/magic.h.
const MAGIC: u64 = 0xE0F5_E1E2;

/// Mounts `file` on the directory `target`, read-only and inert: no programs, devices or set-user-id bits count there.
/// Whoever copies the mount decides anew. Without a loop device where the kernel can (6.12 on).
pub fn mount(file: &Path, target: &Path) -> io::Result<()> {
    if file.as_os_str().len() > SOURCE_LEN_MAX {
        let why = format!("{}: the kernel takes paths of at most {SOURCE_LEN_MAX} bytes here", file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    match mount_source(file, target) {
        // "Block device required".
        Err(e) if e.raw_os_error() == Some(libc::ENOTBLK) => mount_by_loop(file, target),
        done => done,
    }
}

fn mount_source(source: &Path, target: &Path) -> io::Result<()> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> Result<(), Errno> {
        fsconfig_set_flag(context.as_fd(), "ro")?;
        fsconfig_set_string(context.as_fd(), "source", source)?;
        fsconfig_create(context.as_fd())
    };
    configure()?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    Ok(move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts it through a loop device, which goes with the last mount of it.
pub fn mount_by_loop(file: &Path, target: &Path) -> io::Result<()> {
    let (_device, path) = loop_device(&File::open(file)?, file)?;
    mount_source(&path, target)
}

/// `struct loop_config` of linux/loop.h, `struct loop_info64` in it.
#[repr(C)]
#[derive(Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device_inode_rdevice_offset_limit: [u64; 5],
    number_encryption_key_size: [u32; 3],
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// A loop device over the file. It must be held until it is mounted: an unused one clears itself.
fn loop_device(file: &File, name: &Path) -> io::Result<(File, PathBuf)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    let mut file_name = [0_u8; 64];
    for (to, from) in file_name.iter_mut().zip(name.as_os_str().as_bytes().iter().take(63)) {
        *to = *from;
    }
    let config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        device_inode_rdevice_offset_limit: [0; 5],
        number_encryption_key_size: [0; 3],
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    for _ in 0..LOOP_TRIES {
        // SAFETY: takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::open(&path)?;
        // SAFETY: the structure has the kernel's layout, and lives through the call.
        match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
            0 => return Ok((device, path)),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::EBUSY) => {}
                e => return Err(e),
            },
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no free loop device"))
}

/// Whether an erofs is mounted on exactly this directory. Cheap.
pub fn is_mounted(target: &Path) -> bool {
    rustix::fs::statfs(target).is_ok_and(|found| found.f_type.cast_unsigned() == MAGIC)
}

/// An erofs mounted in this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub target: PathBuf,
    /// The file it shows, loop devices looked through.
    pub file: PathBuf,
}

/// Every mount directly below a directory: erofs ones with what they show, others with `None`.
pub fn mounts_in(dir: &Path) -> io::Result<Vec<(PathBuf, Option<Mounted>)>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?, dir))
}

fn parse(mountinfo: &str, dir: &Path) -> Vec<(PathBuf, Option<Mounted>)> {
    let entry = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let target = unescaped(left.split(' ').nth(4)?);
        if target.parent() != Some(dir) {
            return None;
        }
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, unescaped(right.next()?));
        let shown = (kind == "erofs").then(|| Mounted { target: target.clone(), file: behind_loop(source) });
        Some((target, shown))
    };
    mountinfo.lines().filter_map(entry).collect()
}

/// The file behind a loop device; anything else is itself.
fn behind_loop(source: PathBuf) -> PathBuf {
    let Some(name) = source.strip_prefix("/dev").ok().filter(|name| name.as_os_str().as_bytes().starts_with(b"loop"))
    else {
        return source;
    };
    let told = Path::new("/sys/block").join(name).join("loop/backing_file");
    fs::read_to_string(told).map_or(source, |text| PathBuf::from(text.trim_end_matches('\n')))
}

/// Undoes the kernel's `\040` for a space and its like.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_directory_are_found_with_what_they_show() {
        let text = "36 35 0:52 / /run/moat/roots/aa ro,nosuid - erofs /var/lib/moat/a\\040b.erofs ro\n\
                    37 35 0:53 / /run/moat/roots/aa/bb ro - erofs /x ro\n\
                    38 35 0:54 / /run/moat/roots/cc rw shared:3 - tmpfs none rw\n";
        let found = parse(text, Path::new("/run/moat/roots"));
        let first = PathBuf::from("/run/moat/roots/aa");
        let shown = Mounted { target: first.clone(), file: PathBuf::from("/var/lib/moat/a b.erofs") };
        assert_eq!(found, [(first, Some(shown)), (PathBuf::from("/run/moat/roots/cc"), None)]);
    }

    #[test]
    fn the_kernels_structure_has_the_kernels_size() {
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
