//! A stand-in for Firecracker and its jailer in tests, for machines on which no guest can run.
//!
//! It takes the same command lines and speaks the same HTTP interface, and is stricter than the real ones: whatever its published
//! description does not have, in that version and at that point of a machine's life, is refused with a 400 and a
//! `fault_message`. Instead of a guest there is a scripted agent that keeps its promises behind the vsock socket; its "memory"
//! is in the files that snapshots write, so that what goes on from one is what was kept.
//!
//! Which program it is, which version it says it is and what goes wrong is in its own file name, the only thing the jailer
//! leaves as it is: `firecracker,1.16.0`, `jailer,1.16.0`, `firecracker,1.10.1,refuse=PUT+vsock`.
//!
//! | file | holds |
//! |---|---|
//! | `fault` | what goes wrong |
//! | `jailer` | the jailer |
//! | `vmm`, `http` | the monitor: states, and how it is asked |
//! | `rules`, `table` | which fields there are; in which version, of which kind |
//! | `guest`, `memory` | the agent, and what it remembers |

mod fault;
mod guest;
mod http;
mod jailer;
mod memory;
mod rules;
mod sys;
mod table;
mod vmm;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(script) = fault::Script::of(&name) else {
        // Built and run by its own name: there is nothing to stand in for.
        println!("fc-stub: link me as firecracker,<version> or jailer,<version>");
        return ExitCode::SUCCESS;
    };
    let words: Vec<String> = words.collect();
    let done = if name.starts_with("jailer") { jailer::main(&script, &words) } else { vmm::main(script, &words) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(153)
        }
    }
}
