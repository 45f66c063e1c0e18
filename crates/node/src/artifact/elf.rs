//! Whether a file is a program this machine can run by itself.
//!
//! A courtesy check with a good message, not a security boundary: the kernel reads the file again when it runs it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use elf::abi;
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::segment::{ProgramHeader, SegmentTable};

/// Program headers lie in the first page of every linker's output; 64 KiB is what the kernel itself accepts for them.
const HEAD_LEN: usize = 64 << 10;

/// A dynamic section is a few hundred entries of 16 bytes.
const DYNAMIC_LEN_MAX: usize = 1 << 20;

/// How to build a program that needs nothing from its surroundings.
const HOW_TO_BUILD: &str = "build it statically: Go: CGO_ENABLED=0 go build; Rust: cargo build --target \
     x86_64-unknown-linux-musl; C: cc -static; Zig: zig build -Dtarget=native-linux-musl";

/// Why a file cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum NotRunnable {
    /// It could not be read.
    #[error("cannot read the artifact")]
    Unreadable(#[source] std::io::Error),
    /// Empty.
    #[error("the artifact is empty")]
    Empty,
    /// A script.
    #[error(
        "the artifact is a script (#!{interpreter}), not a native program; deploy the interpreter's program as a static binary"
    )]
    Script {
        /// What its first line names.
        interpreter: String,
    },
    /// Some other kind of file.
    #[error("the artifact is not an ELF program (it begins with {begins})")]
    NotElf {
        /// Its first bytes in hex.
        begins: String,
    },
    /// Cut off.
    #[error("the artifact is truncated: {what} lies at byte {needs}, but there are {has}; upload it again")]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// Where it would end.
        needs: u64,
        /// Size of the file.
        has: u64,
    },
    /// Headers that make no sense.
    #[error("the artifact's ELF header is broken: {what}")]
    Broken {
        /// What.
        what: String,
    },
    /// 32 bits.
    #[error("the artifact is a 32-bit program; this node runs 64-bit ones")]
    WrongClass,
    /// For another processor.
    #[error("the artifact is built for {found}; this node is {host}")]
    WrongMachine {
        /// What it is for.
        found: String,
        /// What this is.
        host: &'static str,
    },
    /// An object file, a core.
    #[error("the artifact is an ELF {what}, not a program")]
    NotProgram {
        /// What it is.
        what: &'static str,
    },
    /// Needs a loader or libraries.
    #[error("the artifact is dynamically linked ({needs}); {HOW_TO_BUILD}")]
    Dynamic {
        /// What it asks for.
        needs: String,
    },
}

/// Checks that the file is a whole program for this machine and, if `must_be_static`, that it needs no loader.
pub fn check(path: &Path, must_be_static: bool) -> Result<(), NotRunnable> {
    let mut file = File::open(path).map_err(NotRunnable::Unreadable)?;
    let len = file.metadata().map_err(NotRunnable::Unreadable)?.len();
    let mut head = Vec::with_capacity(HEAD_LEN);
    (&mut file).take(HEAD_LEN as u64).read_to_end(&mut head).map_err(NotRunnable::Unreadable)?;
    if head.is_empty() {
        return Err(NotRunnable::Empty);
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        if !must_be_static {
            return Ok(());
        }
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let interpreter = String::from_utf8_lossy(line.get(..line.len().min(80)).unwrap_or_default()).trim().to_owned();
        return Err(NotRunnable::Script { interpreter });
    }
    if !head.starts_with(b"\x7fELF") {
        return Err(NotRunnable::NotElf { begins: hex::encode(head.get(..head.len().min(4)).unwrap_or_default()) });
    }
    let header = read_header(&head, len)?;
    machine(&header)?;
    let segments = read_segments(&header, &file, &head, len)?;
    whole(&header, &segments, len)?;
    if must_be_static { needs_nothing(&header, &segments, &file) } else { Ok(()) }
}

fn truncated(what: &'static str, needs: u64, has: u64) -> NotRunnable {
    NotRunnable::Truncated { what, needs, has }
}

fn read_header(head: &[u8], len: u64) -> Result<FileHeader<AnyEndian>, NotRunnable> {
    let ident = head.get(..abi::EI_NIDENT).ok_or_else(|| truncated("the ELF header", 64, len))?;
    let ident = parse_ident::<AnyEndian>(ident).map_err(|e| NotRunnable::Broken { what: e.to_string() })?;
    if ident.1 != Class::ELF64 {
        return Err(NotRunnable::WrongClass);
    }
    let tail = head.get(abi::EI_NIDENT..64).ok_or_else(|| truncated("the ELF header", 64, len))?;
    FileHeader::parse_tail(ident, tail).map_err(|e| NotRunnable::Broken { what: e.to_string() })
}

fn machine(header: &FileHeader<AnyEndian>) -> Result<(), NotRunnable> {
    let (own, host) =
        if cfg!(target_arch = "x86_64") { (abi::EM_X86_64, "x86_64") } else { (abi::EM_AARCH64, "aarch64") };
    if header.e_machine != own || header.endianness != AnyEndian::Little {
        let found = match header.e_machine {
            abi::EM_X86_64 => "x86_64".to_owned(),
            abi::EM_AARCH64 => "aarch64".to_owned(),
            abi::EM_386 => "i386".to_owned(),
            abi::EM_ARM => "arm".to_owned(),
            abi::EM_RISCV => "riscv".to_owned(),
            other => format!("machine number {other}"),
        };
        return Err(NotRunnable::WrongMachine { found, host });
    }
    match header.e_type {
        abi::ET_EXEC | abi::ET_DYN => Ok(()),
        abi::ET_REL => Err(NotRunnable::NotProgram { what: "object file" }),
        abi::ET_CORE => Err(NotRunnable::NotProgram { what: "core dump" }),
        _ => Err(NotRunnable::NotProgram { what: "file of an unknown type" }),
    }
}

fn read_segments(
    header: &FileHeader<AnyEndian>,
    file: &File,
    head: &[u8],
    len: u64,
) -> Result<Vec<ProgramHeader>, NotRunnable> {
    let size = u64::from(header.e_phentsize) * u64::from(header.e_phnum);
    if size == 0 {
        return Err(NotRunnable::NotProgram { what: "library or object without program headers" });
    }
    let end = header.e_phoff.saturating_add(size);
    if end > len {
        return Err(truncated("the end of the program headers", end, len));
    }
    let range = usize::try_from(header.e_phoff).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
    let table = match head.get(range) {
        Some(bytes) => bytes.to_vec(),
        // 16-bit counts: at most 4 GiB in theory, and refused above what the kernel accepts.
        None if size > HEAD_LEN as u64 => {
            return Err(NotRunnable::Broken { what: "too many program headers".to_owned() });
        }
        None => {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            file.read_exact_at(&mut bytes, header.e_phoff).map_err(NotRunnable::Unreadable)?;
            bytes
        }
    };
    Ok(SegmentTable::new(header.endianness, header.class, &table).iter().collect())
}

fn whole(header: &FileHeader<AnyEndian>, segments: &[ProgramHeader], len: u64) -> Result<(), NotRunnable> {
    let loaded = segments.iter().filter(|s| s.p_type == abi::PT_LOAD).map(|s| s.p_offset.saturating_add(s.p_filesz));
    let loaded_end = loaded.max().ok_or(NotRunnable::NotProgram { what: "file with nothing to load" })?;
    if loaded_end > len {
        return Err(truncated("the end of its code and data", loaded_end, len));
    }
    let sections = u64::from(header.e_shentsize) * u64::from(header.e_shnum);
    let sections_end = header.e_shoff.saturating_add(sections);
    if header.e_shoff != 0 && sections_end > len {
        return Err(truncated("the end of its section headers", sections_end, len));
    }
    Ok(())
}

fn needs_nothing(header: &FileHeader<AnyEndian>, segments: &[ProgramHeader], file: &File) -> Result<(), NotRunnable> {
    if let Some(interp) = segments.iter().find(|s| s.p_type == abi::PT_INTERP) {
        let mut path = vec![0; usize::try_from(interp.p_filesz).unwrap_or(0).min(256)];
        let read = file.read_at(&mut path, interp.p_offset).map_err(NotRunnable::Unreadable)?;
        let path = path.get(..read).unwrap_or_default().split(|b| *b == 0).next().unwrap_or_default();
        return Err(NotRunnable::Dynamic {
            needs: format!("it asks for the loader {}", String::from_utf8_lossy(path)),
        });
    }
    let Some(dynamic) = segments.iter().find(|s| s.p_type == abi::PT_DYNAMIC) else { return Ok(()) };
    let mut table = vec![0; usize::try_from(dynamic.p_filesz).unwrap_or(usize::MAX).min(DYNAMIC_LEN_MAX)];
    let read = file.read_at(&mut table, dynamic.p_offset).map_err(NotRunnable::Unreadable)?;
    let entries =
        elf::dynamic::DynamicTable::new(header.endianness, header.class, table.get(..read).unwrap_or_default());
    let libraries =
        entries.iter().take_while(|d| d.d_tag != abi::DT_NULL).filter(|d| d.d_tag == abi::DT_NEEDED).count();
    if libraries > 0 {
        return Err(NotRunnable::Dynamic { needs: format!("it needs {libraries} shared libraries") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program header as the linker would write it.
    fn segment(kind: u32, offset: u64, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(5u32.to_le_bytes());
        for word in [offset, 0x40_0000, 0x40_0000, size, size, 0x1000] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// A tiny ELF file: header, these segments, then `tail`.
    fn program(class: u8, machine: u16, kind: u16, segments: &[Vec<u8>], tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0];
        bytes.resize(16, 0);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(0x40_0000u64.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for half in [64u16, 56, u16::try_from(segments.len()).unwrap(), 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(segments.concat());
        bytes.extend(tail);
        bytes
    }

    fn own() -> u16 {
        if cfg!(target_arch = "x86_64") { abi::EM_X86_64 } else { abi::EM_AARCH64 }
    }

    fn check_bytes(bytes: &[u8], must_be_static: bool) -> Result<(), NotRunnable> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("artifact");
        std::fs::write(&path, bytes).unwrap();
        check(&path, must_be_static)
    }

    fn refusal(bytes: &[u8]) -> String {
        check_bytes(bytes, true).unwrap_err().to_string()
    }

    #[test]
    fn this_very_test_program_is_accepted() {
        // Everything here is linked statically.
        check(&std::env::current_exe().unwrap(), true).unwrap();
    }

    #[test]
    fn static_and_static_pie_pass() {
        let exec = program(2, own(), abi::ET_EXEC, &[segment(abi::PT_LOAD, 0, 100)], &[0; 100]);
        check_bytes(&exec, true).unwrap();
        let dynamic = [[0u8; 16]; 2].concat();
        let pie = program(
            2,
            own(),
            abi::ET_DYN,
            &[segment(abi::PT_LOAD, 0, 100), segment(abi::PT_DYNAMIC, 64 + 112, 32)],
            &dynamic,
        );
        check_bytes(&pie, true).unwrap();
    }

    #[test]
    fn a_loader_or_a_library_is_refused_with_the_way_out() {
        let at = 64 + 112;
        let interp = program(
            2,
            own(),
            abi::ET_DYN,
            &[segment(abi::PT_LOAD, 0, 100), segment(abi::PT_INTERP, at, 20)],
            b"/lib64/ld-linux.so\0\0",
        );
        let message = refusal(&interp);
        assert!(message.contains("/lib64/ld-linux.so") && message.contains("CGO_ENABLED=0"), "{message}");
        check_bytes(&interp, false).unwrap();
        let needed = [1u64.to_le_bytes(), 5u64.to_le_bytes(), [0; 8], [0; 8]].concat();
        let lib =
            program(2, own(), abi::ET_DYN, &[segment(abi::PT_LOAD, 0, 100), segment(abi::PT_DYNAMIC, at, 32)], &needed);
        assert!(refusal(&lib).contains("1 shared libraries"));
    }

    #[test]
    fn what_cannot_run_here_says_why() {
        let load = || [segment(abi::PT_LOAD, 0, 100)];
        let other = if own() == abi::EM_X86_64 { abi::EM_AARCH64 } else { abi::EM_X86_64 };
        for (bytes, expected) in [
            (Vec::new(), "is empty"),
            (b"#!/bin/sh\necho".to_vec(), "script (#!/bin/sh)"),
            (b"MZ\0\0".to_vec(), "not an ELF program (it begins with 4d5a0000)"),
            (b"\x7fELF".to_vec(), "truncated"),
            (program(1, own(), abi::ET_EXEC, &load(), &[0; 100]), "32-bit"),
            (program(2, other, abi::ET_EXEC, &load(), &[0; 100]), "is built for"),
            (program(2, own(), abi::ET_REL, &load(), &[0; 100]), "object file"),
            (
                program(2, own(), abi::ET_EXEC, &[segment(abi::PT_LOAD, 0, 1000)], &[0; 100]),
                "truncated: the end of its code",
            ),
            (program(2, own(), abi::ET_EXEC, &[], &[]), "without program headers"),
        ] {
            let message = refusal(&bytes);
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn every_cut_of_a_real_program_is_noticed() {
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for cut in [1, 4, 16, 63, 64, 200, 4096, whole.len() / 2, whole.len() - 1] {
            assert!(check_bytes(&whole[..cut], true).is_err(), "{cut}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = check_bytes(&bytes, true);
            for (at, byte) in program(2, own(), abi::ET_DYN, &[segment(abi::PT_LOAD, 0, 9)], &[]).into_iter().enumerate().take(20) {
                if let Some(slot) = bytes.get_mut(at) { *slot = byte; }
            }
            let _ = check_bytes(&bytes, true);
        }
    }
}
