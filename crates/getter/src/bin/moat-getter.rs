//! The child as a program of its own, for this crate's tests: what is shipped calls the same function from `moat` itself.
//!
//! Asked for a file named `probe`, it tries what a child that was taken over would try, and says what came of it.

use std::fmt::Write as _;

fn main() -> std::process::ExitCode {
    moat_getter::child::main_with(|name| {
        let mut words = String::new();
        for (index, path) in name.strip_prefix("probe")?.split(',').enumerate().skip(1) {
            let path = path.replace('~', "/");
            let outcome = match path.strip_prefix('+') {
                Some(path) => std::fs::write(path, b"x"),
                None => std::fs::read(&path).map(drop),
            };
            let code = outcome.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0);
            // Writing into a text does not fail.
            let _ = write!(words, "{index}={code} ");
        }
        let environment: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let groups = rustix::process::getgroups().map(|groups| groups.len());
        let _ = write!(words, "env={} ids={ids:?} groups={groups:?} ", environment.join(","));
        let bind = std::net::TcpListener::bind("127.0.0.1:0").map(drop);
        let unix = std::os::unix::net::UnixStream::connect("/run/moat-nothing").map(drop);
        let session = rustix::process::setsid().map(drop);
        let _ = write!(words, "bind={} ", bind.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0));
        let _ = write!(words, "unix={} ", unix.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0));
        let _ = write!(words, "setsid={} ", session.map_or_else(rustix::io::Errno::raw_os_error, |()| 0));
        Some(words)
    })
}
