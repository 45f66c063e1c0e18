//! Where things are inside a jail.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The directory that the node shows in every jail; the same as in the library.
pub const DIR: &str = "/.moat";

/// The `PATH` of services.
pub const PATH: &str = "/.moat/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names of services that somebody stopped on purpose; the same as in rc.subr.
pub const STOPPED: &str = "/run/moat/stopped";

/// The process of a jail's main program; the same as in rc.subr.
pub const INIT_PID: &str = "/run/moat/init.pid";

/// A pipe whose lines come out on the jail's console.
pub const CONSOLE: &str = "/run/moat/console";

/// Set in the environment of scripts whose outputs are the jail's console already.
pub const ON_CONSOLE: &str = "MOAT_CONSOLE";

/// FreeBSD's own places, for scripts that name them in full, and one that comes early in the `PATH` of every login shell.
const LINKS: [(&str, &str); 16] = [
    ("/etc/rc.subr", "rc.subr"),
    ("/etc/defaults/rc.conf", "defaults/rc.conf"),
    ("/usr/sbin/pw", "bin/pw"),
    ("/usr/sbin/sysrc", "bin/sysrc"),
    ("/usr/sbin/service", "bin/service"),
    ("/usr/sbin/daemon", "bin/daemon"),
    ("/usr/sbin/nologin", "bin/nologin"),
    ("/usr/sbin/pkg", "bin/pkg"),
    ("/sbin/nologin", "bin/nologin"),
    ("/sbin/rcorder", "bin/rcorder"),
    ("/usr/local/sbin/pw", "bin/pw"),
    ("/usr/local/sbin/sysrc", "bin/sysrc"),
    ("/usr/local/sbin/service", "bin/service"),
    ("/usr/local/sbin/daemon", "bin/daemon"),
    ("/usr/local/sbin/pkg", "bin/pkg"),
    ("/usr/local/sbin/rcorder", "bin/rcorder"),
];

/// Makes the links and directories that are not there. What is there stays: it is the root's own, perhaps a package's.
///
/// Failures are left out: somebody without rights may call `service status`, and a script that needs a link says so itself.
pub fn furnish() {
    for (place, target) in LINKS {
        let place = Path::new(place);
        if place.symlink_metadata().is_ok() {
            continue;
        }
        if let Some(parent) = place.parent() {
            let _ = fs::create_dir_all(parent);
        }
        let _ = symlink(Path::new(DIR).join(target), place);
    }
    for dir in ["/usr/local/etc/rc.d", "/var/run", STOPPED] {
        let _ = fs::create_dir_all(dir);
    }
    let conf = Path::new("/etc/rc.conf");
    if conf.symlink_metadata().is_err()
        && let Ok(text) = fs::read(Path::new(DIR).join("rc.conf"))
    {
        let _ = crate::edit::replace(conf, &text, 0o644);
    }
}
