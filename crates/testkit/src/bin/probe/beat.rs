//! Somebody who notices when everything stands still, and somebody who writes files meanwhile.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::behave::pause;

const EVERY: Duration = Duration::from_millis(1);
/// A page, and a line of the log.
const PIECE: usize = 4096;

/// Wakes every millisecond, without end. What came later than `late` is printed: when it came, in microseconds of the host's
/// clock, and how many microseconds after the one before.
pub fn beat(late: Duration) -> anyhow::Result<()> {
    println!("ready");
    let mut last = Instant::now();
    loop {
        pause(EVERY);
        let now = Instant::now();
        let since = now - last;
        last = now;
        if since > late {
            println!("{} {}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros(), since.as_micros());
        }
    }
}

/// Bytes that no file system can make smaller, different for each seed.
fn noise(seed: u64, bytes: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for piece in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let random = state.to_le_bytes();
        piece.copy_from_slice(random.get(..piece.len()).unwrap_or_default());
    }
}

/// Files `0`, `1`, … of `bytes` each, a hundred to a directory.
pub fn fill(dir: &Path, count: u64, bytes: usize) -> anyhow::Result<()> {
    let mut content = vec![0; bytes];
    for number in 0..count {
        let path = place(dir, number);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        noise(number, &mut content);
        fs::write(&path, &content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn place(dir: &Path, number: u64) -> std::path::PathBuf {
    dir.join((number / 100).to_string()).join(number.to_string())
}

/// Without end: a piece more in `log` every 10 ms, one of the files that [`fill`] made written anew every 50 ms, and, if there
/// is one, a page anywhere in `pages` every 2 ms.
pub fn churn(dir: &Path, pages: Option<&Path>) -> anyhow::Result<()> {
    let mut log = File::options().create(true).append(true).open(dir.join("log")).context("open the log")?;
    let pages =
        pages.map(|path| File::options().write(true).open(path)).transpose().context("open the file of pages")?;
    let in_file = pages.as_ref().map(File::metadata).transpose()?.map_or(1, |m| (m.len() / PIECE as u64).max(1));
    let mut piece = [0; PIECE];
    println!("ready");
    for turn in 0_u64.. {
        pause(Duration::from_millis(2));
        noise(turn, &mut piece);
        if let Some(pages) = &pages {
            let page = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % in_file;
            pages.write_all_at(&piece, page * PIECE as u64).context("write a page")?;
        }
        if turn % 5 == 0 {
            log.write_all(&piece).context("write the log")?;
        }
        let path = place(dir, turn / 25 % 100);
        if turn % 25 == 0 && path.is_file() {
            fs::write(&path, piece.repeat(16)).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}
