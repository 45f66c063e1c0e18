//! The job files and client configurations users have, unchanged.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails should say where")]

use moat_formats::nomad::{client, parse};
use moat_formats::{Inputs, Nothing};
use moat_model::job::{Job, TaskDriver};

const DOTNET: &str = include_str!("seed/dotnet.nomad");
const GO: &str = include_str!("seed/go.nomad");
const DASHBOARD: &str = include_str!("seed/dashboard.nomad");
const CHROOT: &str = include_str!("seed/client_chroot.hcl");
const RAW_EXEC: &str = include_str!("seed/client_raw_exec.hcl");

fn job(text: &str) -> Job {
    parse("file.nomad", text, &Inputs::default(), &Nothing).unwrap_or_else(|problems| panic!("{problems}"))
}

fn only(job: &Job) -> &moat_model::job::Task {
    assert_eq!((job.groups.len(), job.groups[0].tasks.len()), (1, 1));
    &job.groups[0].tasks[0]
}

#[test]
fn a_file_that_is_one_task_is_a_job_of_its_name() {
    for (text, name, command) in [
        (DOTNET, "consumer", "/usr/bin/dotnet"),
        (GO, "consumer", "local/consumer"),
        (DASHBOARD, "dashboard", "/vagrant/apps/bin/dashboard"),
    ] {
        let job = job(text);
        assert_eq!((job.id.as_str(), job.name.as_str()), (name, name));
        assert_eq!(job.groups[0].name, name);
        let task = only(&job);
        assert_eq!((task.name.as_str(), task.driver, task.config.command.as_str()), (name, TaskDriver::Exec, command));
    }
    let job = job(DOTNET);
    let task = only(&job);
    assert_eq!(task.config.args, ["local/Consumer.dll"]);
    assert_eq!(task.artifacts[0].source, "http://s3.internal.net/consumer-dotnet.zip");
    assert_eq!(task.artifacts[0].destination, "local/");
}

#[test]
fn the_same_within_a_job_and_a_group() {
    for text in [DOTNET, GO, DASHBOARD] {
        let alone = job(text);
        let in_group = job(&format!("group \"g\" {{\n{text}\n}}"));
        let in_job = job(&format!("job \"j\" {{\n{text}\n}}"));
        let whole = job(&format!("job \"j\" {{\n group \"g\" {{\n count = 2\n{text}\n}}\n}}"));
        for other in [&in_group, &in_job, &whole] {
            assert_eq!(only(other), only(&alone));
        }
        assert_eq!((in_group.id.as_str(), in_job.id.as_str(), whole.groups[0].count), ("g", "j", 2));
        assert_eq!(in_job.groups[0].name, only(&alone).name);
    }
}

#[test]
fn client_configurations_are_accepted_unchanged() {
    let config = client::parse("client.hcl", CHROOT).unwrap_or_else(|problems| panic!("{problems}"));
    let paths = config.chroot_env.unwrap();
    assert_eq!(paths.len(), 9);
    assert_eq!(paths["/vagrant"], "/vagrant");
    assert!(config.warnings.is_empty());
    let config = client::parse("client.hcl", RAW_EXEC).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.enabled, config.raw_exec), (Some(true), Some(true)));
    assert!(config.warnings.is_empty());
}
