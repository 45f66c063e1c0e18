//! How `moat jail` speaks: as Bastille does.

use owo_colors::Style;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;

/// Whether JSON is wanted, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// On one line.
    Json,
    /// Indented.
    Pretty,
}

/// Messages for people, or for programs.
#[derive(Debug, Clone, Copy)]
pub struct Say {
    /// Where to.
    pub output: Output,
    /// How.
    pub form: Form,
    /// Only what the command itself is about.
    pub quiet: bool,
    /// Which requests are made.
    pub trace: bool,
}

impl Say {
    /// Something that was done.
    pub fn info(&self, text: &str) -> Result<(), Failure> {
        if self.quiet || self.form != Form::Text {
            return Ok(());
        }
        self.output.line(&self.output.styled(text, Style::new().green()))
    }

    /// What was asked for.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.output.line(text)
    }

    /// A blank line and the jail's name: what follows is about it.
    pub fn heading(&self, name: &str) -> Result<(), Failure> {
        if self.quiet || self.form != Form::Text {
            return Ok(());
        }
        self.output.line(&format!("\n{}", self.output.styled(&format!("[{name}]:"), Style::new().green())))
    }

    /// Something people should know.
    pub fn warn(&self, text: &str) -> Result<(), Failure> {
        if self.quiet || self.form != Form::Text {
            return Ok(());
        }
        self.on_stderr(text, Style::new().yellow())
    }

    /// Why something failed.
    pub fn error(&self, failure: &Failure) {
        if failure.is_quiet() {
            return;
        }
        // If nobody reads it there is nobody to tell.
        if self.form == Form::Text {
            let _ = self.on_stderr(&format!("[ERROR]: {}", failure.message), Style::new().red());
            if let Some(hint) = &failure.hint {
                let _ = self.output.error_bytes(format!("hint: {hint}\n").as_bytes());
            }
        } else {
            let mut error = json!({"message": failure.message, "kind": failure.kind.code()});
            if let (Some(hint), Some(members)) = (&failure.hint, error.as_object_mut()) {
                members.insert("hint".to_owned(), hint.as_str().into());
            }
            let _ = self.json(&json!({"bastille": {"type": "error", "error": error}}));
        }
    }

    /// Jails in Bastille's envelope.
    pub fn jails(&self, jails: Vec<Value>) -> Result<(), Failure> {
        self.json(&json!({"bastille": {"type": "jail", "jail": jails}}))
    }

    /// A document, on one line or on many.
    pub fn json(&self, value: &Value) -> Result<(), Failure> {
        if self.form == Form::Pretty { self.output.document(value) } else { self.output.record(value) }
    }

    fn on_stderr(&self, text: &str, style: Style) -> Result<(), Failure> {
        let text = self.output.styled_error(text, style);
        self.output.error_bytes(format!("{text}\n").as_bytes())
    }
}
