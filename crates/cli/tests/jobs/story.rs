//! The story of E3 as a job: a NATS server, a subscriber and a publisher that comes after them, as tasks of one group. Their root
//! is one that jails have too, by `host_paths`, which is `chroot_env`: both halves stand on the same driver.

use std::path::{Path, PathBuf};

use moat_testkit::{article, busybox, not_run, static_bin, tool};

use crate::stage::{Stage, Stands, id, is_running};

/// What the article's packages are made of here.
struct Programs {
    server: PathBuf,
    client: PathBuf,
    busybox: PathBuf,
}

fn programs() -> Option<Programs> {
    let client = tool("nats").unwrap_or_else(|| static_bin("nats").unwrap());
    Some(Programs { server: tool("nats-server")?, client, busybox: busybox()? })
}

/// What the job fetches, under the names it asks for.
pub fn served() -> Vec<(String, Vec<u8>)> {
    let Some(programs) = programs() else { return Vec::new() };
    [("/nats-server", programs.server), ("/nats", programs.client)]
        .map(|(name, path)| (name.to_owned(), std::fs::read(path).unwrap()))
        .into()
}

/// On a daemon of its own, whose networks are on.
pub async fn runs_on_a_root_of_jails(stands: &Stands) {
    let (Some(programs), Some(_)) = (programs(), tool("nft")) else {
        return not_run("E3 as a job", "nft or busybox is not installed");
    };
    let root = stands.dir.path().join("root");
    article::release(&root, &programs.busybox, &programs.server, &programs.client).unwrap();
    let stage = Stage::up(stands, &stands.file("story.toml", &config(stands, &root))).await;
    stage.says(&["jail", "bootstrap", "story", "--from", &root.display().to_string()]);
    stage.says(&["jail", "create", "same", "story"]);

    stage.says(&["job", "run", &stage.job("story.hcl", &story())]);
    let running = stage.until("story", "it runs", is_running).await;
    let said = |task: &str| {
        let said = stage.moat(&["alloc", "logs", "--stdout", id(&running), task]);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    stage.when("five messages have come", async || said("subscriber").contains("message 5 - ")).await;
    let text = said("subscriber");
    let messages: Vec<_> = text.lines().filter(|line| line.starts_with("message ")).collect();
    assert_eq!(messages.len(), 5, "{text}");
    for (number, message) in (1..).zip(&messages) {
        let stamp = message.strip_prefix(&format!("message {number} - ")).unwrap_or_else(|| panic!("{text}"));
        assert!(stamp.parse::<u64>().is_ok(), "the braces reached the program: {text}");
    }
    let from = said("publisher");
    let of_the_jail = stage.says(&["jail", "cmd", "same", "cat", "/etc/os-release"]);
    assert!(from.starts_with("ID=story\n") && of_the_jail.contains("ID=story\n"), "{from} {of_the_jail}");
    assert!(from.contains("wrote") && !root.join("etc/x").exists(), "what it writes there is its own: {from}");
    stage.purge("story").await;
    stage.says(&["jail", "destroy", "-y", "--force", "same"]);
    stage.down().await;
}

/// Tasks find that root's directories where theirs would be, and nothing of the host's.
fn config(stands: &Stands, root: &Path) -> String {
    let paths = ["bin", "etc", "opt"].map(|name| format!("\"{}\" = \"/{name}\"\n", root.join(name).display()));
    format!(
        "[jobs]\ndrivers = [\"exec\"]\n[jobs.artifact.hosts]\n\"s3.internal.net\" = \"{}\"\n[container.host_paths]\n{}",
        stands.web,
        paths.concat()
    )
}

fn task(name: &str, program: &str, config: &str, more: &str) -> String {
    format!(
        " task \"{name}\" {{\n driver = \"exec\"\n artifact {{\n source = \"http://s3.internal.net/{program}\"\n mode = \"file\"\n \
         destination = \"local/{program}\"\n }}\n config {{\n{config} }}\n{more} }}\n"
    )
}

fn story() -> String {
    let server = "command = \"local/nats-server\"\n args = [\"-a\", \"0.0.0.0\", \"-p\", \"4222\"]\n";
    let subscriber =
        "command = \"local/nats\"\n args = [\"--server\", \"${NOMAD_ADDR_server_nats}\", \"sub\", \"my.topic\"]\n";
    // Whoever subscribes late gets nothing, so the publisher waits until the subscriber says that it has.
    let script = "cat /etc/os-release; touch /etc/x && echo wrote; chmod a+x local/nats; \
         until grep -q Subscribing /alloc/logs/subscriber.stdout.0; do sleep 0.1; done; \
         exec local/nats --server $NOMAD_ADDR_server_nats pub my.topic \
         \\\"message {{.Count}} - {{.TimeStamp}}\\\" --count 5";
    let publisher = format!("command = \"/bin/sh\"\n args = [\"-c\", \"{script}\"]\n");
    let hook = |name: &str| format!(" lifecycle {{\n hook = \"{name}\"\n sidecar = {}\n }}\n", name == "prestart");
    let service = " service {\n name = \"nats\"\n port = \"nats\"\n task = \"server\"\n check {\n type = \"tcp\"\n \
         interval = \"1s\"\n timeout = \"1s\"\n }\n }\n";
    format!(
        "job \"story\" {{\n group \"g\" {{\n network {{\n port \"nats\" {{\n to = 4222\n }}\n }}\n{service}{}{}{} }}\n}}\n",
        task("server", "nats-server", server, &hook("prestart")),
        task("subscriber", "nats", subscriber, ""),
        task("publisher", "nats", &publisher, &hook("poststart")),
    )
}
