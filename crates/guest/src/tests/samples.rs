//! Small kernels, modules and directories of them, made here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Source;
use crate::compression::Compression;

/// Version of the kernels and modules made here.
pub const VERSION: &str = "6.1.0-9-test";

/// What an ELF kernel is made of.
#[derive(Debug, Clone, Copy)]
pub struct Elf {
    pub pvh: bool,
    pub machine: u16,
    pub class: u8,
    pub banner: bool,
    /// Bytes of the segment: some that repeat and some that do not.
    pub size: usize,
}

impl Default for Elf {
    fn default() -> Self {
        Self { pvh: true, machine: 62, class: 2, banner: true, size: 100_000 }
    }
}

impl Elf {
    pub fn make(self) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4_u32, 8, if self.pvh { 18 } else { 17 }] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0");
        note.extend(0x100_0000_u64.to_le_bytes());

        let mut text = Vec::new();
        if self.banner {
            text.extend(format!("%s Linux version of %s\0Linux version {VERSION} (gcc) #1 SMP\n\0").into_bytes());
        }
        let mut state = 1_u32;
        while text.len() < self.size {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.extend(if state & 0x8000_0000 == 0 { state.to_be_bytes() } else { *b"\xe8rep" });
        }

        let note_at = 64 + 2 * 56;
        let text_at = note_at + note.len();
        let mut file = header(self.class, 2, self.machine, 2, 0, 0, 0);
        file.extend(segment(1, text_at, text.len()));
        file.extend(segment(4, note_at, note.len()));
        file.extend(note);
        file.extend(text);
        file
    }
}

fn header(class: u8, kind: u16, machine: u16, segments: u16, sections_at: u64, sections: u16, names: u16) -> Vec<u8> {
    let mut file = b"\x7fELF".to_vec();
    file.extend([class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(kind.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(if segments == 0 { 0_u64 } else { 64 }.to_le_bytes());
    file.extend(sections_at.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments, 64, sections, names] {
        file.extend(half.to_le_bytes());
    }
    file
}

fn segment(kind: u32, at: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(4_u32.to_le_bytes());
    for value in [at, 0, 0, length, length, 4] {
        bytes.extend((value as u64).to_le_bytes());
    }
    bytes
}

fn section(name: u32, kind: u32, at: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(name.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    for value in [0, 0, at, length] {
        bytes.extend((value as u64).to_le_bytes());
    }
    bytes.extend([0; 8]);
    for value in [1_u64, 0] {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

/// As the kernel's build does it.
pub fn pack(kind: Compression, bytes: &[u8]) -> Vec<u8> {
    match kind {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut options = lzma_rust2::XzOptions::with_preset(1);
            options.prepend_pre_filter(lzma_rust2::filter::FilterType::BcjX86, 0);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut packed = kind.magic().to_vec();
            for block in bytes.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// A bzImage: two sectors of setup code, other code, the packed kernel with its length behind it, and more code.
pub fn bz_image(protocol: u16, payload: &[u8], unpacked: usize) -> Vec<u8> {
    let code = 700;
    let mut file = vec![0x90; 3 * 512 + code];
    file[0x1f1] = 2;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&protocol.to_le_bytes());
    let version = format!("{VERSION} (somebody@example.org) #1 SMP\0");
    file[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
    file[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
    let length = u32::try_from(payload.len() + 4).unwrap();
    file[0x248..0x24c].copy_from_slice(&u32::try_from(code).unwrap().to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file.extend(payload);
    file.extend(u32::try_from(unpacked).unwrap().to_le_bytes());
    file.extend([0xcc; 3000]);
    file
}

/// A module that says this about itself.
pub fn module(info: &[&str]) -> Vec<u8> {
    let mut text: Vec<u8> = info.iter().flat_map(|line| [line.as_bytes(), b"\0"].concat()).collect();
    text.extend(format!("vermagic={VERSION} SMP mod_unload\0").into_bytes());
    let names = b"\0.modinfo\0.shstrtab\0";
    let names_at = 64 + text.len();
    let sections_at = names_at + names.len();
    let mut file = header(2, 1, 62, 0, sections_at as u64, 3, 2);
    file.extend(&text);
    file.extend(names);
    file.extend([0; 64]);
    file.extend(section(1, 1, 64, text.len()));
    file.extend(section(10, 3, names_at, names.len()));
    file
}

/// A directory like that of an installed kernel.
pub struct Root {
    pub dir: TempDir,
}

impl Root {
    /// The kernel, and modules that are files; `depends` is what each says it needs.
    pub fn new(modules: &[(&str, &str)], builtin: &[&str]) -> Self {
        let root = Self { dir: TempDir::new().unwrap() };
        let elf = Elf::default().make();
        root.write(&format!("boot/vmlinuz-{VERSION}"), &bz_image(0x20f, &pack(Compression::Zstd, &elf), elf.len()));
        for (file, depends) in modules {
            let bytes = module(&[&format!("depends={depends}"), "license=GPL"]);
            let bytes = match file.rsplit('.').next() {
                Some("xz") => pack(Compression::Xz, &bytes),
                Some("zst") => pack(Compression::Zstd, &bytes),
                Some("gz") => pack(Compression::Gzip, &bytes),
                _ => bytes,
            };
            root.write(&format!("lib/modules/{VERSION}/{file}"), &bytes);
        }
        let builtin: String = builtin.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
        root.write(&format!("lib/modules/{VERSION}/modules.builtin"), builtin.as_bytes());
        root
    }

    /// A kernel with everything a guest needs, some of it packed, some built in.
    pub fn usual() -> Self {
        let files = [
            ("kernel/drivers/virtio/virtio.ko", ""),
            ("kernel/drivers/virtio/virtio_ring.ko.xz", ""),
            ("kernel/drivers/virtio/virtio_pci.ko.zst", "virtio,virtio_ring"),
            ("kernel/drivers/virtio/virtio_mmio.ko.gz", "virtio_ring,virtio"),
            ("kernel/drivers/block/virtio_blk.ko", "virtio_ring,virtio"),
            ("kernel/drivers/net/virtio_net.ko", "virtio,net_failover"),
            ("kernel/drivers/net/net_failover.ko", "failover"),
            ("kernel/net/core/failover.ko", ""),
            ("kernel/drivers/char/hw_random/virtio-rng.ko", "virtio"),
            ("kernel/fs/erofs/erofs.ko", "libcrc32c"),
            ("kernel/lib/libcrc32c.ko", ""),
            ("kernel/fs/overlayfs/overlay.ko", ""),
            ("kernel/fs/unwanted.ko", ""),
        ];
        Self::new(&files, &["fs/ext4/ext4", "drivers/char/virtio_console"])
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub fn modules(&self) -> PathBuf {
        self.dir.path().join("lib/modules").join(VERSION)
    }

    pub fn source(&self) -> Source {
        crate::find_source_below(self.dir.path(), None).unwrap()
    }
}

/// A Debian kernel package, unpacked by `cargo xtask test`.
pub fn debian() -> Option<PathBuf> {
    let dir = moat_testkit::tools_dir().join("guest-kernel");
    Path::new(&dir).is_dir().then_some(dir)
}
