//! What the rules look at: texts and packages, so that a rule is a pure function.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::workspace::root;

/// Everything of the checkout that a rule may want.
#[derive(Debug, Default)]
pub struct Tree {
    /// Text files by path relative to the root, with `/`.
    pub files: BTreeMap<String, String>,
    /// Members of the workspace.
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Direct dependencies that end up in what it ships.
    pub uses: Vec<String>,
    /// Direct dependencies of its tests.
    pub tests_use: Vec<String>,
}

const TEXT: [&str; 6] = ["rs", "toml", "md", "sh", "yml", "yaml"];
/// Not ours to judge, or not in the repository.
const SKIPPED: [&str; 3] = ["target", ".git", "corpus"];

impl Tree {
    /// Reads the checkout.
    pub fn load() -> anyhow::Result<Self> {
        let mut tree = Self { files: BTreeMap::new(), packages: packages()? };
        tree.read(&root(), Path::new(""))?;
        Ok(tree)
    }

    /// Rust files outside of tests directories.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rust().filter(|(path, _)| !path.contains("/tests/") && !path.ends_with("/tests.rs"))
    }

    /// All Rust files.
    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.with_extension(".rs")
    }

    /// All documents.
    pub fn documents(&self) -> impl Iterator<Item = (&str, &str)> {
        self.with_extension(".md")
    }

    /// Name of the package a file belongs to.
    pub fn package_of(&self, path: &str) -> Option<&str> {
        let manifest = |dir: &Path| self.files.get(dir.join("Cargo.toml").to_str()?);
        let text = Path::new(path).ancestors().skip(1).find_map(manifest)?;
        text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
    }

    fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(move |(p, _)| p.ends_with(extension))
    }

    fn read(&mut self, root: &Path, dir: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(root.join(dir)).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = dir.join(&name);
            if entry.file_type()?.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    self.read(root, &path)?;
                }
            } else if is_text(&path) {
                let text = fs::read_to_string(entry.path()).with_context(|| format!("read {}", path.display()))?;
                self.files.insert(path.to_string_lossy().into_owned(), text);
            }
        }
        Ok(())
    }
}

fn is_text(path: &Path) -> bool {
    let known = path.extension().is_some_and(|e| TEXT.iter().any(|known| e == *known));
    known || path == Path::new(".ci/run")
}

fn packages() -> anyhow::Result<Vec<Package>> {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().context("cargo metadata")?;
    let of_kind = |package: &cargo_metadata::Package, is_test: bool| {
        let wanted = |kind: DependencyKind| (kind == DependencyKind::Development) == is_test;
        package.dependencies.iter().filter(|d| wanted(d.kind)).map(|d| d.name.clone()).collect()
    };
    let packages = metadata.packages.iter().map(|package| Package {
        name: package.name.to_string(),
        uses: of_kind(package, false),
        tests_use: of_kind(package, true),
    });
    Ok(packages.collect())
}
