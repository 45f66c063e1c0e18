//! The static program inside every sandbox. Run by the daemon, never by hand.
//!
//! `launch` builds what the sandbox needs around it and becomes the agent; `enter` becomes a program that confines itself;
//! `version` says which it is. As `/init` of a virtual machine there is nobody who could give it arguments.

mod agent;
mod enter;
mod launcher;
mod machine;
mod sys;

use std::process::ExitCode;

/// Exit code of every failure that is ours (DESIGN section 13).
const OURS: u8 = 125;

fn main() -> ExitCode {
    if machine::is_this() {
        machine::main();
    }
    match std::env::args().nth(1).as_deref() {
        Some("launch") => launcher::main(),
        Some("enter") => enter::main(),
        Some("version") => {
            println!("moat-agent {} protocol {}", env!("CARGO_PKG_VERSION"), moat_agent::protocol::PROTOCOL_VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: moat-agent launch|enter|version; it is started by the moat daemon, not by hand");
            ExitCode::from(OURS)
        }
    }
}
