//! What kind of program a local file is, read from its first bytes.

use std::io::Read;
use std::path::Path;

use crate::failure::Failure;

/// Who can run it, in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// `linux`, `darwin`, `windows`.
    pub os: &'static str,
    /// `amd64`, `arm64`.
    pub arch: &'static str,
}

/// Reads a file's head.
pub fn target(path: &Path) -> Result<Target, Failure> {
    let mut head = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Failure::file("read program", path, &e))?;
    file.take(4096).read_to_end(&mut head).map_err(|e| Failure::file("read program", path, &e))?;
    target_of(&head).map_err(|why| Failure::invalid(format!("{}: {why}", path.display())))
}

fn target_of(head: &[u8]) -> Result<Target, String> {
    match head {
        [] => Err("the file is empty".to_owned()),
        [0x7f, b'E', b'L', b'F', ..] => elf(head),
        [0xcf, 0xfa, 0xed, 0xfe, cpu @ ..] => {
            mach(cpu.first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default())
        }
        [b'M', b'Z', ..] => pe(head),
        [b'#', b'!', ..] => {
            Err("a script is not a program of its own: run its interpreter, or build a static binary".to_owned())
        }
        _ => Err("not a program: it begins like no ELF, Mach-O or PE file".to_owned()),
    }
}

fn elf(head: &[u8]) -> Result<Target, String> {
    let header = head.get(..64).ok_or("a truncated ELF file")?;
    if header.get(4..6) != Some(&[2, 1]) {
        return Err("an ELF file of 32 bits or of big-endian order: no node runs it".to_owned());
    }
    let machine = header.get(18..20).and_then(|m| m.first_chunk().copied()).map(u16::from_le_bytes);
    match machine {
        Some(62) => Ok(Target { os: "linux", arch: "amd64" }),
        Some(183) => Ok(Target { os: "linux", arch: "arm64" }),
        other => Err(format!("an ELF file for machine {}: no node runs it", other.unwrap_or_default())),
    }
}

fn mach(cpu: u32) -> Result<Target, String> {
    match cpu {
        0x0100_0007 => Ok(Target { os: "darwin", arch: "amd64" }),
        0x0100_000c => Ok(Target { os: "darwin", arch: "arm64" }),
        other => Err(format!("a Mach-O file for CPU {other:#x}: no node runs it")),
    }
}

fn pe(head: &[u8]) -> Result<Target, String> {
    let at = head.get(0x3c..0x40).and_then(|b| b.first_chunk().copied()).map(u32::from_le_bytes).unwrap_or(u32::MAX);
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let machine = at.checked_add(6).and_then(|end| head.get(at..end));
    match machine {
        Some([b'P', b'E', 0, 0, 0x64, 0x86]) => Ok(Target { os: "windows", arch: "amd64" }),
        Some([b'P', b'E', 0, 0, 0x64, 0xaa]) => Ok(Target { os: "windows", arch: "arm64" }),
        _ => Err("a PE file for another CPU: no node runs it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf_head(class: u8, machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    #[test]
    fn programs_are_known_by_their_head() {
        assert_eq!(target_of(&elf_head(2, 62)), Ok(Target { os: "linux", arch: "amd64" }));
        assert_eq!(target_of(&elf_head(2, 183)), Ok(Target { os: "linux", arch: "arm64" }));
        assert_eq!(target_of(&[0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1]), Ok(Target { os: "darwin", arch: "arm64" }));
        let mut pe = vec![0; 0x50];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x40;
        pe[0x40..0x46].copy_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(target_of(&pe), Ok(Target { os: "windows", arch: "amd64" }));
        for bad in [
            &b""[..],
            b"hello",
            b"#!/bin/sh",
            &elf_head(1, 62),
            &elf_head(2, 8),
            b"\x7fELF\x02\x01",
            b"MZ",
            &[0xcf, 0xfa, 0xed, 0xfe],
        ] {
            assert!(target_of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(target(Path::new("/proc/self/exe")).unwrap().os, "linux");
    }
}
