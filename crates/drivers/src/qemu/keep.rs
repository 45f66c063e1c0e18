//! Writing a machine's state to a file, and taking it from there.
//!
//! QEMU of Debian 12 knows no files for that, but any descriptor: it is given one that is open. The machine stands still
//! meanwhile, so nothing is copied twice.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::qmp::Qmp;

/// Name of the state's file.
pub(super) const STATE: &str = "state";
/// Bytes a second: as fast as it can, which it is not by itself.
const BANDWIDTH_MAX: u64 = 1 << 37;
/// Gigabytes to a slow disk.
const WITHIN: Duration = Duration::from_secs(600);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes the state of a machine that stands still to the new file `to`.
pub(super) async fn save(qmp: &mut Qmp, to: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, format!("make {}", to.display()), e);
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(to).map_err(failed)?;
    qmp.run("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH_MAX })).await?;
    qmp.give(STATE, file.as_fd()).await?;
    qmp.run("migrate", json!({ "uri": format!("fd:{STATE}") })).await?;
    let until = Instant::now() + WITHIN;
    loop {
        let answer = qmp.run("query-migrate", json!({})).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let said = answer.get("error-desc").and_then(Value::as_str).unwrap_or("nothing was said");
                let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
                return Err(Error::new(ErrorKind::Internal, format!("write the machine's state: {said}")));
            }
            _ if Instant::now() >= until => return Err(late("write the machine's state")),
            _ => sleep(PAUSE).await,
        }
    }
}

/// Takes the state from `from` into a QEMU that waits for it. The machine stands still afterwards.
pub(super) async fn load(qmp: &mut Qmp, from: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::caused_by(ErrorKind::NotFound, format!("open {}", from.display()), e);
    let file = File::open(from).map_err(failed)?;
    qmp.give(STATE, file.as_fd()).await?;
    qmp.run("migrate-incoming", json!({ "uri": format!("fd:{STATE}") })).await?;
    let until = Instant::now() + WITHIN;
    loop {
        match &*qmp.status().await? {
            "inmigrate" if Instant::now() < until => sleep(PAUSE).await,
            "inmigrate" => return Err(late("read the machine's state")),
            "paused" | "prelaunch" => return Ok(()),
            other => {
                let why = format!("read the machine's state: the machine is {other} afterwards");
                return Err(Error::new(ErrorKind::Internal, why));
            }
        }
    }
}

/// Gives up writing a state that nobody waits for any more: a machine cannot go on before.
pub(super) async fn stop_saving(qmp: &mut Qmp) -> Result<()> {
    let saving = |answer: &Value| {
        matches!(
            answer.get("status").and_then(Value::as_str),
            Some("setup" | "active" | "device" | "pre-switchover" | "cancelling")
        )
    };
    if !saving(&qmp.run("query-migrate", json!({})).await?) {
        return Ok(());
    }
    qmp.run("migrate_cancel", json!({})).await?;
    let until = Instant::now() + WITHIN;
    while saving(&qmp.run("query-migrate", json!({})).await?) {
        if Instant::now() >= until {
            return Err(late("give up writing the machine's state"));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

fn late(doing: &str) -> Error {
    Error::new(ErrorKind::Deadline, format!("{doing}: not done after {} s", WITHIN.as_secs()))
}
