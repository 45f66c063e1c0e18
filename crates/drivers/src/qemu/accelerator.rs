//! What gives machines their processors, tried out and not guessed.
//!
//! `/dev/kvm` says little: a host that is a virtual machine itself may offer one that runs only guests made for it. So a stock
//! guest is booted once, within a bound, and what came of it is kept until the host boots again or the guest changes.

use std::fs;
use std::path::{Path, PathBuf};

use moat_engine::driver::{Need, Requirement};
use serde::{Deserialize, Serialize};

/// What gives machines their processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processors run the guest.
    Kvm,
    /// They are emulated.
    Tcg,
}

impl Accelerator {
    /// As it is told to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What KVM here is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmKind {
    /// There is none.
    None,
    /// Intel's extensions, or AMD's, or another architecture's own.
    Hardware(&'static str),
    /// Neither: the host is a guest of somebody who lends it one that runs guests made for it.
    Paravirtual,
}

/// What KVM here is made of, and what says so.
pub fn kvm_kind() -> (KvmKind, String) {
    if !Path::new("/dev/kvm").exists() {
        return (KvmKind::None, "/dev/kvm does not exist".to_owned());
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    kind_of(&cpuinfo, module, std::env::consts::ARCH)
}

fn kind_of(cpuinfo: &str, module: impl Fn(&str) -> bool, architecture: &str) -> (KvmKind, String) {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    if module("kvm_pvm") {
        return (KvmKind::Paravirtual, "/dev/kvm is paravirtual: the module kvm_pvm is loaded".to_owned());
    }
    match architecture {
        "x86_64" if has("vmx") => (KvmKind::Hardware("intel"), "/dev/kvm; the processor has vmx".to_owned()),
        "x86_64" if has("svm") => (KvmKind::Hardware("amd"), "/dev/kvm; the processor has svm".to_owned()),
        "x86_64" => (KvmKind::Paravirtual, "/dev/kvm is paravirtual: the processor has neither vmx nor svm".to_owned()),
        _ => (KvmKind::Hardware("native"), "/dev/kvm".to_owned()),
    }
}

/// What came of booting a stock guest with KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// It got as far as its agent.
    pub boots: bool,
    /// What was seen.
    pub fact: String,
}

impl Trial {
    /// Where it is kept: another boot of the host, another kernel of the guest or another QEMU is another trial.
    pub fn file(run_dir: &Path, kernel_sha256: &str, version: &str) -> PathBuf {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kernel = kernel_sha256.get(..16).unwrap_or(kernel_sha256);
        run_dir.join(format!("kvm-{}-{kernel}-{version}.json", boot.trim()))
    }

    /// What an earlier daemon saw.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    /// For the operator.
    pub fn requirement(&self) -> Requirement {
        Requirement {
            name: "kvm runs a stock guest".to_owned(),
            need: Need::Optional,
            met: self.boots,
            fact: self.fact.clone(),
            fix: (!self.boots)
                .then(|| "use a host with hardware virtualisation; until then machines are emulated".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_kvm() {
        let none = |_: &str| false;
        assert_eq!(kind_of("flags\t: fpu vmx", none, "x86_64").0, KvmKind::Hardware("intel"));
        assert_eq!(kind_of("flags\t: fpu svm", none, "x86_64").0, KvmKind::Hardware("amd"));
        assert_eq!(kind_of("flags\t: fpu vmxx", none, "x86_64").0, KvmKind::Paravirtual);
        assert_eq!(kind_of("flags\t: fpu vmx", |name| name == "kvm_pvm", "x86_64").0, KvmKind::Paravirtual);
        assert_eq!(kind_of("", none, "aarch64").0, KvmKind::Hardware("native"));
    }

    #[test]
    fn a_trial_is_kept_for_this_boot_and_this_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let file = Trial::file(dir.path(), &"a".repeat(64), "7.2.0");
        assert_ne!(file, Trial::file(dir.path(), &"b".repeat(64), "7.2.0"));
        assert_eq!(Trial::read(&file), None);
        let trial = Trial { boots: false, fact: "no".to_owned() };
        fs::write(&file, serde_json::to_vec(&trial).unwrap()).unwrap();
        assert_eq!(Trial::read(&file), Some(trial));
    }
}
