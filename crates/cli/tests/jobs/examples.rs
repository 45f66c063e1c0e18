//! `examples/jobs`: what a reader may begin with is what can be declared.

use std::process::Command;

use moat_testkit::workspace_root;

#[test]
fn each_example_can_be_declared() {
    let mut seen = 0;
    for entry in std::fs::read_dir(workspace_root().join("examples/jobs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "hcl") {
            continue;
        }
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("moat"));
        let output = command.args(["job", "validate", "--offline"]).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}
