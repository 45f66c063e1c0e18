//! When a log file is full, and where it is cut.

use serde::{Deserialize, Serialize};

/// Lines that begin before this many bytes from the end of a file are finished in it.
const CUT_WINDOW: u64 = 32 << 10;

/// How much of each stream of a workload is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Files kept for each stream; the oldest is deleted for the next.
    pub files_max: u32,
    /// Size at which a file is full.
    pub file_bytes_max: u64,
}

impl Default for Rotation {
    /// Nomad's defaults.
    fn default() -> Self {
        Self { files_max: 10, file_bytes_max: 10 << 20 }
    }
}

/// How much of some bytes goes into the current file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// This many.
    pub take: usize,
    /// After them the file is full.
    pub full: bool,
}

impl Rotation {
    /// Which of the two numbers cannot be kept to, and why.
    pub fn validate(&self) -> Result<(), String> {
        if self.files_max < 2 {
            return Err(format!("files_max: {} is less than 2, one file to write and one to read", self.files_max));
        }
        if self.file_bytes_max == 0 {
            return Err("file_bytes_max: must be at least 1".to_owned());
        }
        Ok(())
    }

    /// From this length on, the end of a line fills the file. A line shorter than the window that is under way here
    /// ends before the limit, so it is never split.
    fn cut_from(&self) -> u64 {
        self.file_bytes_max - CUT_WINDOW.min(self.file_bytes_max / 2)
    }

    /// Whether a file takes no more.
    pub(super) fn is_full(&self, len: u64, last_byte: Option<u8>) -> bool {
        len >= self.file_bytes_max || len >= self.cut_from() && last_byte == Some(b'\n')
    }

    /// How much of `bytes` goes into a file of `len` bytes that is not full.
    pub(super) fn cut(&self, len: u64, bytes: &[u8]) -> Cut {
        let room = usize::try_from(self.file_bytes_max.saturating_sub(len)).unwrap_or(usize::MAX).min(bytes.len());
        let skip = usize::try_from(self.cut_from().saturating_sub(len + 1)).unwrap_or(usize::MAX).min(room);
        let window = bytes.get(skip..room).unwrap_or_default();
        match memchr::memchr(b'\n', window) {
            Some(at) => Cut { take: skip + at + 1, full: true },
            None => Cut { take: room, full: len + room as u64 >= self.file_bytes_max },
        }
    }
}
