//! One static program with the behaviours tests need from a workload: it runs in an empty root.
//!
//! `probe try <call>` attempts something a sandbox must refuse and prints `ok` or the name of the errno, so that a test
//! can demand the specific one.

mod attempt;
mod beat;
mod behave;
mod escape;
mod network;

use std::process::ExitCode;

const USAGE: &str = "usage: probe <verb> [arguments]
  exit <code> [after-ms]         end with a code
  say <code> <text> …            print the text, end with the code
  hold [ignore]                  print `ready`, wait for SIGTERM or SIGINT, end with 0; `ignore`: go on
  lines <count> [per-second]     numbered lines on standard output; 0 lines: without end
  spew <bytes>                   that many bytes on standard output, as fast as they are taken
  both                           one line on each output
  echo                           standard input to standard output, then end
  env | ids | fds | args …       print the environment, user and capabilities, open files, arguments
  show <file>                    print it
  names <directory>              print what is in it
  alloc <MiB>                    touch that much memory, print `allocated`, hold
  forks <count>                  start children that hold; print how many started and the errno that stopped it
  tree <depth>                   children in sessions of their own that outlive nothing but a cgroup kill; hold
  spin <ms>                      use the CPU; print the milliseconds of CPU time it got
  beat <ms>                      wake every millisecond; print when it was later than that, and by how many microseconds
  fill <directory> <count> <bytes>  so many files of so many bytes
  churn <directory> [file]       go on writing: a log that grows, the files of `fill` anew, pages anywhere in the file
  affinity                       print the CPUs it may run on
  listen                         print a port of 127.0.0.1; answer each connection with what it says, then `bye`
  web <port> <port>              a web server on loopback (`moat_testkit::web`), and WebSockets that echo; print `ready`
  connect <host:port>            print `ok` or the errno
  try <call> [argument]          attempt it, print `ok` or the errno; `probe try list` names the calls
  tries <'call argument'> …      several of them, each answer after its call";

/// Names under which it stands in for what job files run.
const STAND_INS: [&str; 3] = ["consumer", "dashboard", "dotnet"];

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    let program = if args.is_empty() { String::new() } else { args.remove(0) };
    let name = std::path::Path::new(&program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if STAND_INS.contains(&name) {
        return behave::stand_in(name, &args);
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match behave::run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("probe: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
