//! The header of a bzImage, as the kernel's `Documentation/arch/x86/boot.rst` describes it.

use super::version_word;

const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PROTOCOL: usize = 0x206;
const VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The first boot protocol that says where the packed kernel lies.
const SAYS_PAYLOAD: u16 = 0x0208;

/// What is read from it.
pub struct BootHeader {
    /// Where the part after the setup code begins.
    system: usize,
    /// Place of the version's text; 0 is none.
    version: usize,
    /// Offset from `system` and length.
    payload: Option<(usize, usize)>,
}

impl BootHeader {
    /// `None` if this is no bzImage.
    pub fn read(file: &[u8]) -> Option<Self> {
        if file.get(MAGIC..MAGIC + 4)? != b"HdrS" {
            return None;
        }
        // Zero means four, for ancient loaders.
        let sectors = match usize::from(*file.get(SETUP_SECTORS)?) {
            0 => 4,
            n => n,
        };
        let payload = match u16_at(file, PROTOCOL)? >= SAYS_PAYLOAD {
            true => Some((u32_at(file, PAYLOAD_OFFSET)?, u32_at(file, PAYLOAD_LENGTH)?)).filter(|(_, len)| *len > 0),
            false => None,
        };
        Some(Self { system: (sectors + 1) * SECTOR, version: usize::from(u16_at(file, VERSION)?), payload })
    }

    /// The packed kernel, if the header says where, and it lies in the file.
    pub fn payload<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let (offset, length) = self.payload?;
        let from = self.system.checked_add(offset)?;
        file.get(from..from.checked_add(length)?)
    }

    /// The kernel's version.
    pub fn version(&self, file: &[u8]) -> Option<String> {
        if self.version == 0 {
            return None;
        }
        version_word(file.get(self.version + SECTOR..)?)
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    file.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<usize> {
    let value = file.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)?;
    usize::try_from(value).ok()
}
