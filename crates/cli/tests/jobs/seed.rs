//! The files of the seed, as they are.

use std::path::PathBuf;

use moat_testkit::workspace_root;

use crate::stage::{Stage, is_running};

/// One of them.
pub fn file(name: &str) -> PathBuf {
    workspace_root().join("crates/formats/tests/seed").join(name)
}

fn text(name: &str) -> String {
    file(name).display().to_string()
}

/// Each is placed, has fetched what it names, and runs; exit code 0 says that its deployment went well, where it has one.
pub async fn all_three_run(stage: &Stage) {
    // The first two are of one name: the second is the next version of the first.
    for (name, job, says) in [
        ("dotnet.nomad", "consumer", "dotnet local/Consumer.dll: what dotnet runs\nready\n"),
        ("go.nomad", "consumer", "consumer\nready\n"),
        ("dashboard.nomad", "dashboard", "dashboard\nready\n"),
    ] {
        let file = text(name);
        stage.says(&["job", "validate", &file]);
        let told = stage.says(&["job", "run", &file]);
        assert!(told.contains("created"), "{told}");
        stage.until(job, "it runs", is_running).await;
        assert_eq!(stage.writes(job, says).await, says, "{name}");
        let status = stage.says(&["job", "status", job]);
        assert!(status.contains("running"), "{status}");
    }
    // It sees what the configuration shows it, and no more of the machine.
    let looks = ["alloc", "exec", "--job", "dashboard", "--", "/bin/sh", "-c"];
    let see = |script: &'static str| stage.says(&[&looks[..], &[script]].concat());
    let script = "cd /; for d in bin etc usr vagrant root home; do test -e $d && echo $d; done; true";
    assert_eq!(see(script), "bin\netc\nusr\nvagrant\n");
    stage.purge("consumer").await;
    stage.purge("dashboard").await;
}

/// A program of the host, where the operator's file enables that and nothing else.
pub async fn raw_exec_is_enabled(stage: &Stage) {
    let file = stage.job(
        "raw.hcl",
        "job \"raw\" {\n type = \"batch\"\n task \"t\" {\n driver = \"raw_exec\"\n config {\n command = \"/bin/sh\"\n \
         args = [\"-c\", \"echo on the host as $(id -u)\"]\n }\n }\n}\n",
    );
    stage.says(&["job", "run", &file]);
    assert_eq!(stage.writes("raw", "host").await, "on the host as 0\n");
    stage.purge("raw").await;
}
