//! What functions of job files see of the world. The caller decides: this crate opens no file and reads no clock.

/// What functions of job files see of the world.
pub trait Around: Sync {
    /// Bytes of a file; relative paths are relative to the job file. The text of an error is shown.
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;

    /// Whether there is a file.
    fn exists(&self, path: &str) -> Result<bool, String>;

    /// Files below a directory, at most `most` of them, relative to it, with `/` between names.
    fn list(&self, dir: &str, most: usize) -> Result<Vec<String>, String>;

    /// The absolute form of a path; `~` is the home directory.
    fn absolute(&self, path: &str) -> Result<String, String>;

    /// Seconds since 1970.
    fn now(&self) -> Result<i64, String>;

    /// Sixteen bytes nobody can foresee.
    fn random(&self) -> Result<[u8; 16], String>;
}

/// Nothing at all: for job files that come from somebody else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

const NO_FILES: &str =
    "no files are read here: parse the job where its files are (`moat job run`), or write them into it";

impl Around for Nothing {
    fn read(&self, _: &str) -> Result<Vec<u8>, String> {
        Err(NO_FILES.to_owned())
    }

    fn exists(&self, _: &str) -> Result<bool, String> {
        Err(NO_FILES.to_owned())
    }

    fn list(&self, _: &str, _: usize) -> Result<Vec<String>, String> {
        Err(NO_FILES.to_owned())
    }

    fn absolute(&self, _: &str) -> Result<String, String> {
        Err(NO_FILES.to_owned())
    }

    fn now(&self) -> Result<i64, String> {
        Err("there is no clock here".to_owned())
    }

    fn random(&self) -> Result<[u8; 16], String> {
        Err("there is nothing random here".to_owned())
    }
}
