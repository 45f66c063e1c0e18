//! Looking for the way to the daemon: a port of the machine's serial device, or its vsock device.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use moat_agent::protocol::machine::{AGENT_PORT_NAME, AGENT_VSOCK_PORT};
use moat_model::ErrorKind;
use tokio::io::Interest;
use tokio::time::{Instant, sleep};

use super::port::Device;
use crate::agent::channel::Channel;
use crate::agent::{Failure, Port};

/// Devices are found by the kernel on its own time; a machine that shares a core with many takes a while.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// A port is named after its device was found. If there is another way, it is taken then.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Virtio's number for a device of serial ports.
const SERIAL: &str = "0x0003";
/// Virtio's number for a vsock device.
const VSOCK: &str = "0x0013";

/// Waits for what this machine has.
pub async fn find() -> Result<Channel, Failure> {
    let begun = Instant::now();
    loop {
        if let Some(path) = port() {
            let device = Device::open(&path);
            return Ok(Channel::Port(device.map_err(|e| Failure::internal(&format!("open {}", path.display()), &e))?));
        }
        let waited = begun.elapsed();
        if has_device(VSOCK) && (!has_device(SERIAL) || waited > NAMED_WITHIN) {
            let listening = crate::sys::listen_vsock(AGENT_VSOCK_PORT).and_then(|fd| Port::new(fd, Interest::READABLE));
            return Ok(Channel::Vsock(listening.map_err(|e| Failure::internal("listen on vsock", &e))?));
        }
        if waited > FOUND_WITHIN {
            let what = format!("no port named {AGENT_PORT_NAME} and no vsock device: there is no way to the daemon");
            return Err(Failure::new(ErrorKind::Unavailable, what));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The device file of the port with our name.
fn port() -> Option<PathBuf> {
    let found = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find(|port| {
        fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == AGENT_PORT_NAME)
    })?;
    let path = PathBuf::from("/dev").join(found.file_name());
    path.exists().then_some(path)
}

fn has_device(number: &str) -> bool {
    let Ok(devices) = fs::read_dir("/sys/bus/virtio/devices") else { return false };
    devices
        .flatten()
        .any(|device| fs::read_to_string(device.path().join("device")).is_ok_and(|found| found.trim_end() == number))
}
