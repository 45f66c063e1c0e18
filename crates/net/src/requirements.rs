//! What a host must have for a network, beside links: the kernel's rules, and nobody else's that are in the way.

use std::io::Write as _;
use std::process::{Command, Stdio};

use moat_engine::driver::{Need, Requirement};

use crate::NetConfig;

/// Rules of each kind that is used, in a table that is never made: `nft -c` asks the kernel and changes nothing.
const SAMPLE: &str = "\
table inet moat-probe {
  set s { type ipv4_addr . mark; }
  set r { type ipv4_addr; flags interval; }
  set t { type ipv4_addr; flags timeout; }
  chain f {
    type filter hook forward priority 0;
    ip daddr . meta mark @s accept
    ip daddr @t ct direction reply accept
    ip daddr @r drop
    limit rate over 5/second drop
    tcp flags syn ct count over 5 drop
  }
  chain p { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; }
}
";

/// Everything but links, met or not. Changes nothing.
pub(crate) fn of_rules(config: &NetConfig) -> Vec<Requirement> {
    vec![nft(), others(config)]
}

fn requirement(name: &str, need: Need, outcome: Result<String, String>, fix: String) -> Requirement {
    let met = outcome.is_ok();
    let fact = outcome.unwrap_or_else(|e| e);
    Requirement { name: name.to_owned(), need, met, fact, fix: (!met).then_some(fix) }
}

fn nft() -> Requirement {
    let fix = "install nftables 1.0 or newer, and modprobe nf_tables nft_ct nft_limit nft_connlimit nft_masq nft_nat";
    let outcome = checked(SAMPLE).map(|()| "nft and the kernel take every kind of rule that is used".to_owned());
    requirement("network rules", Need::Required, outcome, fix.to_owned())
}

fn checked(rules: &str) -> Result<(), String> {
    let mut child = Command::new("nft")
        .args(["-c", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("nft: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(|e| format!("nft: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("nft: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("nft -c: {}", said.lines().next().unwrap_or("failed").trim()))
}

/// A packet has to pass every table. What another drops as it is forwarded is dropped, whatever ours says.
fn others(config: &NetConfig) -> Requirement {
    let output = Command::new("nft").args(["-j", "list", "chains"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let chains = match output {
        Ok(output) if output.status.success() => dropping(&output.stdout, &config.name),
        // Said by the requirement before.
        _ => Vec::new(),
    };
    let name = &config.name;
    let outcome = match chains.first() {
        None => Ok("no other table drops forwarded packets by its policy".to_owned()),
        Some(_) => Err(format!("dropped by policy, too: packets forwarded through {}", chains.join(", "))),
    };
    let advice = |chain: &String| {
        // Docker asks its users to put theirs there; what is in FORWARD itself it moves about.
        let chain = if chain == "ip filter FORWARD" && docker() { "ip filter DOCKER-USER" } else { chain };
        format!(
            "nft insert rule {chain} iifname \"{name}*\" accept; nft insert rule {chain} oifname \"{name}*\" accept"
        )
    };
    let fix = chains.iter().map(advice).collect::<Vec<_>>().join("; ");
    requirement("network rules of others", Need::Optional, outcome, fix)
}

fn docker() -> bool {
    let asked = Command::new("nft").args(["list", "chain", "ip", "filter", "DOCKER-USER"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// `family table chain` of base chains for forwarded packets whose policy is to drop them.
fn dropping(json: &[u8], own: &str) -> Vec<String> {
    let listed: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let entries = listed.get("nftables").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let chain = |entry: &serde_json::Value| {
        let chain = entry.get("chain")?;
        let text = |key: &str| chain.get(key).and_then(serde_json::Value::as_str);
        let (family, table, name) = (text("family")?, text("table")?, text("name")?);
        let drops = text("hook") == Some("forward") && text("policy") == Some("drop");
        // Another node of this program knows its own links only, and lets the rest be.
        (drops && table != own && matches!(family, "ip" | "inet")).then(|| format!("{family} {table} {name}"))
    };
    entries.iter().filter_map(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_another_table_is_found() {
        let json = br#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
            {"chain":{"family":"ip","table":"filter","name":"FORWARD","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
            {"chain":{"family":"inet","table":"moat","name":"forward","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"INPUT","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
            {"chain":{"family":"ip","table":"filter","name":"DOCKER-USER","handle":4}}]}"#;
        assert_eq!(dropping(json, "moat"), ["ip filter FORWARD"]);
        assert!(dropping(b"", "moat").is_empty() && dropping(b"{}", "moat").is_empty());
    }

    #[test]
    fn the_sample_is_taken_where_nft_is() {
        if Command::new("nft").arg("--version").output().is_err() {
            moat_testkit::not_run("nft sample", "nft is not installed");
            return;
        }
        let found = nft();
        assert_eq!(found.fix.is_some(), !found.met, "{found:?}");
        if moat_testkit::is_root() {
            assert!(found.met, "{found:?}");
        }
    }
}
