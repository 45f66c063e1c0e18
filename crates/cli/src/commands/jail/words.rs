//! The words after a command, taken one after another.

use crate::failure::Failure;

/// Words that are left, and how the command is written.
#[derive(Debug)]
pub struct Words {
    words: std::collections::VecDeque<String>,
    usage: &'static str,
}

impl Words {
    /// All of them. `usage` stands in errors.
    pub fn new(words: Vec<String>, usage: &'static str) -> Self {
        Self { words: words.into(), usage }
    }

    /// The next, which must be there.
    pub fn take(&mut self, what: &str) -> Result<String, Failure> {
        self.words.pop_front().ok_or_else(|| self.wrong(&format!("{what} is missing")))
    }

    /// The next, if there is one.
    pub fn maybe(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// All that are left.
    pub fn rest(self) -> Vec<String> {
        self.words.into()
    }

    /// There must be no more.
    pub fn end(mut self) -> Result<(), Failure> {
        match self.words.pop_front() {
            Some(word) => Err(self.wrong(&format!("{word:?} is one word too many"))),
            None => Ok(()),
        }
    }

    /// An error that says how the command is written.
    pub fn wrong(&self, why: &str) -> Failure {
        Failure::invalid(why.to_owned()).with_hint(format!("usage: {}", self.usage))
    }
}
