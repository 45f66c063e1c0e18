//! Words on the console, and the end of the machine.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;

use rustix::system::{RebootCommand, reboot};

/// There if the firmware can switch the machine off.
const FIRMWARE: &str = "/sys/firmware/acpi";
/// Begins a word of the kernel's command line that says how the machine restarts, which there is how it ends.
const RESTART_WORD: &str = "reboot=";

/// What was seen of the machine before its root was another one.
#[derive(Debug)]
struct Outlets {
    console: Option<File>,
    switches_off: bool,
}

static OUTLETS: OnceLock<Outlets> = OnceLock::new();

/// Looks for the console and for the way to switch off. Once `/dev`, `/proc` and `/sys` are there.
pub fn look_around() {
    OUTLETS.get_or_init(|| {
        let commands = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let restarts = commands.split_whitespace().any(|word| word.starts_with(RESTART_WORD));
        Outlets {
            console: OpenOptions::new().write(true).open("/dev/console").ok(),
            switches_off: !restarts && std::fs::exists(FIRMWARE).unwrap_or(false),
        }
    });
}

/// A line on the console, if there is one.
pub fn say(line: &str) {
    if let Some(mut console) = OUTLETS.get().and_then(|outlets| outlets.console.as_ref()) {
        let _ = console.write_all(format!("{line}\n").as_bytes());
    }
}

/// Says why it cannot go on, and ends the machine: the kernel would do so with less to read.
pub fn die(why: &str) -> ! {
    look_around();
    say(&format!("moat-agent: {why}"));
    off()
}

/// What should never happen is said as well. Only by this process: a copy of it ends alone.
pub fn die_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if rustix::process::getpid().is_init() {
            die(&panic.to_string());
        }
    }));
}

/// Writes what is cached and ends the machine.
pub fn off() -> ! {
    rustix::fs::sync();
    if OUTLETS.get().is_some_and(|outlets| outlets.switches_off) {
        // Returns if it cannot.
        let _ = reboot(RebootCommand::PowerOff);
    }
    let _ = reboot(RebootCommand::Restart);
    // Not reached where the kernel does what it is asked. Ending would only raise an alarm.
    loop {
        rustix::event::pause();
    }
}
