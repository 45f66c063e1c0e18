//! Job files through the real program: a node, its own NATS server, and the files users have, unchanged.
//!
//! One daemon carries all of it; each chapter leaves nothing running. What the seed's files name is put where they look: a
//! web server under the name of their artifact host, `/vagrant` and `/usr/bin/dotnet` in a mount namespace of the daemon's.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod examples;
mod fetched;
mod seed;
mod series;
mod stage;
mod story;
mod tenants;

use std::path::Path;

use moat_testkit::{is_root, not_run, shared, tool};
use stage::{Stage, Stands};

/// The configuration beside the seed's own: where its artifact host leads, and nothing that this machine may lack.
fn config(stands: &Stands, client: &Path) -> String {
    let web = stands.web;
    let client = client.display();
    format!(
        "[jobs]\nclient_config = \"{client}\"\ndrivers = [\"exec\", \"raw_exec\"]\n\
         [jobs.artifact.hosts]\n\"s3.internal.net\" = \"{web}\"\n[network]\nenabled = false\n[process]\nenabled = true\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_files_run_unchanged_and_the_series_hold() {
    if !is_root() {
        return not_run("jobs", "sandboxes are made as root");
    }
    if tool("nats-server").is_none() || tool("unshare").is_none() {
        return not_run("jobs", "nats-server or unshare is not installed");
    }
    let _host = shared().unwrap();
    let Some(stands) = Stands::build().await else {
        return not_run("jobs", "/vagrant of this machine is not empty, and would be hidden");
    };
    let config = config(&stands, &seed::file("client_chroot.hcl"));
    let stage = Stage::up(&stands, &stands.file("moat.toml", &config)).await;
    seed::all_three_run(&stage).await;
    fetched::g01_fetched_unpacked_and_run(&stage).await;
    fetched::g07_a_checksum_that_differs_is_shown(&stage).await;
    fetched::objects_and_images(&stage, &stands.probe).await;
    series::j05_plans_exit_codes_and_an_index_that_moved(&stage).await;
    series::what_is_stopped_says_so(&stage).await;
    series::j04_drains(&stage).await;
    tenants::neither_reaches_what_is_the_others(&stage).await;
    stage.down().await;

    // The other configuration of the seed, as it is.
    let stage = Stage::up(&stands, &seed::file("client_raw_exec.hcl")).await;
    seed::raw_exec_is_enabled(&stage).await;
    stage.down().await;

    story::runs_on_a_root_of_jails(&stands).await;
}
