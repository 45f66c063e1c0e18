//! Job files: from a path and variables to a job.
//!
//! Files, variables and the clock are this machine's: a job file is read here, and what is sent is the job.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use moat_formats::{Around, Inputs, nomad};
use moat_model::Namespace;
use moat_model::job::Job;
use rand::TryRngCore;

use crate::args::Global;
use crate::failure::Failure;

/// Longest job file, and longest file a function of one reads: a request carries no more.
const FILE_MAX: u64 = 4 << 20;

/// A job file and its variables.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Value of a variable; may be given several times. NOMAD_VAR_name and MOAT_VAR_name in the environment do the same
    #[arg(long = "var", value_name = "NAME=VALUE")]
    vars: Vec<String>,
    /// File with values of variables; may be given several times
    #[arg(long = "var-file", value_name = "FILE")]
    var_files: Vec<PathBuf>,
    /// Job file, HCL or JSON; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl FileArgs {
    /// The file as it was given.
    pub fn shown(&self) -> String {
        self.file.display().to_string()
    }

    /// Reads it. A job that names no namespace is for the one of `--namespace`.
    pub fn read(&self, global: &Global) -> Result<Job, Failure> {
        let text = self.text()?;
        let beside = match self.file.parent() {
            Some(dir) if self.file != Path::new("-") && dir != Path::new("") => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let job = nomad::parse(&self.shown(), &text, &self.inputs()?, &Here { beside });
        let mut job = job.map_err(|problems| Failure::invalid(format!("this job file cannot be read\n{problems}")))?;
        if job.namespace == Namespace::default_namespace() {
            job.namespace.clone_from(&global.namespace);
        }
        Ok(job)
    }

    fn text(&self) -> Result<String, Failure> {
        if self.file != Path::new("-") {
            return bounded(&self.file).map_err(|e| Failure::file("read", &self.file, &e));
        }
        let mut text = String::new();
        let read = std::io::stdin().lock().take(FILE_MAX + 1).read_to_string(&mut text);
        read.map_err(|e| Failure::internal("read standard input", e))?;
        if text.len() as u64 > FILE_MAX {
            return Err(Failure::invalid(format!("standard input: a job file is at most {FILE_MAX} bytes")));
        }
        Ok(text)
    }

    fn inputs(&self) -> Result<Inputs, Failure> {
        let mut inputs = Inputs::default();
        // Ours after Nomad's: it wins.
        for prefix in ["NOMAD_VAR_", "MOAT_VAR_"] {
            let named = std::env::vars_os().filter_map(|(name, value)| {
                let name = name.to_str()?.strip_prefix(prefix)?.to_owned();
                Some((name, value.to_str()?.to_owned()))
            });
            inputs.environment.extend(named);
        }
        for path in &self.var_files {
            let text = bounded(path).map_err(|e| Failure::file("read", path, &e))?;
            inputs.files.push((path.display().to_string(), text));
        }
        for pair in &self.vars {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| Failure::invalid(format!("--var {pair:?} is not NAME=VALUE")))?;
            inputs.vars.push((name.to_owned(), value.to_owned()));
        }
        Ok(inputs)
    }
}

fn bounded(path: &Path) -> std::io::Result<String> {
    let bytes = bytes(path)?;
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("this is not text"))
}

fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(std::io::Error::other(format!("longer than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

/// This machine, as functions of a job file see it.
struct Here {
    /// Where the job file lies.
    beside: PathBuf,
}

impl Here {
    fn path(&self, path: &str) -> PathBuf {
        self.beside.join(at_home(path))
    }
}

fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

impl Around for Here {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let path = self.path(path);
        bytes(&path).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn exists(&self, path: &str) -> Result<bool, String> {
        Ok(self.path(path).is_file())
    }

    fn list(&self, dir: &str, most: usize) -> Result<Vec<String>, String> {
        let root = self.path(dir);
        let (mut found, mut left) = (Vec::new(), vec![root.clone()]);
        while let Some(dir) = left.pop() {
            let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            for entry in entries {
                let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
                let kind = entry.file_type().map_err(|e| format!("{}: {e}", entry.path().display()))?;
                if kind.is_dir() {
                    left.push(entry.path());
                } else if let Ok(name) = entry.path().strip_prefix(&root) {
                    found.push(name.to_string_lossy().into_owned());
                }
                if found.len() + left.len() > most {
                    return Err(format!("{}: more than {most} files", root.display()));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn absolute(&self, path: &str) -> Result<String, String> {
        let path = std::path::absolute(at_home(path)).map_err(|e| e.to_string())?;
        let mut clean = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(clean.pop()),
                part => clean.push(part),
            }
        }
        Ok(clean.to_string_lossy().into_owned())
    }

    fn now(&self) -> Result<i64, String> {
        Ok(crate::output::now().as_secs())
    }

    fn random(&self) -> Result<[u8; 16], String> {
        let mut bytes = [0; 16];
        rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_beside_the_job_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/b"), "two").unwrap();
        std::fs::write(dir.path().join("a"), "one").unwrap();
        let here = Here { beside: dir.path().to_owned() };
        assert_eq!(here.read("a").unwrap(), b"one");
        assert!(here.read("c").unwrap_err().contains("/c: "));
        assert_eq!((here.exists("sub/b"), here.exists("sub")), (Ok(true), Ok(false)));
        assert_eq!(here.list(".", 10).unwrap(), ["a", "sub/b"]);
        assert!(here.list(".", 1).is_err());
        assert_eq!(here.absolute("/a/../b").unwrap(), "/b");
    }
}
