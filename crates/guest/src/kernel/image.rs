//! What an ELF file must be for a machine to start it.

use elf::ElfBytes;
use elf::abi::{EI_CLASS, ELFCLASS64, EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;

use crate::Error;

/// The note with the address at which a kernel is entered the PVH way (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_ENTRY: u64 = 18;
const PVH_OWNER: &[u8] = b"Xen";

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Whether the note of a PVH entry is there.
    pub pvh: bool,
}

impl Image {
    /// Checks that this is a whole program for x86-64.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let broken = |e: elf::ParseError| Error::unusable(format!("the ELF kernel is broken: {e}"));
        // Before anything else: a 32-bit file has another layout, and would only be called broken.
        if bytes.get(EI_CLASS) != Some(&ELFCLASS64) {
            return Err(Error::unusable(
                "the kernel is for another machine (not 64-bit); guests here are x86-64".to_owned(),
            ));
        }
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(broken)?;
        let head = file.ehdr;
        if head.e_machine != EM_X86_64 {
            return Err(Error::unusable(format!(
                "the kernel is for another machine (ELF machine {}); guests here are x86-64",
                head.e_machine
            )));
        }
        if head.e_type != ET_EXEC && head.e_type != ET_DYN {
            return Err(Error::unusable(format!("the ELF file is no program (type {})", head.e_type)));
        }
        let segments = file.segments().ok_or_else(|| Error::unusable("the ELF kernel has no program headers"))?;
        let (mut loaded, mut pvh) = (0_usize, false);
        for segment in segments.iter() {
            match segment.p_type {
                PT_LOAD => {
                    // Finds what was cut off.
                    file.segment_data(&segment).map_err(broken)?;
                    loaded += 1;
                }
                PT_NOTE => {
                    let notes = file.segment_data_as_notes(&segment).map_err(broken)?;
                    pvh |= notes.into_iter().any(|note| is_pvh(&note));
                }
                _ => {}
            }
        }
        if loaded == 0 {
            return Err(Error::unusable("the ELF kernel has nothing to load"));
        }
        Ok(Self { pvh })
    }
}

fn is_pvh(note: &Note<'_>) -> bool {
    let Note::Unknown(note) = note else { return false };
    // The name is counted with its end.
    note.n_type == PVH_ENTRY && note.name.strip_suffix(b"\0").unwrap_or(note.name) == PVH_OWNER
}
