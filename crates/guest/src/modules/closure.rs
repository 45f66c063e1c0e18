//! A module and everything it needs, each after what it needs.

use std::collections::BTreeSet;

use super::Module;
use super::file::{self, Info};
use super::tree::{Tree, canonical};
use crate::Error;

/// How long a chain of needs may be: real ones have less than ten.
const MAX_CHAIN: usize = 32;

/// What was added so far.
pub struct Closure<'a> {
    tree: &'a Tree,
    kernel_version: &'a str,
    modules: Vec<Module>,
    known: BTreeSet<String>,
    why_not: Option<String>,
}

impl<'a> Closure<'a> {
    /// Nothing yet.
    pub fn new(tree: &'a Tree, kernel_version: &'a str) -> Self {
        Self { tree, kernel_version, modules: Vec::new(), known: BTreeSet::new(), why_not: None }
    }

    /// Adds a module with what it needs; `false`, and nothing added, if it or something it needs is not there.
    pub fn try_add(&mut self, name: &str) -> Result<bool, Error> {
        let (before, known) = (self.modules.len(), self.known.clone());
        if self.add(name, 0)? {
            return Ok(true);
        }
        self.modules.truncate(before);
        self.known = known;
        Ok(false)
    }

    /// Which one was not there when [`Self::try_add`] last said `false`.
    pub fn why_not(&self) -> Option<&str> {
        self.why_not.as_deref()
    }

    /// In the order in which they are to be loaded.
    pub fn into_modules(self) -> Vec<Module> {
        self.modules
    }

    fn add(&mut self, name: &str, depth: usize) -> Result<bool, Error> {
        let name = canonical(name);
        if self.tree.is_builtin(&name) || self.known.contains(&name) {
            return Ok(true);
        }
        if depth > MAX_CHAIN {
            return Err(Error::unusable(format!("module {name}: needs more than {MAX_CHAIN} others in a row")));
        }
        let Some(path) = self.tree.file(&name) else {
            self.why_not = Some(name);
            return Ok(false);
        };
        // Known before it is complete, so that a circle ends.
        self.known.insert(name.clone());
        let said = |e: Error| Error::unusable(format!("{}: {e}", path.display()));
        let bytes = file::read(path)?;
        let info = Info::read(&bytes).map_err(said)?;
        self.check_version(&info).map_err(said)?;
        for helpful in &info.before {
            self.add_if_there(helpful, depth)?;
        }
        let needs = self.tree.needs(&name).map_or(info.depends, <[String]>::to_vec);
        for needed in needs {
            if !self.add(&needed, depth + 1)? {
                return Ok(false);
            }
        }
        self.modules.push(Module { name, bytes });
        Ok(true)
    }

    /// A soft dependency may be an algorithm (`crc32c`), which a module of that name or its plain variant provides.
    fn add_if_there(&mut self, name: &str, depth: usize) -> Result<(), Error> {
        let plain = format!("{name}_generic");
        let there = |name: &str| self.tree.is_builtin(name) || self.tree.file(name).is_some();
        if let Some(name) = [name, &plain].into_iter().find(|name| there(name)) {
            self.add(name, depth + 1)?;
        }
        Ok(())
    }

    /// The kernel would refuse the module, and the guest would not come up with a message that says why.
    fn check_version(&self, info: &Info) -> Result<(), Error> {
        match info.version.as_deref() {
            Some(version) if version != self.kernel_version => Err(Error::unusable(format!(
                "built for kernel {version}, but the kernel is {}; name the modules that belong to it (--modules)",
                self.kernel_version
            ))),
            _ => Ok(()),
        }
    }
}
