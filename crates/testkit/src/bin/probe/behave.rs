//! Behaviours of a workload.

use std::io::{self, BufWriter, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{attempt, beat};

/// Runs one verb to its end.
pub fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    match words {
        ["exit", code] => return Ok(ExitCode::from(number::<u8>(code)?)),
        ["exit", code, after] => {
            pause(Duration::from_millis(number(after)?));
            return Ok(ExitCode::from(number::<u8>(code)?));
        }
        ["say", code, rest @ ..] => {
            println!("{}", rest.join(" "));
            return Ok(ExitCode::from(number::<u8>(code)?));
        }
        ["hold"] => hold(false)?,
        ["hold", "ignore"] => hold(true)?,
        ["lines", count] => lines(number(count)?, None)?,
        ["lines", count, rate] => lines(number(count)?, Some(number(rate)?))?,
        ["spew", bytes] => spew(number(bytes)?)?,
        ["both"] => {
            println!("to standard output");
            eprintln!("to standard error");
        }
        ["echo"] => {
            io::copy(&mut io::stdin().lock(), &mut io::stdout().lock())?;
        }
        ["env"] => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        ["ids"] => ids()?,
        ["fds"] => fds()?,
        ["show", path] => print!("{}", std::fs::read_to_string(path).with_context(|| format!("read {path}"))?),
        ["names", path] => {
            let entries = std::fs::read_dir(path).with_context(|| format!("list {path}"))?;
            entries.filter_map(Result::ok).for_each(|entry| println!("{}", entry.file_name().to_string_lossy()));
        }
        ["tries", rest @ ..] => {
            for word in rest {
                let (call, argument) = word.split_once(' ').map_or((*word, None), |(call, rest)| (call, Some(rest)));
                println!("{word}: {}", attempt::attempt(call, argument)?);
            }
        }
        ["args", rest @ ..] => rest.iter().for_each(|word| println!("{word}")),
        ["alloc", mib] => alloc(number(mib)?)?,
        ["forks", count] => forks(number(count)?)?,
        ["tree", depth] => tree(number(depth)?)?,
        ["spin", ms] => spin(Duration::from_millis(number(ms)?))?,
        ["beat", ms] => beat::beat(Duration::from_millis(number(ms)?))?,
        ["fill", dir, count, bytes] => beat::fill(dir.as_ref(), number(count)?, number(bytes)?)?,
        ["churn", dir] => beat::churn(dir.as_ref(), None)?,
        ["churn", dir, file] => beat::churn(dir.as_ref(), Some(file.as_ref()))?,
        ["affinity"] => affinity()?,
        ["listen"] => listen()?,
        ["connect", address] => println!("{}", attempt::outcome(std::net::TcpStream::connect(address))),
        ["web", plain, sockets] => web(number(plain)?, number(sockets)?)?,
        ["try", "list"] => attempt::names().for_each(|name| println!("{name}")),
        ["try", call] => println!("{}", attempt::attempt(call, None)?),
        ["try", call, argument] => println!("{}", attempt::attempt(call, Some(argument))?),
        _ => bail!("no such verb: {}", words.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

fn number<T: std::str::FromStr>(text: &str) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{text:?} is not a number in range"))
}

/// Passing time is what this program is for.
pub fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Waits for SIGTERM or SIGINT; with `ignore`, notes them and goes on.
/// Says as what it was started, with what, and what the file holds that it was given; then holds.
pub fn stand_in(name: &str, args: &[String]) -> ExitCode {
    let words = [&[name.to_owned()], args].concat().join(" ");
    let read = args.last().map(std::fs::read_to_string);
    match read {
        None => println!("{words}"),
        Some(Ok(text)) => println!("{words}: {}", text.trim_end()),
        Some(Err(error)) => {
            println!("{words}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if hold(false).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn hold(ignore: bool) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        println!("ready");
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            println!("{name}");
            if !ignore {
                return Ok(());
            }
        }
    })
}

/// A web server on one port of loopback, WebSockets that echo on another.
fn web(plain: u16, sockets: u16) -> anyhow::Result<()> {
    use futures::StreamExt as _;
    use tokio::net::TcpListener;
    runtime()?.block_on(async {
        let plain = TcpListener::bind(("127.0.0.1", plain)).await?;
        let sockets = TcpListener::bind(("127.0.0.1", sockets)).await?;
        println!("ready");
        loop {
            tokio::select! {
                accepted = plain.accept() => drop(tokio::spawn(moat_testkit::web::answer(accepted?.0))),
                accepted = sockets.accept() => drop(tokio::spawn(async move {
                    let (sink, stream) = tokio_tungstenite::accept_async(accepted?.0).await?.split();
                    stream.take_while(|m| std::future::ready(m.as_ref().is_ok_and(|m| !m.is_close()))).forward(sink).await?;
                    anyhow::Ok(())
                })),
            }
        }
    })
}

/// `line <n>` from 1; each is flushed, because a test counts what arrived.
fn lines(count: u64, per_second: Option<u32>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let begin = Instant::now();
    let last = if count == 0 { u64::MAX } else { count };
    for n in 1..=last {
        writeln!(out, "line {n}")?;
        if let Some(rate) = per_second {
            out.flush()?;
            let due = Duration::from_secs_f64(n as f64 / f64::from(rate.max(1)));
            if let Some(wait) = due.checked_sub(begin.elapsed()) {
                pause(wait);
            }
        }
    }
    Ok(out.flush()?)
}

/// Lines of 100 bytes, so that a reader by lines works too.
fn spew(bytes: u64) -> anyhow::Result<()> {
    let line: Vec<u8> = [b"x".repeat(99), b"\n".to_vec()].concat();
    let block = line.repeat(640);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = bytes;
    while left > 0 {
        let take = left.min(block.len() as u64);
        out.write_all(block.get(..usize::try_from(take)?).unwrap_or(&block))?;
        left -= take;
    }
    Ok(out.flush()?)
}

fn ids() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let wanted =
        ["Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"];
    status.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w))).for_each(|line| println!("{line}"));
    Ok(())
}

/// Open descriptors but the one that reads the list.
fn fds() -> anyhow::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd").context("list /proc/self/fd")? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if !target.ends_with("fd") {
            println!("{} -> {}", entry.file_name().to_string_lossy(), target.display());
        }
    }
    Ok(())
}

fn affinity() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    println!("{}", cpus.trim());
    Ok(())
}

fn alloc(mib: usize) -> anyhow::Result<()> {
    let mut memory: Vec<u8> = Vec::new();
    for _ in 0..mib {
        memory.extend(std::iter::repeat_n(1, 1 << 20));
    }
    println!("allocated {}", std::hint::black_box(&memory).len() >> 20);
    hold(false)
}

fn child(words: &[&str]) -> io::Result<Child> {
    Command::new("/proc/self/exe").args(words).stdin(Stdio::null()).stdout(Stdio::null()).spawn()
}

fn forks(count: usize) -> anyhow::Result<()> {
    let mut children = Vec::new();
    let mut stopped_by = "ok".to_owned();
    for _ in 0..count {
        match child(&["hold"]) {
            Ok(child) => children.push(child),
            Err(error) => {
                stopped_by = attempt::errno_name(&error);
                break;
            }
        }
    }
    println!("started {} {stopped_by}", children.len());
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(())
}

/// A chain of processes, each in a session of its own and deaf to polite signals.
fn tree(depth: u32) -> anyhow::Result<()> {
    // Already a leader: the first of the chain may be one.
    let _ = rustix::process::setsid();
    if depth > 0 {
        child(&["tree", &(depth - 1).to_string()]).context("start the next of the chain")?;
    }
    hold(true)
}

fn spin(wall: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < wall {
        std::hint::black_box(begin);
    }
    // Nanoseconds on a CPU; this process has one thread.
    let used = std::fs::read_to_string("/proc/self/schedstat").context("read /proc/self/schedstat")?;
    let nanoseconds: u64 = number(used.split(' ').next().unwrap_or_default())?;
    println!("{}", nanoseconds / 1_000_000);
    Ok(())
}

/// Serves connections until it is killed.
fn listen() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    for socket in listener.incoming() {
        let socket = socket?;
        // One that breaks concerns whoever made it.
        std::thread::spawn(move || {
            io::copy(&mut &socket, &mut &socket)?;
            (&socket).write_all(b"bye")?;
            socket.shutdown(std::net::Shutdown::Write)
        });
    }
    Ok(())
}
