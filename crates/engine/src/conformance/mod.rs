//! The conformance suite: what every driver must do, as one function over any of them.
//!
//! A case has an id that never changes meaning. It passes, fails, is not supported (the driver says so itself), or was not
//! run (this host or profile lacks something, named). Whatever a case made is killed and released after it, and if that
//! does not work the case has failed. The contract is the documentation of [`Driver`]; the cases check it from outside.

mod bed;
mod exec;
mod files;
mod hostile;
mod life;
mod machine;
mod output;
mod patience;
mod ports;
mod recovery;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use moat_model::{ErrorKind, SandboxSpec};

use self::bed::Bed;
use self::patience::{patiently, whole_case};
pub use self::report::{CaseResult, Outcome, Report, update_document};
use crate::driver::Driver;
use crate::error::Error;

/// What this host offers to the cases.
#[derive(Debug, Clone)]
pub struct HostProfile {
    /// For the report: kernel, control groups, anything that decided what ran.
    pub host: String,
    /// Run directories of sandboxes go below it.
    pub run_dir: PathBuf,
    /// Data directories of sandboxes go below it.
    pub data_dir: PathBuf,
    /// First of a range of host user ids; each sandbox takes the next 65,536. Zero for a driver that needs none.
    pub uid_base: u32,
    /// What every sandbox of the suite is made from; its main process is replaced.
    pub spec: SandboxSpec,
    /// How a script is run inside: the script is added as the last argument. Without it, cases that need a program are not
    /// run.
    pub shell: Option<Vec<String>>,
    /// The shell is a whole POSIX shell with the usual small programs, not just the words of the fake driver.
    pub full_shell: bool,
    /// A program inside that listens on a TCP port of 127.0.0.1 of its own choosing, prints the number in a line, and
    /// answers every connection with what it hears until that ends, then `bye`. Without it, cases that need one are not run.
    pub listener: Option<Vec<String>>,
    /// The processor inside is emulated: a boot takes seconds, and a minute on a busy host.
    pub slow: bool,
    /// What the driver's `usage` counts.
    pub counted: Counted,
    /// Specs that this driver must refuse, with the field it must name.
    pub refused: Vec<(String, SandboxSpec)>,
}

/// What a driver's `usage` counts as processes and kills for memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Those of the sandbox.
    Processes,
    /// Those of a virtual machine monitor. What runs in the machine, and what is killed there, its own kernel counts.
    Monitor,
}

/// Why a case did not pass.
#[derive(Debug)]
enum Fault {
    Failed(String),
    NotSupported(String),
    NotRun(String),
}

type Verdict = Result<(), Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{:?}: {}", error.kind, error.chain()))
    }
}

/// Fails the case unless `holds`.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Fault::Failed(otherwise())) }
}

/// Fails the case unless `result` is an error of this kind.
fn ensure_kind<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, doing: &str) -> Result<Error, Fault> {
    match result {
        Err(error) if error.kind == kind => Ok(error),
        other => Err(Fault::Failed(format!("{doing}: wanted a failure of kind {kind:?}, got {other:?}"))),
    }
}

/// One case.
struct Case {
    id: &'static str,
    group: &'static str,
    title: &'static str,
    run: for<'a> fn(&'a Bed) -> BoxFuture<'a, Verdict>,
}

macro_rules! cases {
    ($($id:literal $group:literal $title:literal $run:path;)*) => {
        &[$(Case { id: $id, group: $group, title: $title, run: |bed| Box::pin($run(bed)) }),*]
    };
}

/// Every case. New ones go to the end of their group with the next free number; numbers are never used again.
const CASES: &[Case] = cases! {
    "C01" "lifecycle" "a sandbox is planned, created, started, runs its program, and is released" life::whole_life;
    "C02" "lifecycle" "a second start of the main process is a conflict" life::main_starts_once;
    "C03" "lifecycle" "a program that does not exist is refused by name" life::missing_program;
    "C04" "lifecycle" "arguments and environment arrive exactly, and nothing is inherited" life::arguments;
    "C05" "lifecycle" "two sandboxes at once do not see each other" life::two_at_once;
    "C06" "lifecycle" "validate refuses what cannot be honoured and names the field" life::refusals;
    "C07" "lifecycle" "the abilities described are the ones offered" life::abilities;
    "C10" "exit" "exit codes 0, 1, 7 and 255 are reported" life::exit_codes;
    "C11" "exit" "death by a signal is reported with the signal" life::death_by_signal;
    "C12" "exit" "waiting may be given up and begun again, and answers after the end" life::wait_again;
    "C15" "signal" "a signal reaches the main process" life::signals;
    "C16" "signal" "a main process that ignores SIGTERM is ended by kill" life::stop_escalation;
    "C20" "exec" "standard output and error are apart, complete, and before the exit" exec::pipes;
    "C21" "exec" "standard input arrives, and its end too" exec::stdin;
    "C22" "exec" "without standard input a program reads its end at once" exec::no_stdin;
    "C23" "exec" "exit codes are reported" exec::exit_codes;
    "C24" "exec" "a time limit kills it and everything it started" exec::timeout;
    "C25" "exec" "hanging up kills it and everything it started" exec::hang_up;
    "C26" "exec" "a signal reaches it" exec::signal;
    "C27" "exec" "a terminal is given when asked for" exec::terminal;
    "C28" "exec" "many at once do not mix" exec::many;
    "C30" "output" "every byte is delivered once and in order over several readers" output::exactly_once;
    "C31" "output" "what was acknowledged is forgotten, what was not is kept after the end" output::kept_after_end;
    "C35" "kill" "kill succeeds twice, and when nothing runs" recovery::kill_twice;
    "C36" "release" "release succeeds twice, and for what was never made" recovery::release_twice;
    "C37" "release" "a create given up half-way leaves nothing that the plan does not name" recovery::create_given_up;
    "C40" "recover" "a running sandbox is found again from its record alone" recovery::alive;
    "C41" "recover" "one whose program ended meanwhile gives its status and output" recovery::exited;
    "C42" "recover" "one that was killed is gone" recovery::gone;
    "C45" "usage" "usage is measured while it runs and after it ended" recovery::usage;
    "C46" "pause" "nothing moves while it is paused, and everything after" recovery::pause;
    "C47" "pause" "one that is paused can be killed" recovery::kill_paused;
    "C50" "hostile" "a program that floods its output stops neither the agent nor a kill" hostile::flood;
    "C51" "hostile" "a program that forks until it is refused stops neither the agent nor a kill" hostile::fork_bomb;
    "C52" "hostile" "a program that exceeds its memory is killed, and that is counted" hostile::memory;
    "C53" "hostile" "a program that ignores every signal is ended by kill" hostile::ignores_everything;
    "C60" "files" "a file that was written is read, in whole and in part" files::round_trip;
    "C61" "files" "questions about files are answered, and refused by kind" files::questions;
    "C62" "files" "a write that is not finished leaves nothing" files::abandoned;
    "C63" "files" "whoever watches is told" files::watch;
    "C64" "files" "a spawned process is followed by several and is not held up" files::spawned;
    "C65" "files" "an archive is unpacked as it was packed" files::archive;
    "C70" "ports" "a port inside can be connected to, and each direction ends for itself" ports::connected;
    "C71" "ports" "a port nobody listens on is not found" ports::refused;
    "C72" "ports" "a connection nobody reads holds up no other" ports::unread;
    "C80" "stow" "one that lay on disk goes on where it was, its clock right, nothing it said lost" machine::stow;
    "C81" "stow" "one that was read back can be written again" machine::stow_again;
    "C82" "stow" "one that lies on disk is found there from its record alone, and left there" machine::found_on_disk;
    "C83" "stow" "one that lies on disk can be killed, and leaves nothing" machine::kill_on_disk;
    "C84" "stow" "writing that is given up leaves it running, or on disk" machine::stow_given_up;
    "C85" "machine" "two made from one go on where it was kept, each somebody else, and so does it" machine::fork;
    "C86" "machine" "nothing of the user runs in one before it is somebody else" machine::nothing_runs_before;
    "C87" "machine" "what was damaged is refused, and the file is named" machine::damaged;
};

/// Runs every case against a driver.
pub async fn run(driver: Arc<dyn Driver>, profile: HostProfile) -> Report {
    let description = driver.describe();
    let host = profile.host.clone();
    let mut bed = Bed::new(driver, profile);
    let mut results = Vec::with_capacity(CASES.len());
    for case in CASES {
        let outcome = patiently(bed.profile.slow, run_case(case, &bed)).await;
        tracing::info!(case = case.id, ?outcome, "conformance");
        results.push(CaseResult { id: case.id, group: case.group, title: case.title, outcome });
        bed = bed.next();
    }
    Report { driver: description.name.to_owned(), isolation: description.isolation, host, results }
}

async fn run_case(case: &Case, bed: &Bed) -> Outcome {
    let limit = whole_case(bed.profile.slow);
    let guarded = std::panic::AssertUnwindSafe((case.run)(bed)).catch_unwind();
    let verdict = match tokio::time::timeout(limit, guarded).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(Fault::Failed("the case panicked".to_owned())),
        Err(_) => Err(Fault::Failed(format!("not done within {} s", limit.as_secs()))),
    };
    let cleaned = bed.clear().await;
    match (verdict, cleaned) {
        (Err(Fault::Failed(why)), _) => Outcome::Failed(why),
        (_, Err(left)) => Outcome::Failed(format!("not cleared away: {left}")),
        (Ok(()), Ok(())) => Outcome::Passed,
        (Err(Fault::NotSupported(why)), Ok(())) => Outcome::NotSupported(why),
        (Err(Fault::NotRun(why)), Ok(())) => Outcome::NotRun(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeConfig, FakeWorld};
    use crate::testing::spec;
    use moat_model::network::{NetworkMode, NetworkSpec};

    fn profile(dir: &std::path::Path) -> HostProfile {
        HostProfile {
            host: "imagined".to_owned(),
            run_dir: dir.join("run"),
            data_dir: dir.join("data"),
            uid_base: 1 << 30,
            spec: spec("", &[]),
            shell: Some(vec!["sh".to_owned(), "-c".to_owned()]),
            full_shell: false,
            listener: Some(vec!["listen".to_owned()]),
            slow: false,
            counted: Counted::Processes,
            refused: vec![(
                "network".to_owned(),
                SandboxSpec { network: NetworkSpec::new(NetworkMode::Host), ..spec("", &[]) },
            )],
        }
    }

    #[test]
    fn ids_are_sorted_and_used_once() {
        assert!(CASES.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[tokio::test(start_paused = true)]
    async fn the_fake_driver_passes() {
        let dir = tempfile::tempdir().unwrap();
        let world = FakeWorld::new(FakeConfig::default());
        let report = run(world.driver(), profile(dir.path())).await;
        assert_eq!(report.failures(), Vec::<String>::new());
        let passed = report.results.iter().filter(|result| result.outcome == Outcome::Passed).count();
        assert!(passed >= 25, "only {passed} passed:\n{}", report.to_markdown());
        assert_eq!(world.resources(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn abilities_that_are_not_there_are_not_supported() {
        let dir = tempfile::tempdir().unwrap();
        let world = FakeWorld::new(FakeConfig { freezer: false, ..FakeConfig::default() });
        let report = run(world.driver(), profile(dir.path())).await;
        assert_eq!(report.failures(), Vec::<String>::new());
        let pause = report.results.iter().find(|result| result.id == "C46").unwrap();
        assert!(matches!(pause.outcome, Outcome::NotSupported(_)), "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn machines_are_judged_on_the_fake_driver_too() {
        let dir = tempfile::tempdir().unwrap();
        let report = run(FakeWorld::new(FakeConfig::default()).driver(), profile(dir.path())).await;
        let outcome = |id: &str| &report.results.iter().find(|result| result.id == id).unwrap().outcome;
        for id in ["C80", "C81", "C82", "C83", "C84", "C85", "C87"] {
            assert_eq!(outcome(id), &Outcome::Passed, "{id}");
        }
        let none = FakeConfig { stower: false, snapshotter: false, ..FakeConfig::default() };
        let report = run(FakeWorld::new(none).driver(), profile(dir.path())).await;
        assert_eq!(report.failures(), Vec::<String>::new());
        let unsupported =
            |result: &&CaseResult| result.id >= "C80" && matches!(result.outcome, Outcome::NotSupported(_));
        let ids: Vec<&str> = report.results.iter().filter(unsupported).map(|result| result.id).collect();
        assert_eq!(ids, ["C80", "C81", "C82", "C83", "C84", "C85", "C86", "C87"]);
        let twins = FakeConfig { same_identity: true, ..FakeConfig::default() };
        let report = run(FakeWorld::new(twins).driver(), profile(dir.path())).await;
        let failures = report.failures();
        assert!(
            matches!(&failures[..], [only] if only.starts_with("C85") && only.contains("the same")),
            "{failures:?}"
        );
    }

    /// The suite accuses: a driver that breaks its promises does not pass.
    #[tokio::test(start_paused = true)]
    async fn a_bad_driver_fails() {
        let dir = tempfile::tempdir().unwrap();
        let bad = FakeConfig { kill_failures: 1, recover: crate::fake::FakeRecover::Gone, ..FakeConfig::default() };
        let report = run(FakeWorld::new(bad).driver(), profile(dir.path())).await;
        let failed: Vec<&str> = report
            .results
            .iter()
            .filter(|result| matches!(result.outcome, Outcome::Failed(_)))
            .map(|result| result.id)
            .collect();
        assert!(failed.contains(&"C01") && failed.contains(&"C40"), "{failed:?}");
    }
}
