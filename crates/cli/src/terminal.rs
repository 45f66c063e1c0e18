//! The terminal this program stands in.

use std::io::{IsTerminal, stdin, stdout};

use moat_model::spec::PtySize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

/// Columns of the terminal on standard output, if it is one.
pub fn width() -> Option<u16> {
    if !stdout().is_terminal() {
        return None;
    }
    tcgetwinsize(stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// Size of the terminal on standard input.
pub fn size() -> PtySize {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => PtySize { rows: size.ws_row, cols: size.ws_col },
        // Some terminals do not know their size.
        _ => PtySize { rows: 24, cols: 80 },
    }
}

/// The terminal passes every key through, for as long as this value lives: it is restored on every way out, panics
/// included.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Needs a terminal on standard input.
    pub fn enter() -> Result<Self, Failure> {
        let failed = |e: rustix::io::Errno| Failure::internal("switch the terminal to raw mode", e);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        let mode = Self { before };
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
