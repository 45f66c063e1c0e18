//! The first process of a virtual machine that means ill, in place of the agent. What it does stands behind its program, as
//! the last word of its file.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::mount::MountFlags;
use rustix::system::finit_module;

const MODULES: &str = "/moat/modules";
const PORT: &str = "moat.agent";
/// Begins a word between the ends of the line.
const DLE: u8 = 0x10;
/// Characters of a word's number.
const NUMBER_LEN: usize = 16;

fn main() {
    let Err(error) = run();
    // Somebody reads the console.
    eprintln!("hostile: {error:#}");
    rest();
}

fn run() -> anyhow::Result<Infallible> {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(path)?;
        // Some kernels have done it.
        let _ = rustix::mount::mount(kind, path, kind, MountFlags::empty(), None);
    }
    for path in fs::read_to_string(MODULES).unwrap_or_default().lines() {
        // One that does not load is missed where it is needed.
        if let Ok(module) = File::open(Path::new("/").join(path)) {
            let _ = finit_module(module, c"", 0);
        }
    }
    let program = fs::read("/proc/self/exe").context("read the program")?;
    let word = program.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    match word {
        b"silent" => rest(),
        b"garbage" => flood(&mut port()?, &noise()),
        b"floods" => answer(true),
        b"mute" => answer(false),
        b"memory" => devour(),
        other => bail!("what is {:?}?", String::from_utf8_lossy(other)),
    }
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// The port the agent would speak by, once it is there.
fn port() -> anyhow::Result<File> {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            if fs::read_to_string(entry.path().join("name")).unwrap_or_default().trim() == PORT {
                let node: PathBuf = Path::new("/dev").join(entry.file_name());
                if let Ok(port) = File::options().read(true).write(true).open(&node) {
                    return Ok(port);
                }
            }
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state & 0xff) as u8
    };
    (0..1 << 16).map(step).collect()
}

/// Writes it again and again, whether anybody reads or not.
fn flood(to: &mut File, what: &[u8]) -> ! {
    loop {
        if to.write_all(what).is_err() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Answers every beginning of a connection as it must be answered, and then nothing; or zeros without end, all the time.
fn answer(floods: bool) -> anyhow::Result<Infallible> {
    let mut reading = port()?;
    let mut writing = reading.try_clone()?;
    if floods {
        let mut flooding = reading.try_clone()?;
        std::thread::spawn(move || flood(&mut flooding, &[0; 4096]));
    }
    loop {
        if next(&mut reading) != Some(DLE) || next(&mut reading) != Some(b'S') {
            continue;
        }
        let number: Vec<u8> = (0..NUMBER_LEN).filter_map(|_| next(&mut reading)).collect();
        let _ = writing.write_all(&[&[DLE, b'A'][..], &number].concat());
    }
}

fn next(from: &mut File) -> Option<u8> {
    let mut byte = [0];
    if let Ok(1) = from.read(&mut byte) {
        return byte.first().copied();
    }
    // Nobody is there.
    std::thread::park_timeout(Duration::from_millis(10));
    None
}

/// All the memory there is.
fn devour() -> ! {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![1; 1 << 20]);
        std::hint::black_box(&all);
    }
}
