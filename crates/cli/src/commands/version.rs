//! `moat version`.

use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// Generation of the Nex control API that is spoken.
const NEX: &str = "0.2.7";

#[derive(Serialize)]
struct Version {
    version: &'static str,
    nex: &'static str,
    target: String,
}

/// Shows the version.
pub fn run(output: &Output) -> Result<(), Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        nex: NEX,
        target: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    };
    if output.json {
        return output.document(&version);
    }
    output.line(&format!("moat {} ({}), speaks Nex {}", version.version, version.target, version.nex))
}
