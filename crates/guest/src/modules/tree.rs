//! A directory of modules: what is there as a file, what is part of the kernel, what needs what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, at};

/// The most files that are looked at; a distribution's kernel has some 6000 modules.
const MAX_FILES: usize = 100_000;
/// How deep directories are followed: `kernel/drivers/net/ethernet/intel/ice` and the like.
const MAX_DEPTH: usize = 16;
const ENDINGS: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// The directory, read once.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    dependencies: BTreeMap<String, Vec<String>>,
}

impl Tree {
    /// Reads names only; a module's own file is read when it is picked.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let mut tree = Self::default();
        let mut seen = 0;
        tree.walk(dir, 0, &mut seen)?;
        if tree.files.is_empty() {
            return Err(Error::unusable(format!(
                "{}: no modules in it; name the /lib/modules/<version> that belongs to the kernel",
                dir.display()
            )));
        }
        tree.builtin = lines(&dir.join("modules.builtin"))?.iter().filter_map(|line| module_name(line)).collect();
        for line in lines(&dir.join("modules.dep"))? {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let Some(name) = module_name(file) else { continue };
            // The one on the right is loaded first.
            let needs = needs.split_whitespace().rev().filter_map(module_name).collect();
            tree.dependencies.insert(name, needs);
        }
        Ok(tree)
    }

    /// Its file.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.files.get(name).map(PathBuf::as_path)
    }

    /// Whether it is part of the kernel.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// What `modules.dep` says it needs; `None` if that says nothing.
    pub fn needs(&self, name: &str) -> Option<&[String]> {
        self.dependencies.get(name).map(Vec::as_slice)
    }

    fn walk(&mut self, dir: &Path, depth: usize, seen: &mut usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::unusable(format!("{}: directories more than {MAX_DEPTH} deep", dir.display())));
        }
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let entry = entry.map_err(at(dir))?;
            *seen += 1;
            if *seen > MAX_FILES {
                return Err(Error::unusable(format!("{}: more than {MAX_FILES} files", dir.display())));
            }
            let (path, kind) = (entry.path(), entry.file_type().map_err(at(dir))?);
            // Links lead to the kernel's source (`build`), never to modules.
            if kind.is_dir() {
                self.walk(&path, depth + 1, seen)?;
            } else if kind.is_file()
                && let Some(name) = module_name(&entry.file_name().to_string_lossy())
            {
                self.offer(name, path);
            }
        }
        Ok(())
    }

    /// Of two with one name the one that is not the kernel package's own wins (`updates/`, `extra/`), as for modprobe.
    fn offer(&mut self, name: String, path: PathBuf) {
        let rank = |path: &Path| (path.components().any(|part| part.as_os_str() == "kernel"), path.to_owned());
        match self.files.get(&name) {
            Some(known) if rank(known) <= rank(&path) => {}
            _ => {
                self.files.insert(name, path);
            }
        }
    }
}

/// Name of the module in a file of this path, as the kernel spells it.
pub fn module_name(path: &str) -> Option<String> {
    let file = path.trim().rsplit('/').next()?;
    let stem = ENDINGS.iter().find_map(|ending| file.strip_suffix(ending))?;
    (!stem.is_empty()).then(|| canonical(stem))
}

/// The kernel makes no difference between `-` and `_` in a module's name.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn lines(path: &Path) -> Result<Vec<String>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}
