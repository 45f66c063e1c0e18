//! What people and scripts get to read.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, ContentArrangement, Table};
use moat_model::Timestamp;
use owo_colors::{OwoColorize, Style};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::args::{Color, Global};
use crate::failure::Failure;

/// Where and how to write.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    colour_out: bool,
    colour_err: bool,
}

impl Output {
    /// As the options and the terminal say.
    pub fn new(global: &Global) -> Self {
        let wanted = |terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        Self {
            json: global.json,
            colour_out: wanted(std::io::stdout().is_terminal()),
            colour_err: wanted(std::io::stderr().is_terminal()),
        }
    }

    /// One line on standard output.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Bytes on standard output, as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// Bytes on standard error, as they are.
    pub fn error_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut err = std::io::stderr().lock();
        err.write_all(bytes)?;
        Ok(())
    }

    /// One JSON document.
    pub fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.line(&serde_json::to_string_pretty(value)?)
    }

    /// One JSON document of a feed, on one line.
    pub fn record<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.line(&serde_json::to_string(value)?)
    }

    /// A table that fits the terminal, or one of full width if there is none.
    pub fn table<const N: usize>(&self, header: [&str; N], rows: Vec<[String; N]>) -> Result<(), Failure> {
        self.line(&self.table_text(header, rows))
    }

    /// The same as text, to stand among other things.
    pub fn table_text<const N: usize>(&self, header: [&str; N], rows: Vec<[String; N]>) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if !self.colour_out {
            table.force_no_tty();
        }
        table.set_header(header.map(|text| Cell::new(self.styled(text, Style::new().dimmed()))));
        for row in rows {
            table.add_row(row);
        }
        if let Some(width) = crate::terminal::width() {
            table.set_width(width);
        }
        table.trim_fmt().lines().map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
    }

    /// Text without colour, whatever stands around a test.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { json: false, colour_out: false, colour_err: false }
    }

    /// Text with it.
    #[cfg(test)]
    pub fn colourful() -> Self {
        Self { colour_out: true, ..Self::plain() }
    }

    /// Something people should know, on standard error.
    pub fn note(&self, text: &str) {
        // If standard error is gone there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "moat: {text}");
    }

    /// Why a command failed, on standard error.
    pub fn failure(&self, failure: &Failure) {
        if failure.is_quiet() {
            return;
        }
        let kind = failure.kind.code();
        let text = if self.json {
            let mut error = serde_json::json!({"kind": kind, "message": failure.message});
            if let (Some(hint), Some(members)) = (&failure.hint, error.as_object_mut()) {
                members.insert("hint".to_owned(), hint.as_str().into());
            }
            serde_json::json!({ "error": error }).to_string()
        } else if self.colour_err {
            format!("{} ({kind}): {}", "moat: error".red().bold(), failure.message)
        } else {
            format!("moat: error ({kind}): {}", failure.message)
        };
        let _ = writeln!(std::io::stderr(), "{text}");
        if let (Some(hint), false) = (&failure.hint, self.json) {
            let _ = writeln!(std::io::stderr(), "hint: {hint}");
        }
    }

    /// Text in a style, where colour is wanted.
    pub fn styled(&self, text: &str, style: Style) -> String {
        if self.colour_out { text.style(style).to_string() } else { text.to_owned() }
    }

    /// The same for standard error.
    pub fn styled_error(&self, text: &str, style: Style) -> String {
        if self.colour_err { text.style(style).to_string() } else { text.to_owned() }
    }

    /// Refuses `--json` where it would be ignored.
    pub fn no_json(&self, command: &str) -> Result<(), Failure> {
        if self.json { Err(Failure::invalid(format!("--json does not apply to {command}"))) } else { Ok(()) }
    }
}

/// Sends our log to standard error.
pub fn start_log(global: &Global, daemon: bool) -> Result<(), Failure> {
    let filter = match &global.log {
        Some(filter) => EnvFilter::try_new(filter).map_err(|e| Failure::invalid(format!("--log {filter:?}: {e}")))?,
        // What the NATS client says is either in our own errors too, or noise.
        None if daemon => EnvFilter::new("info,async_nats=warn"),
        None => EnvFilter::new("error,async_nats=off"),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if global.json && daemon {
        builder.json().init();
    } else {
        builder.with_ansi(Output::new(global).colour_err).with_target(false).init();
    }
    Ok(())
}

/// `3m`, `2h`, `5d`: how long ago something was, in one unit.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let secs = now.since(since).as_secs();
    match secs {
        0..=119 => format!("{secs}s"),
        120..=7199 => format!("{}m", secs / 60),
        7200..=172_799 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// Now, by the machine's clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let at = |secs: i64| age(Timestamp::from_millis(0), Timestamp::from_millis(secs * 1000));
        assert_eq!([at(0), at(119), at(120), at(7200), at(172_800)].join(" "), "0s 119s 2m 2h 2d");
        assert_eq!(age(Timestamp::from_millis(5000), Timestamp::from_millis(0)), "0s", "a clock may be behind");
    }
}
