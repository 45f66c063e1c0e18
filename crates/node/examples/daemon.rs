//! A node without a command line around it, for tests that kill it: `daemon <config.toml>`.

use std::path::Path;
use std::process::ExitCode;

use moat_node::config::NodeConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::new("info,async_nats=warn");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: daemon <config.toml>");
        return ExitCode::from(2);
    };
    match run(Path::new(&path)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("daemon: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(path: &Path) -> Result<(), String> {
    let config = NodeConfig::load(path).map_err(|e| e.to_string())?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let ask = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        ask.cancel();
    });
    moat_node::daemon::run(config, shutdown).await.map_err(|e| e.chain())
}
